"""Compares memory and time of the bounded pixel metrics with anomalib's.

Every measurement is a separate process: maps and masks of 256x256 are made batch by batch, given to the metrics, and
freed. ``anomalib`` computes AUPR, AUPRO and F1AdaptiveThreshold; ``ours`` computes PixelMetrics (seven metrics,
including these) and F1Threshold. The results are written to ``benchmarks/results/metrics.csv``:

- ``peak_mb``: peak resident memory above that of the process before the first image, in MiB.
- ``seconds``: processor time of one thread in ``update`` and ``compute``, without making the images.
- ``max_error``: largest difference from the exact value of the average precision, of the AUPRO, and of the best F1
  score (the one at the returned threshold). The exact values are computed here, independently of both.

A process that needs more than ``--limit-gb`` is stopped; its row has no values.

    OMP_NUM_THREADS=1 python -m benchmarks.metrics_memory
"""

import argparse
import csv
import json
import math
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPR, AUPRO, F1AdaptiveThreshold
from benchmarks.harness import memory_mb, result_of, start_peak
from scipy import ndimage

from anomalib_unias.metrics import F1Threshold, PixelMetrics

RESULTS = Path(__file__).parent / "results" / "metrics.csv"
COLUMNS = ("implementation", "images", "peak_mb", "seconds", "max_error")
SIZE, BATCH, FPR_LIMIT = 256, 8, 0.3
FIELDS = ["anomaly_map", "gt_mask"]


