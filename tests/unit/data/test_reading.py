"""Images that would be read wrongly: refused in training, for prediction and on the line, by one function."""

import os
from pathlib import Path
from types import SimpleNamespace

import anomalib.data.utils
import numpy as np
import pytest
from anomalib.data import MVTecAD, PredictDataset
from anomalib.engine import Engine
from PIL import Image

from anomalib_unias import UniAS
from anomalib_unias.data.errors import UnreadableImageError
from anomalib_unias.data.feature_files import image_identity
from anomalib_unias.data.image_check import ImageCheck
from anomalib_unias.data.reading import check_header, read_rgb
from anomalib_unias.data.unified import UnifiedDataModule
from anomalib_unias.deploy import ImageSource, check_export_parity

DEEP = [("I;16", "x.png"), ("I;16B", "x.tif"), ("I", "x.tif"), ("F", "x.tif")]
REASON = "more than 8 bits per channel.*Convert it"


def write_deep(path: Path, mode: str = "I;16", size: int = 8) -> Path:
    kinds = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4"}
    Image.fromarray(np.full((size, size), 3000, kinds[mode])).save(path)
    return path


@pytest.mark.parametrize(("mode", "name"), DEEP)
def test_one_rule_for_training_and_the_line(tmp_path: Path, mode: str, name: str) -> None:
    path = write_deep(tmp_path / name, mode)
    messages = set()
    for read in (check_header, read_rgb, lambda file: ImageSource(str(file)).read()):
        with pytest.raises(UnreadableImageError, match=REASON) as caught:
            read(path)
        messages.add(str(caught.value))
    with Image.open(path) as image, pytest.raises(UnreadableImageError, match=REASON):
        ImageSource("camera", image).read()
    assert len(messages) == 1


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK"])
def test_other_images_are_read_as_by_anomalib(tmp_path: Path, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    path = tmp_path / "x.tif"
    Image.fromarray(pixels).convert(mode).save(path)
    assert check_header(path) == (7, 9)
    np.testing.assert_array_equal(read_rgb(path), np.round(anomalib.data.utils.read_image(path) * 255))


def test_sixteen_bits_in_colour_are_read(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    deep = np.random.default_rng(0).integers(0, 65535, (9, 7, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "x.png"), deep[..., ::-1])
    np.testing.assert_allclose(read_rgb(tmp_path / "x.png"), deep / 257, atol=1)


@pytest.mark.parametrize("kind", ["missing", "pipe", "text", "empty", "cut", "folder", "null", "long"])
def test_other_files_are_reported(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in {"text", "empty"}:
        path.write_text("no image" if kind == "text" else "")
    elif kind == "cut":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    path = {"null": tmp_path / "x\0.png", "long": tmp_path / ("x" * 300 + ".png")}.get(kind, path)
    with pytest.raises(UnreadableImageError, match=r"Cannot read image file .*x"):
        read_rgb(path)
    if kind != "cut":  # headers are whole
        with pytest.raises(UnreadableImageError, match=r"Cannot read image file .*x"):
            check_header(path)


def test_a_pipe_among_the_training_images_is_reported(tmp_path: Path, write_category) -> None:
    """Whoever opens it waits for ever."""
    path = write_category(tmp_path, size=32) / "plate/train/good/000.png"
    path.unlink()
    os.mkfifo(path)
    data = UnifiedDataModule("MVTecAD", ["plate"], root=tmp_path, num_workers=0)
    data.setup()
    with pytest.raises(UnreadableImageError, match=r"000\.png is no regular file"):
        _ = data.train_data[0]
    with pytest.raises(OSError, match=r"000\.png is no regular file"):
        image_identity(path)


def test_a_category(tmp_path: Path, write_category) -> None:
    write_deep(write_category(tmp_path) / "plate/train/good/000.png", size=96)
    data = UnifiedDataModule("MVTecAD", ["plate"], root=tmp_path, num_workers=0)
    data.setup()
    with pytest.raises(UnreadableImageError, match=rf"000\.png has {REASON}"):
        _ = data.train_data[0]


def test_data_sets_of_anomalib(tmp_path: Path, write_category, tiny_arguments: dict) -> None:
    """In training, test and prediction; the check is one of the callbacks of the model."""
    plate = write_category(tmp_path / "data") / "plate"
    for folder in ("train/good", "test/good"):
        write_deep(plate / folder / "000.png", size=96)
    model = UniAS(**tiny_arguments, feature_cache="off", visualizer=False)
    engine = Engine(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    data = MVTecAD(root=plate.parent, category="plate", num_workers=0)
    runs = {
        "train": lambda: engine.fit(model, datamodule=data),
        "test": lambda: engine.test(model, datamodule=data),
        "predict": lambda: engine.predict(model, dataset=PredictDataset(plate / "test/good")),
    }
    for name, run in runs.items():
        with pytest.raises(UnreadableImageError, match=REASON):
            run()
        assert engine.trainer.global_step == 0, name
    with pytest.raises(UnreadableImageError, match=REASON):
        check_export_parity(model, sorted((plate / "test/good").iterdir()))


def test_damaged_files_of_data_sets_of_anomalib(tmp_path: Path, write_category, tiny_arguments: dict) -> None:
    """A pipe, for which anomalib would wait, and an image that is cut off, which its error does not name."""
    plate = write_category(tmp_path / "data") / "plate"
    model = UniAS(**tiny_arguments, feature_cache="off", visualizer=False)
    engine = Engine(default_root_dir=tmp_path, max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False)
    data = MVTecAD(root=plate.parent, category="plate", num_workers=0)
    runs = {
        plate / "train/good/000.png": lambda: engine.fit(model, datamodule=data),
        plate / "test/good/000.png": lambda: engine.predict(model, data_path=plate / "test/good"),
    }
    for path, run in runs.items():
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(OSError, match=rf"truncated.*\nCannot read image file {path}.*Replace it"):
            run()
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(OSError, match=f"{path} is no regular file"):
            run()
        path.unlink()
        path.write_bytes(whole)


def test_images_without_a_file_pass(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    check = ImageCheck()
    for paths in (None, ["camera 1", str(tmp_path / "x.png")]):
        check.on_predict_batch_start(None, None, SimpleNamespace(image_path=paths), 0)
