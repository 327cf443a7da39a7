"""The same answer in training and after export, on original files through the real inferencers."""

from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import Folder
from anomalib.data.utils import ValSplitMode
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.models import Padim
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from anomalib_unias import CadaPostProcessor, ReContrast, UniAS
from anomalib_unias.deploy import check_export_parity
from anomalib_unias.deploy.parity import _files_and_labels

# Name of the file, height and width, mode.
FILES = [
    ("wide.png", (200, 333), "RGB"),
    ("grey.png", (257, 211), "L"),
    ("photo.jpg", (480, 640), "RGB"),
    ("grey.jpg", (511, 300), "L"),
    ("small.png", (40, 50), "RGB"),
    ("large.jpg", (1500, 2000), "RGB"),
]


def write_image(path, size, mode, *, defect):
    """Fine texture, of which resizing without anti-aliasing would make something else."""
    rng = np.random.default_rng(sum(size))
    depth = 1 if mode == "L" else 3
    pixels = rng.uniform(0, 255, (*size, depth))
    pixels[size[0] // 3 : size[0] // 2, size[1] // 3 : size[1] // 2] *= 0.1 if defect else 1
    pixels = pixels.squeeze().astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("originals")
    for name, size, mode in FILES:
        write_image(root / "good" / name, size, mode, defect=False)
        write_image(root / "bad" / name, size, mode, defect=True)
    for index in range(4):
        write_image(root / "train" / f"{index}.png", (96, 96 + index), "RGB", defect=False)
    return root


def datamodule(folder, val_split_mode=ValSplitMode.SAME_AS_TEST):
    return Folder(
        name="originals",
        root=folder,
        normal_dir="train",
        normal_test_dir="good",
        abnormal_dir="bad",
        train_batch_size=2,
        eval_batch_size=3,
        num_workers=0,
        val_split_mode=val_split_mode,
    )


def train(model, folder, root):
    model.visualizer = None
    limits = {"max_epochs": 1, "limit_train_batches": 2}
    engine = Engine(default_root_dir=root, accelerator="cpu", devices=1, logger=False, **limits)
    engine.fit(model, datamodule=datamodule(folder))
    return engine


def test_unias_gives_the_same_answer_everywhere(folder, tmp_path, tiny_arguments, write_onnx_once):
    # Exports take their time per operation: two levels have each kind of them.
    model = UniAS(**tiny_arguments | {"levels": [2, 3]})
    train(model, folder, tmp_path)
    write_onnx_once(UniAS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    report = check_export_parity(model, datamodule(folder))
    rows = report.frame().set_index("stage")
    assert {"lightning predict", "lightning test", "torch", "openvino", "inspection line"} <= set(rows.index)
    assert ("model api" in rows.index) == (find_spec("model_api") is not None)
    assert report.passed, rows.to_string()
    assert rows["image_auroc"].notna().all()

    assert model.training, "exporting must leave the model as it was"
    after = dict(model.state_dict())
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)

    report.write(tmp_path / "parity.csv")
    report.write(tmp_path / "parity.csv")
    written = pd.read_csv(tmp_path / "parity.csv")
    columns = ["model", "calibration", "stage", "max_score_diff", "max_map_diff", "label_flips", "image_auroc"]
    assert list(written.columns) == columns
    assert len(written) == 2 * len(rows)


def test_a_calibrated_model_gives_the_same_answer_everywhere(folder, tmp_path, tiny, write_onnx_once):
    """Exported from the checkpoint by the Engine. Exports of other models: test_checks_of_models.py."""
    arguments = tiny(ReContrast)
    engine = train(ReContrast(**arguments, post_processor=CadaPostProcessor(map_power=1)), folder, tmp_path)
    write_onnx_once(ReContrast)
    for kind in (ExportType.ONNX, ExportType.OPENVINO):
        model = ReContrast(**arguments)
        path = engine.export(model, kind, export_root=tmp_path, ckpt_path=engine.best_model_path)
        assert path.stat().st_size > 0
    loaded = ReContrast.load_from_checkpoint(engine.best_model_path)
    loaded.visualizer = None
    report = check_export_parity(loaded, datamodule(folder))
    rows = report.frame().set_index("stage")
    ways = {"lightning predict", "lightning test", "torch", "onnx", "openvino", "inspection line"}
    assert ways <= set(rows.index)
    assert report.passed, rows.to_string()


def test_random_splits_are_drawn_once(folder):
    data = datamodule(folder, ValSplitMode.FROM_TEST)
    files, labels = _files_and_labels(data, None)
    data.setup(TrainerFn.TESTING)  # by the trainer of the check
    assert [str(file) for file in files] == list(data.test_data.samples["image_path"])
    assert 0 < len(labels) == len(files) < 2 * len(FILES)


def test_the_check_finds_what_anomalib_exports_differently(folder, tmp_path, write_onnx_once):
    """Fails as soon as anomalib's own export anti-aliases: then this package need not."""
    pre_processor = Padim.configure_pre_processor((64, 64))
    model = Padim("resnet18", ["layer1"], pre_trained=False, n_features=4, pre_processor=pre_processor)
    train(model, folder, tmp_path)
    write_onnx_once(Padim)
    broken = check_export_parity(model, sorted((folder / "bad").iterdir()))
    assert not broken.passed
    differing = {row.stage for row in broken.rows if ": " in row.stage and broken.differs(row)}
    assert differing == {"onnx: pre-processing", "openvino: pre-processing"}


@pytest.mark.parametrize(("files", "labels", "message"), [([], None, "at least one"), (["a.png"], [0, 1], "1 files")])
def test_bad_arguments(files, labels, message):
    with pytest.raises(ValueError, match=message):
        check_export_parity(Padim(backbone="resnet18", pre_trained=False), files, labels=labels)
