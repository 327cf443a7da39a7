"""Compares the answers of OpenVINO's Model API, for files that OpenCV reads, with those of OpenVINO and of training.

    python -m benchmarks.model_api --root DIR --checkpoint unias_lite.ckpt --limit 20

DIR contains categories in the layout of MVTec AD; the checkpoint has thresholds. For every category and precision, the
export for images of any size, adapted for Model API, predicts ``--limit`` images without any setting. Columns of
``model_api.csv``: number of images; number that OpenVINO calls anomalous; labels, and pixels of masks, that differ from
OpenVINO's own; labels that differ from those of training; the largest differences of scores to both.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from anomalib.deploy import CompressionType
from model_api.models import Model

from anomalib_unias import UniAS
from anomalib_unias.deploy import adapt_export
from anomalib_unias.deploy.openvino_core import openvino_core

PRECISIONS = {"fp32": None, "fp16": CompressionType.FP16, "int8": CompressionType.INT8}


@torch.no_grad()
def compare(model: UniAS, path: Path, adapted: Path, files: list[Path]) -> dict[str, float]:
    """Compare the answers of three programs for the same files."""
    compiled = openvino_core().compile_model(path, "CPU")
    wrapper = Model.create_model(str(adapted), device="CPU")
    rows = []
    for file in files:
        bgr = cv2.imread(str(file))
        images = np.ascontiguousarray(bgr[..., ::-1].transpose(2, 0, 1)[None]).astype(np.float32) / 255
        found, direct, trained = wrapper(bgr), compiled(images), model(torch.from_numpy(images))
        mask = cv2.resize(direct["pred_mask"].squeeze().astype(np.uint8), bgr.shape[1::-1])
        rows.append(
            {
                "anomalous": bool(direct["pred_label"].item()),
                "other_labels": found.pred_label != str(direct["pred_label"].item()),
                "other_mask_pixels": (found.pred_mask != mask).sum(),
                "max_score_diff": abs(found.pred_score - direct["pred_score"].item()),
                "other_labels_than_training": found.pred_label != str(trained.pred_label.item()),
                "max_score_diff_to_training": abs(found.pred_score - trained.pred_score.item()),
            }
        )
    table = pd.DataFrame(rows)
    largest = [name for name in table if name.startswith("max")]
    return {
        "images": len(table),
        **{name: table[name].max() if name in largest else table[name].sum() for name in table},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=20, help="test images of each category, evenly spaced")
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=list(PRECISIONS))
    parser.add_argument("--work", type=Path, default=Path("results/model_api"), help="folder for exports")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/model_api.csv"))
    options = parser.parse_args()
    model = UniAS.load_from_checkpoint(options.checkpoint).eval()
    rows = []
    for precision in options.precisions:
        path = model.to_openvino(options.work, precision, compression_type=PRECISIONS[precision])
        adapted = adapt_export(path, options.work / f"{precision}.xml", "model_api")
        for category in sorted(each for each in options.root.iterdir() if (each / "test").is_dir()):
            files = sorted((category / "test").glob("*/*.*"))
            chosen = np.unique(np.linspace(0, len(files) - 1, min(options.limit, len(files))).astype(int))
            found = compare(model, path, adapted, [files[index] for index in chosen])
            rows.append({"precision": precision, "category": category.name, **found})
    table = pd.DataFrame(rows)
    table.to_csv(options.output, index=False)
    print(table.round(6).to_string(index=False))


if __name__ == "__main__":
    main()
