"""Measures the time per image of the example in ``examples/ray`` with one and with two workers, on this machine.

    pip install "anomalib-unias[ray]" && python -m benchmarks.ray_throughput

Both use the same images and export, in turns: UniAS-lite (random weights) in FP32. A job of ``--images`` images and one
of three times as many are timed: their difference does not include the start of the workers, which takes some seconds
once. Two rows are written to benchmarks/results/speed.csv: milliseconds per image, and seconds of the start, of one
worker and of two.
"""

import time
from itertools import cycle, islice
from pathlib import Path
from runpy import run_path
from shutil import copy, rmtree
from tempfile import TemporaryDirectory

import numpy as np
from benchmarks.line import line_parser, preset_and_images
from benchmarks.speed import record

ROOT = Path(__file__).parents[1]
WORKERS = (1, 2)


def main() -> None:
    """Command line."""
    options = line_parser(__doc__, turns=5, images=200).parse_args()
    import ray

    model, images = preset_and_images(options)
    inspect_images = run_path(str(ROOT / "examples" / "ray" / "inspect_images.py"))["inspect_images"]
    ray.init(include_dashboard=False, log_to_driver=False)
    counts = (options.images, 3 * options.images)
    seconds = np.empty((options.turns, len(WORKERS), len(counts)))
    with TemporaryDirectory() as folder:
        for count in counts:
            (Path(folder) / str(count)).mkdir()
            for index, path in enumerate(islice(cycle(images), count)):
                copy(path, Path(folder) / str(count) / f"{index:05}{path.suffix}")
        for turn, workers, job in np.ndindex(seconds.shape):
            started = time.perf_counter()
            results = Path(folder) / "results"
            inspect_images(str(model), str(Path(folder) / str(counts[job])), str(results), WORKERS[workers])
            seconds[turn, workers, job] = time.perf_counter() - started
            rmtree(results)
            print(f"turn {turn}, {WORKERS[workers]} workers, {counts[job]} images: {seconds[turn, workers, job]:.1f} s")
    of_an_image = (seconds[..., 1] - seconds[..., 0]) / (counts[1] - counts[0])
    starts = seconds[..., 0] - counts[0] * of_an_image
    record("Ray, one worker against two, unias_lite", *(1000 * of_an_image.T), "ms/image")
    record("Ray, start of one worker against two", *starts.T, "s")


if __name__ == "__main__":
    main()
