"""Small models and data sets that are made quickly, for hundreds of runs."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.models import Padim
from PIL import Image

from anomalib_unias import UniAS, UnifiedDataModule
from anomalib_unias.cli import main
from anomalib_unias.compat.export import QUIET_ONNX
from anomalib_unias.pre_processing import make_exportable

TINY: dict[str, Any] = {
    "backbone": "resnet18",
    "pre_trained": False,
    "image_size": [64, 64],
    "levels": [2, 3],
    "hidden_dim": 16,
    "num_heads": 2,
    "feedforward_dim": 32,
    "encoder_layers": 1,
    "neighbor_mask_size": 3,
    "channel_branch": False,
    "reconstruction_head": "transposed",
}
"""Arguments of a UniAS that is trained and exported within seconds."""

PRODUCTS = ("lid", "plate")


def tiny_model(**arguments: Any) -> UniAS:
    """A small UniAS with random weights.

    Args:
        **arguments (Any): Further arguments.

    Returns:
        UniAS: The model.
    """
    return UniAS(**{**TINY, "image_size": tuple(TINY["image_size"]), "visualizer": False, **arguments})


def write_products(root: Path, train: int = 10, test: int = 3, size: int = 64) -> Path:
    """Write two products in the layout of MVTec AD: a fixed pattern with noise, and a square as the defect.

    Args:
        root (Path): Folder.
        train (int): Training images of each product. Defaults to ``10``.
        test (int): Good and defective test images of each product. Defaults to ``3``.
        size (int): Side of an image in pixels. Defaults to ``64``.

    Returns:
        Path: The folder.
    """
    rng = np.random.default_rng(0)
    counts = {"train/good": train, "test/good": test, "test/square": test}
    for product in PRODUCTS:
        base = rng.uniform(60, 190, (size, size, 3))
        for kind, number in ((kind, number) for kind, count in counts.items() for number in range(count)):
            pixels = (base + rng.normal(0, 8, base.shape)).clip(0, 255).astype(np.uint8)
            mask = np.zeros((size, size), np.uint8)
            if kind == "test/square":
                pixels[20:44, 30:60], mask[20:44, 30:60] = 250, 255
                _save(root / product / "ground_truth/square" / f"{number:03}_mask.png", mask)
            _save(root / product / kind / f"{number:03}.png", pixels)
    return root


def two_products(root: Path, **arguments: Any) -> UnifiedDataModule:
    """Build a datamodule of the two products, without worker processes.

    Args:
        root (Path): Folder of :func:`write_products`.
        **arguments (Any): Further arguments of the datamodule.

    Returns:
        UnifiedDataModule: Not set up yet.
    """
    return UnifiedDataModule(
        **{"datamodule": "MVTecAD", "root": root, "num_workers": 0, "train_batch_size": 4, **arguments}
    )


def export_line(folder: Path) -> None:
    """Export a small PaDiM with random weights.

    Args:
        folder (Path): Folder for ``weights/openvino/model.xml``.
    """
    torch.manual_seed(0)
    transform = Padim.configure_pre_processor((64, 64))
    model = Padim("resnet18", layers=["layer1"], n_features=5, pre_trained=False, pre_processor=transform).eval()
    make_exportable(model)
    model.model.gaussian.fit(torch.rand(8, 5, 16, 16))
    for buffer in model.post_processor.buffers():
        buffer.nan_to_num_(0.5)
    model.to_openvino(folder, onnx_kwargs=QUIET_ONNX)


def inspect(*arguments: object) -> None:
    """Run ``anomalib-unias inspect`` in this process.

    Args:
        *arguments (object): Arguments of the command.
    """
    sys.argv = ["anomalib-unias", "inspect", *map(str, arguments)]
    main()


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
