"""The inspection line against anomalib's inferencer: the same exported model, the same files, in turns.

    python -m benchmarks.line

Turns of some seconds each, so that both see the same machine, with UniAS-lite (random weights) in FP32 and JPEG files
of 700 pixels. A row is written to benchmarks/results/speed.csv: milliseconds per image.
"""

import argparse
import os
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from anomalib.deploy import OpenVINOInferencer
from benchmarks.latency import export, write_images
from benchmarks.speed import record

from anomalib_unias.backbones import register_backbones
from anomalib_unias.deploy import ThroughputInferencer
from anomalib_unias.deploy.predictions import FULL_PRECISION

WARM_UP = 5


def milliseconds_per_image(step: Callable[[], object], seconds: float) -> float:
    """Mean time of a step."""
    for _ in range(WARM_UP):
        step()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step()
        steps += 1
    return 1000 * (time.perf_counter() - started) / steps


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each turn")
    parser.add_argument("--image_size", type=int, default=700)
    parser.add_argument("--work", type=Path, default=Path("results/latency"), help="folder for the export")
    options = parser.parse_args()
    torch.set_num_threads(2)
    register_backbones()
    files = cycle([file.resolve() for file in write_images(options.work / "images", options.image_size)])
    path = export("unias_lite", "fp32", "openvino", options.work, options.work / "images").resolve()
    before = Path.cwd()
    os.chdir(path.parent)  # anomalib 2.7.0 writes the model cache of OpenVINO into the working directory
    stock = OpenVINOInferencer(path, "CPU", dict(FULL_PRECISION))
    results = ThroughputInferencer(path, cache_dir=path.parent / "cache").inspect(files)
    steps = [lambda: stock.predict(next(files)), lambda: next(results)]
    times = np.array([[milliseconds_per_image(step, options.seconds) for step in steps] for _ in range(options.turns)])
    os.chdir(before)
    record(f"inspection line against anomalib's inferencer, unias_lite, {options.image_size} px", *times.T, "ms/image")


if __name__ == "__main__":
    main()
