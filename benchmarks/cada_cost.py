"""Measures the cost of CADA: fitting for several sizes of data sets, and inference per image in OpenVINO.

    python -m benchmarks.cada_cost --checkpoint unias_lite_with_cada.ckpt

The checkpoint is a UniAS with a fitted ``CadaPostProcessor``.

- Fitting: random features with the shapes of this model for normal images, a tenth of them held out, and ``max_steps``
  as published. 8,659 images of 12 categories (VisA) for all calibrations; 36,000 of 30 (Real-IAD) and 150,000 of 200
  for the default, which uses at most 4,096 images of each part. Peak memory is that of the process above its memory
  before the features were made; ``kept`` is the size of the calibration in a checkpoint or export.
- Before fitting, the model runs on the images once: batches of 16 through the network in PyTorch, without reading
  files.
- Inference: one image, with the network only, with thresholds and normalisation, and also with CADA, in turns.

Columns of benchmarks/results/cada_cost.csv: ``name,value,unit,spread``; ``spread`` is the interquartile range.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from benchmarks.harness import memory_mb, result_of, start_peak
from benchmarks.speed import Predictor, compiled, in_turns

from anomalib_unias import CadaPostProcessor, UniAS
from anomalib_unias.post_processing import OrderPreservingPostProcessor
from anomalib_unias.post_processing.calibration_data import CalibrationData, map_statistics
from anomalib_unias.post_processing.calibration_run import MOST_IMAGES
from anomalib_unias.post_processing.clusters import image_descriptors
from anomalib_unias.post_processing.encoders import FeatureTap, find_feature_layer
from anomalib_unias.post_processing.fitting import fit_calibration
from anomalib_unias.post_processing.regression import shrink

OUTPUT = Path("benchmarks/results/cada_cost.csv")
_SIZES = {8659: 12, 36_000: 30, 150_000: 200}
VARIANTS = {
    "cada": {"variant": "cada"},
    "cada, regressor": {"variant": "cada", "predictor": "regressor"},
    "cada_b": {"variant": "cada_b"},
    "cada_a": {"variant": "cada_a"},
}


def random_data(checkpoint: Path, images: int, *, all_images: bool) -> CalibrationData:
    """Make features of the right shapes, and statistics that depend on the category, for all images or those used."""
    model = UniAS.load_from_checkpoint(checkpoint).eval()
    tap = FeatureTap()
    find_feature_layer(model).register_forward_hook(tap)
    with torch.no_grad():
        output = model.model(torch.rand(1, 3, *model.model.image_size))
    features = tap.take(1)
    generator = torch.Generator().manual_seed(0)
    unseen = torch.arange(images) % 10 == 0
    if not all_images:
        chosen = [torch.where(part)[0][:MOST_IMAGES] for part in (~unseen, unseen)]
        unseen = unseen[torch.cat(chosen)]
    count, categories = len(unseen), _SIZES[images]
    category = torch.randint(categories, (count,), generator=generator)
    centres = torch.rand(categories, image_descriptors(features).shape[1], generator=generator)
    noise = 0.3 * torch.rand(count, centres.shape[1], generator=generator)
    level = (1 + category)[:, None] * map_statistics(output)
    statistics = level * (1 + 0.2 * torch.rand(count, 1, generator=generator))
    maps = torch.rand(count, *shrink(features[-1]).shape[1:], generator=generator).half() if all_images else None
    return CalibrationData(
        descriptors=centres[category] + noise,
        statistics=statistics,
        scores=statistics[:, 1],
        categories=[str(int(number)) for number in category],
        unseen=unseen,
        maps=maps,
    )


def fit(checkpoint: Path, variant: str, images: int) -> None:
    """Fit one variant; print seconds, peak memory in megabytes and the size of the calibration in megabytes."""
    options = CadaPostProcessor(**VARIANTS[variant]).options()
    before = start_peak()
    data = random_data(checkpoint, images, all_images=not options.by_clusters)
    started = time.perf_counter()
    calibration = fit_calibration(data, options)
    size = sum(tensor.nbytes for tensor in calibration.state_dict().values()) / 1e6
    print(json.dumps([time.perf_counter() - started, memory_mb("VmHWM") - before, size]))


def collect_statistics(checkpoint: Path, runs: int = 10, batch: int = 16) -> tuple[str, float, str, float]:
    """Measure the seconds to run the model on 1,000 images and compute their descriptors and statistics."""
    model = UniAS.load_from_checkpoint(checkpoint).eval()
    tap = FeatureTap()
    find_feature_layer(model).register_forward_hook(tap)
    images = torch.rand(batch, 3, *model.model.image_size)

    def collect() -> None:
        tap.clear()
        map_statistics(model.model(images))
        image_descriptors(tap.take(batch))

    with torch.no_grad():
        seconds = in_turns([collect], runs)[:, 0]
    return "look at 1000 images", *median_and_spread(1000 / batch * seconds, "s")


def inference(checkpoint: Path, runs: int) -> list[tuple[str, float, str, float]]:
    """Measure the latency of the network, with post-processing, and with CADA; overheads in per cent."""
    model = UniAS.load_from_checkpoint(checkpoint).eval()
    plain = OrderPreservingPostProcessor()
    for buffer in plain.buffers():
        buffer.fill_(0.5)
    kinds = {"network": None, "with post-processing": plain, "with CADA": model.post_processor}
    requests = []
    for kind in kinds.values():
        model.post_processor = kind
        requests.append(compiled(Predictor(model), 1).create_infer_request())
    images = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
    seconds = in_turns([lambda request=request: request.infer([images]) for request in requests], runs)
    rows = [
        (f"inference, {name}", *median_and_spread(1e3 * column, "ms"))
        for name, column in zip(kinds, seconds.T, strict=True)
    ]
    for name, column, base in (("CADA", 2, 1), ("post-processing and CADA", 2, 0)):
        overhead = 100 * (seconds[:, column] / seconds[:, base] - 1)
        rows.append((f"inference, overhead of {name}", *median_and_spread(overhead, "%")))
    return rows


def median_and_spread(values: np.ndarray, unit: str) -> tuple[float, str, float]:
    """Compute median, unit and interquartile range."""
    low, high = np.percentile(values, (25, 75))
    return round(float(np.median(values)), 3), unit, round(float(high - low), 3)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--fit", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.fit:
        fit(options.checkpoint, options.fit[0], int(options.fit[1]))
        return
    rows = [collect_statistics(options.checkpoint), *inference(options.checkpoint, options.runs)]
    for variant, images in [*((name, min(_SIZES)) for name in VARIANTS), *(("cada", size) for size in _SIZES)][1:]:
        # A separate process, to measure its peak memory.
        seconds, megabytes, size_mb = result_of("benchmarks.cada_cost", *sys.argv[1:], "--fit", variant, images)
        rows.append((f"fit {variant}, {images} images", round(seconds, 2), "s", 0.0))
        rows.append((f"fit {variant}, {images} images, peak memory", round(megabytes), "MB", 0.0))
        rows.append((f"fit {variant}, {images} images, kept", round(size_mb, 3), "MB", 0.0))
        print(rows[-3:], flush=True)
    table = pd.DataFrame(rows, columns=["name", "value", "unit", "spread"])
    table.to_csv(OUTPUT, index=False)
    print(table.to_string(index=False))
    print(f"Written to {OUTPUT}")


if __name__ == "__main__":
    main()
