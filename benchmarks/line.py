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
from benchmarks.latency import export, write_images
from benchmarks.speed import in_turns, record

from anomalib_unias.backbones import register_backbones
from anomalib_unias.compat.inferencers import UncachedOpenVINOInferencer
from anomalib_unias.deploy import ThroughputInferencer
from anomalib_unias.deploy.openvino_core import FULL_PRECISION


def line_parser(description: str | None, turns: int, images: int) -> argparse.ArgumentParser:
    """Make the command line of a benchmark of the exported preset on image files.

    Args:
        description (str | None): Help text.
        turns (int): Default number of turns.
        images (int): Default number of images.

    Returns:
        argparse.ArgumentParser: For :func:`preset_and_images`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=turns)
    parser.add_argument("--images", type=int, default=images, help="in each turn")
    parser.add_argument("--image_size", type=int, default=700)
    parser.add_argument("--work", type=Path, default=Path("results/latency"), help="folder for the export")
    return parser


def preset_and_images(options: argparse.Namespace) -> tuple[Path, list[Path]]:
    """Export the preset, and write the images.

    Args:
        options (argparse.Namespace): Options of :func:`line_parser`.

    Returns:
        tuple[Path, list[Path]]: OpenVINO file of the preset, and image files.
    """
    torch.set_num_threads(2)
    register_backbones()
    images = write_images(options.work / "images", options.image_size)
    return export("unias_lite", "fp32", "openvino", options.work, images[0].parent).resolve(), images


def main() -> None:
    """Command line."""
    options = line_parser(__doc__, turns=20, images=80).parse_args()
    path, images = preset_and_images(options)
    files = list(islice(cycle(images), options.images))
    line = ThroughputInferencer(path, cache_dir=path.parent / "cache")
    stock = UncachedOpenVINOInferencer(path, "CPU", dict(FULL_PRECISION))
    steps = [lambda: [stock.predict(file) for file in files], lambda: list(line.inspect(files))]
    seconds = in_turns(steps, options.turns)
    name = f"inspection line against anomalib's inferencer, unias_lite, {options.image_size} px"
    record(name, *(1000 * seconds.T / options.images), "ms/image")


if __name__ == "__main__":
    main()
