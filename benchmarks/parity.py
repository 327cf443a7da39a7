"""Checks whether trained models give the same answers everywhere, on files of all sizes and kinds.

    python -m benchmarks.parity --data DIR --model UniAS-lite none lite.ckpt --model UniAS-lite CADA cada.ckpt

DIR contains categories in the layout of MVTec AD. Their test images are rewritten with sides from 200 to 2000 pixels,
in colour and grey, as JPEG and PNG, colour also with 16 bits, and are predicted by Lightning and all inferencers. A
model is a name, a calibration and a checkpoint of UniAS. Rows are appended as soon as a model is done; existing rows
are not repeated. Columns: ``model,calibration,stage,max_score_diff,max_map_diff,label_flips,image_auroc``.
"""

import argparse
import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pandas as pd
import torch
from anomalib.data import Folder
from PIL import Image
from rich.console import Console
from rich.progress import track

from anomalib_unias import UniAS
from anomalib_unias.deploy import check_export_parity

SIZES = [(200, 333), (256, 256), (480, 640), (777, 512), (1080, 1920), (2000, 1500)]
KINDS = [("png", "RGB"), ("jpg", "RGB"), ("png", "L"), ("jpg", "L"), ("png", "RGB16")]


def rewrite(source: Path, target: Path, size: tuple[int, int], mode: str) -> None:
    """Write an image with another size and pixel format."""
    image = Image.open(source).convert("RGB" if mode == "RGB16" else mode)
    image = image.resize(size[::-1], Image.Resampling.BICUBIC)
    target.parent.mkdir(parents=True, exist_ok=True)
    if mode == "RGB16":
        cv2.imwrite(str(target), np.array(image)[..., ::-1].astype(np.uint16) * 257)
    else:
        image.save(target)


def write_originals(data: Path, folder: Path, limit: int) -> None:
    """Write evenly spaced test images of all categories into ``good`` and ``bad``, and one training image."""
    tests = sorted(data.glob("*/test/*/*"))
    chosen = [tests[index] for index in np.unique(np.linspace(0, len(tests) - 1, limit).astype(int))]
    variants = itertools.cycle(itertools.product(SIZES, KINDS))
    for number, (path, (size, (suffix, mode))) in enumerate(
        zip(track(chosen, "writing images"), variants, strict=False)
    ):
        label = "good" if path.parent.name == "good" else "bad"
        rewrite(path, folder / label / f"{number:04}.{suffix}", size, mode)
    rewrite(next(iter(sorted(data.glob("*/train/good/*")))), folder / "train" / "0.png", (256, 256), "RGB")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", nargs=3, action="append", required=True, metavar=("NAME", "CALIBRATION", "CKPT"))
    parser.add_argument("--limit", type=int, default=120, help="number of test images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/parity.csv"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    done = set()
    if options.output.exists():
        table = pd.read_csv(options.output)
        done = set(zip(table["model"], table["calibration"], strict=True))
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_originals(options.data, folder, options.limit)
        for model_name, calibration, checkpoint in options.model:
            if (model_name, calibration) in done:
                continue
            datamodule = Folder(
                name="originals",
                root=folder,
                normal_dir="train",
                normal_test_dir="good",
                abnormal_dir="bad",
                eval_batch_size=8,
                num_workers=0,
            )
            report = check_export_parity(UniAS.load_from_checkpoint(checkpoint), datamodule, calibration=calibration)
            report.model = model_name
            report.write(options.output)
            Console().print(report.table())
    print(f"Written to {options.output}")


if __name__ == "__main__":
    main()
