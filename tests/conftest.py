"""What several tests need: small models without downloads, and small data sets in MVTec layout."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from hypothesis import settings
from PIL import Image

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CI", "true")  # OpenVINO and NNCF send no statistics, which takes a process for each conversion
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
torch.set_num_threads(int(os.environ.get("ANOMALIB_UNIAS_TEST_THREADS", "1")))

# Tests, anomalib and Model API begin cores of OpenVINO of their own. When two of them end in the order in which they
# began, the next signal ends the process (test_openvino_core.py), that of a worker of a data loader, say. So none ends.
_cores: list[openvino.Core] = []
_begin = openvino.Core.__init__


def _begin_and_keep(core: openvino.Core, *arguments: object) -> None:
    _begin(core, *arguments)
    _cores.append(core)


openvino.Core.__init__ = _begin_and_keep

_TINY = {"backbone": "resnet18", "pre_trained": False, "image_size": (64, 96), "training_steps": 4}
_TINY_TRANSFORMER = {
    "hidden_dim": 16,
    "num_heads": 2,
    "feedforward_dim": 32,
    "encoder_layers": 1,
    "neighbor_mask_size": 3,
}
TINY = {
    "UniAS": {**_TINY, **_TINY_TRANSFORMER},
    "UniAD": {**_TINY, **_TINY_TRANSFORMER, "decoder_layers": 2, "feature_cache": "off"},
    "ReContrast": {
        **_TINY,
        "widths": (8, 12, 16, 20),
        "block": "basic",
        "block_width": 64,
        "bottleneck_blocks": 1,
        "decoder_blocks": (1, 1, 1),
    },
}


@pytest.fixture(autouse=True)
def same_random_numbers_every_time() -> None:
    """Seed of what a test draws without a seed of its own."""
    torch.manual_seed(0)


@pytest.fixture
def tiny_arguments() -> dict:
    """Constructor arguments of a UniAS that trains in seconds."""
    return dict(TINY["UniAS"])


@pytest.fixture(scope="session")
def tiny() -> Callable[[type], dict]:
    """Constructor arguments of any of our models that trains in seconds."""
    return lambda model: dict(TINY[model.__name__])


@pytest.fixture
def write_onnx_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], None]:
    """Lets all exports of a model in a test share the ONNX file of the first one, the slow step of each."""

    def once(model: type) -> None:
        export, files = model.to_onnx, []

        def to_onnx(self: object, *args: object, **options: object) -> Path:
            if not files:
                files.append(export(self, *args, **options))
            return files[0]

        monkeypatch.setattr(model, "to_onnx", to_onnx)

    return once


@pytest.fixture(scope="session")
def write_category() -> Callable[..., Path]:
    """Writer of a small category in MVTec layout: noise with a square as defect."""

    def write(
        root: Path, category: str = "plate", *, train: int = 6, good: int = 3, defective: int = 3, size: int = 96
    ) -> Path:
        rng = np.random.default_rng(len(category))
        base = rng.uniform(60, 190, size=(size, size, 3))

        def image(path: Path, defect: bool) -> None:
            pixels = base + rng.normal(0, 8, size=base.shape)
            if defect:
                pixels[20:44, 30:60] = 250
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)

        for i in range(train):
            image(root / category / "train" / "good" / f"{i:03}.png", defect=False)
        for i in range(good):
            image(root / category / "test" / "good" / f"{i:03}.png", defect=False)
        for i in range(defective):
            image(root / category / "test" / "square" / f"{i:03}.png", defect=True)
            mask = np.zeros((size, size), np.uint8)
            mask[20:44, 30:60] = 255
            path = root / category / "ground_truth" / "square" / f"{i:03}_mask.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
        return root

    return write