def make_image(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Make coarse and fine noise in (0, 1), with a brighter disc as the defect of every third image."""
    rng = np.random.default_rng(index)
    coarse = np.kron(rng.standard_normal((16, 16)), np.ones((16, 16)))
    level = coarse + rng.standard_normal((SIZE, SIZE))
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    if index % 3 == 0:
        (row, column), radius = rng.integers(30, SIZE - 30, 2), rng.integers(5, 30)
        rows, columns = np.ogrid[:SIZE, :SIZE]
        mask = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
        level = level + (1 + 4 * rng.random()) * mask
    return (1 / (1 + np.exp(-level))).astype(np.float32), mask


def make_batches(images: int) -> Iterator[ImageBatch]:
    """Make images in batches as anomalib's evaluator gets them."""
    for start in range(0, images, BATCH):
        maps, masks = zip(*map(make_image, range(start, min(start + BATCH, images))), strict=True)
        yield ImageBatch(
            image=torch.zeros(len(maps), 3, 1, 1),
            anomaly_map=torch.from_numpy(np.stack(maps)),
            gt_mask=torch.from_numpy(np.stack(masks)),
        )


class Ours:
    """The metrics of this package."""

    def __init__(self) -> None:
        self.pixels, self.threshold = PixelMetrics(), F1Threshold(fields=FIELDS)

    def update(self, batch: ImageBatch) -> None:
        """Add a batch."""
        self.pixels.update(batch.anomaly_map, batch.gt_mask)
        self.threshold.update(batch)

    def compute(self) -> dict[str, float]:
        """Average precision, AUPRO and threshold."""
        values = self.pixels.compute()
        return {
            "ap": float(values["pixel_ap"]),
            "aupro": float(values["aupro"]),
            "threshold": float(self.threshold.compute()),
        }


class Anomalib:
    """The metrics of anomalib."""

    def __init__(self) -> None:
        kinds = {"ap": AUPR, "aupro": AUPRO, "threshold": F1AdaptiveThreshold}
        self.metrics = {name: kind(fields=FIELDS) for name, kind in kinds.items()}

    def update(self, batch: ImageBatch) -> None:
        """Add a batch."""
        for metric in self.metrics.values():
            metric.update(batch)

    def compute(self) -> dict[str, float]:
        """Average precision, AUPRO and threshold."""
        return {name: float(metric.compute()) for name, metric in self.metrics.items()}


IMPLEMENTATIONS = {"ours": Ours, "anomalib": Anomalib}


def measure_here(implementation: str, images: int) -> dict[str, float]:
    """Run one implementation in this process."""
    torch.set_num_threads(1)
    next(make_batches(1))
    metrics = IMPLEMENTATIONS[implementation]()
    before, seconds = start_peak(), 0.0
    for batch in make_batches(images):
        start = time.process_time()
        metrics.update(batch)
        seconds += time.process_time() - start
    start = time.process_time()
    values = metrics.compute()
    seconds += time.process_time() - start
    return {"peak_mb": memory_mb("VmHWM") - before, "seconds": seconds, **values}


def measure(implementation: str, images: int, limit_gb: float) -> dict[str, float] | None:
    """Run one implementation in a separate process; ``None`` if it was stopped."""
    # Return large freed blocks to the system at once: otherwise the peak includes what the allocator keeps.
    return result_of(
        "benchmarks.metrics_memory",
        *("--measure", implementation, "--images", images),
        limit_gb=limit_gb,
        environment={"MALLOC_MMAP_THRESHOLD_": str(2**20)},
    )


@cache
def exact_values(images: int) -> dict[str, float]:
    """Compute average precision, AUPRO and best F1 score, from the ranks of the defective pixels among all others."""
    scores, weights, normal, regions = [], [], 0, 0
    for index in range(images):
        anomaly_map, mask = make_image(index)
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        scores.append(anomaly_map[mask])
        weights.append(1 / np.bincount(labels.ravel())[labels[mask]])
        normal, regions = normal + int((~mask).sum()), regions + count
    thresholds, index_of = np.unique(np.concatenate(scores), return_inverse=True)
    above, at_least = np.zeros(len(thresholds) + 1), np.zeros(len(thresholds) + 1)
    for index in range(images):
        anomaly_map, mask = make_image(index)
        others = np.sort(anomaly_map[~mask])
        above += np.bincount(np.searchsorted(thresholds, others, side="left"), minlength=len(above))
        at_least += np.bincount(np.searchsorted(thresholds, others, side="right"), minlength=len(above))

    # From the highest defective score down: false positives above it and at least as high, and true positives.
    fp_above, fp = np.cumsum(above[:0:-1]), np.cumsum(at_least[:0:-1])
    tp = np.cumsum(np.bincount(index_of)[::-1])
    overlap = np.cumsum(np.bincount(index_of, weights=np.concatenate(weights))[::-1]) / regions
    rate = np.append(np.column_stack([fp_above, fp]).ravel() / normal, 1)
    height = np.append(np.column_stack([np.append(0, overlap[:-1]), overlap]).ravel(), 1)
    inside = rate <= FPR_LIMIT
    rate_inside = np.append(rate[inside], FPR_LIMIT)
    height_inside = np.append(height[inside], np.interp(FPR_LIMIT, rate, height))
    return {
        "ap": float(np.sum(np.diff(tp, prepend=0) / tp[-1] * tp / (tp + fp))),
        "aupro": float(np.trapezoid(height_inside, rate_inside) / FPR_LIMIT),
        "f1": float(np.max(2 * tp / (tp + fp + tp[-1]))),
    }


def f1_at(images: int, threshold: float) -> float:
    """Compute the F1 score of ``score >= threshold``, which anomalib's threshold maximises."""
    counts = np.zeros(2)
    for index in range(images):
        anomaly_map, mask = make_image(index)
        predicted = anomaly_map >= np.float32(threshold)
        counts += 2 * (predicted & mask).sum(), predicted.sum() + mask.sum()
    return float(counts[0] / counts[1])


def main() -> None:
    """Measure all, print the rows and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[250, 1000, 4000])
    parser.add_argument("--limit-gb", type=float, default=10)
    parser.add_argument("--measure", choices=IMPLEMENTATIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure_here(arguments.measure, arguments.images[0])))
        return

    rows = []
    for images in arguments.images:
        for implementation in IMPLEMENTATIONS:
            print(f"{implementation}, {images} images ...", flush=True)
            found = measure(implementation, images, arguments.limit_gb)
            if found is None:
                print(f"{implementation}, {images} images: stopped at {arguments.limit_gb:g} GiB", flush=True)
                rows.append((implementation, images, math.nan, math.nan, math.nan))
                continue
            found["f1"] = f1_at(images, found["threshold"])
            error = max(abs(found[name] - value) for name, value in exact_values(images).items())
            values = round(found["peak_mb"], 1), round(found["seconds"], 2), f"{error:.2e}"
            rows.append((implementation, images, *values))
            print(dict(zip(COLUMNS, rows[-1], strict=True)), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
