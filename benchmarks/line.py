"""Compares the inspection line with anomalib's inferencer: the same exported model, the same files, in turns.

    python -m benchmarks.line

The two alternate, with many images per turn, so that both run under the same load. The model is UniAS-lite (random
weights) in FP32, the images are JPEG files of 700 pixels. A row is written to benchmarks/results/speed.csv:
milliseconds per image.
"""

import argparse
from itertools import cycle, islice
from pathlib import Path

import torch
from anomalib.deploy import OpenVINOInferencer
from benchmarks.latency import export, write_images
from benchmarks.speed import in_turns, record

from anomalib_unias.backbones import register_backbones
from anomalib_unias.compat.export import inside
from anomalib_unias.deploy import ThroughputInferencer
from anomalib_unias.deploy.openvino_core import FULL_PRECISION


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--images", type=int, default=80, help="in each turn")
    parser.add_argument("--image_size", type=int, default=700)
    parser.add_argument("--work", type=Path, default=Path("results/latency"), help="folder for the export")
    options = parser.parse_args()
    torch.set_num_threads(2)
    register_backbones()
    images = write_images(options.work / "images", options.image_size)
    path = export("unias_lite", "fp32", "openvino", options.work, images[0].parent).resolve()
    files = list(islice(cycle(images), options.images))
    line = ThroughputInferencer(path, cache_dir=path.parent / "cache")
    with inside(path.parent):
        stock = OpenVINOInferencer(path, "CPU", dict(FULL_PRECISION))
    steps = [lambda: [stock.predict(file) for file in files], lambda: list(line.inspect(files))]
    seconds = in_turns(steps, options.turns)
    name = f"inspection line against anomalib's inferencer, unias_lite, {options.image_size} px"
    record(name, *(1000 * seconds.T / options.images), "ms/image")


if __name__ == "__main__":
    main()
