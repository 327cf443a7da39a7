"""Measures memory and time of evaluating a test of many images, up to the report on disk.

    OMP_NUM_THREADS=1 python -m benchmarks.evaluation_memory --images 20000

Maps and masks of 256x256 of four products are made one after the other, added to the states of the evaluator and the
report, and freed. Then all metrics, intervals, tables, pages and files are made. A row is appended to
``benchmarks/results/evaluation.csv``:

- ``peak_mb``: peak resident memory above that of the process before the first image, in MiB.
- ``process_mb``: peak resident memory of the whole process, including the libraries.
- ``add_seconds``, ``report_seconds``: processor time of one thread, without making the images.
- ``report_mb``: size of the files of the report.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from benchmarks.harness import append, log, memory_mb, start_peak
from benchmarks.metrics_memory import make_image

from anomalib_unias.metrics import PixelMetrics, summarize
from anomalib_unias.metrics.collection import Collection
from anomalib_unias.metrics.scored_image import ScoredImage
from anomalib_unias.report.gallery import Galleries
from anomalib_unias.report.page import Report, write_report
from anomalib_unias.report.pictures import draw_picture

PRODUCTS = ("bolt", "cable", "lid", "plate")
THRESHOLD = 0.99
MAX_ROWS = 2**17


def make_images(count: int) -> Iterator[ScoredImage]:
    """Make images of all products in turn; a third of them are defective."""
    for index in range(count):
        pixels, mask = make_image(index)
        # Not the maximum of 65,536 noisy values, which would be meaningless.
        score, product = float(np.quantile(pixels, 0.999)), PRODUCTS[index // 3 % len(PRODUCTS)]
        kind = "disc" if mask.any() else "good"
        yield ScoredImage(
            category=product,
            image_path=f"{product}/test/{kind}/{index:06}.png",
            label=int(mask.any()),
            score=score,
            normalized_score=score,
            predicted=float(score > THRESHOLD),
            anomaly_map=torch.from_numpy(pixels),
            mask=torch.from_numpy(mask),
            predicted_mask=torch.from_numpy(pixels > THRESHOLD),
        )


def evaluate(count: int, folder: Path) -> dict[str, float]:
    """Evaluate images as a test with ``EvaluationReport`` does.

    Args:
        count (int): Number of images.
        folder (Path): Folder of the report.

    Returns:
        dict[str, float]: Seconds.
    """
    collection, galleries = Collection(PixelMetrics, "sketch"), Galleries(4, THRESHOLD)
    adding, started = 0.0, time.perf_counter()
    for number, image in enumerate(make_images(count), start=1):
        before = time.process_time()
        collection.add(image)
        picture = torch.zeros(3, 256, 256), image.anomaly_map, image.mask
        galleries.add(image, lambda picture=picture: draw_picture(*picture))
        adding += time.process_time() - before
        if time.perf_counter() - started > 60:
            started = time.perf_counter()
            log(f"{number} images, {memory_mb('VmRSS'):.0f} MiB")
    before = time.process_time()
    images, tables = collection.images(), collection.pixel_tables(torch.device("cpu"))
    results = summarize(images, tables, 0.3, MAX_ROWS)
    del collection, images
    settings = {"model": {"class": "benchmark"}, "data": {"name": "discs"}}
    write_report(Report(results, THRESHOLD, galleries.of_all_processes(), settings), folder)
    return {"add_seconds": adding, "report_seconds": time.process_time() - before}


def main() -> None:
    """Measure, and append a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        evaluate(12, Path(first))  # so that lazy imports do not count
        before = start_peak()
        seconds = evaluate(options.images, Path(second))
        peak = memory_mb("VmHWM")
        size = sum(file.stat().st_size for file in Path(second).rglob("*") if file.is_file())
    row = {
        "images": options.images,
        "peak_mb": round(peak - before),
        "process_mb": round(peak),
        **{name: round(value) for name, value in seconds.items()},
        "report_mb": round(size / 2**20, 1),
    }
    append(options.output / "evaluation.csv", pd.DataFrame([row]))
    log(str(row))


if __name__ == "__main__":
    main()
