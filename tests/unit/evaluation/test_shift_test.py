"""A test on changed images, of a model whose scores are the brightness of the images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule, Folder, ImageBatch, InferenceBatch
from anomalib.models import Padim
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from torch import nn
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_unias import UnifiedDataModule, cli
from anomalib_unias.evaluation.shift_test import SHIFT_COLUMNS, measure_shift
from anomalib_unias.evaluation.shifts import SHIFTS
from anomalib_unias.report.shift_page import draw_shift, shift_table, write_shift

LIGHT = next(shift for shift in SHIFTS if shift.name == "light")
DISPLACEMENT = next(shift for shift in SHIFTS if shift.name == "displacement")


class Brightest(nn.Module):
    def forward(self, images: torch.Tensor) -> InferenceBatch:
        maps = nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 5, 1, 2)
        return InferenceBatch(pred_score=maps.amax(dim=(1, 2, 3)), anomaly_map=maps)


class BrightnessModel(AnomalibModule):
    """Calls an image defective if a part of it is bright; the threshold is on normalised colours."""

    def __init__(self, threshold: float = 1.5) -> None:
        post_processor = PostProcessor(enable_normalization=False, image_sensitivity=0.0)
        steps = Compose([Resize((32, 32)), Normalize([0.5] * 3, [0.25] * 3)])
        super().__init__(PreProcessor(steps), post_processor, evaluator=True, visualizer=True)
        self.post_processor._image_threshold.fill_(threshold)
        # Without normalisation anomalib compares with 1 - sensitivity.
        self.post_processor.image_sensitivity = 1 - threshold
        self.model = Brightest()

    @property
    def trainer_arguments(self) -> dict:
        return {}

    @property
    def learning_type(self) -> LearningType:
        return LearningType.ONE_CLASS

    def test_step(self, batch: ImageBatch, batch_idx: int) -> ImageBatch:  # noqa: ARG002
        return batch.update(**self.model(batch.image)._asdict())

    def configure_optimizers(self) -> None: ...


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_category: Callable[..., Path]) -> UnifiedDataModule:
    root = tmp_path_factory.mktemp("shift") / "products"
    for category in ("bottle", "cable"):
        write_category(root, category, train=1, size=48)
    return UnifiedDataModule(root=root, train_batch_size=1, eval_batch_size=4, num_workers=0, val_split_mode="none")


@pytest.fixture(scope="module")
def table(data: UnifiedDataModule, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The model is given back as it was, and no picture is drawn."""
    model, folder = BrightnessModel(), tmp_path_factory.mktemp("empty")
    before = model.evaluator, model.visualizer
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        table = measure_shift(model, data, [LIGHT, DISPLACEMENT])
    assert (model.evaluator, model.visualizer) == before
    assert list(folder.iterdir()) == []
    return table


def value(table: pd.DataFrame, shift: str, strength: int, metric: str, category: str = "mixed") -> float:
    keys = {"shift": shift, "strength": strength, "metric": metric, "category": category}
    for name, key in keys.items():
        table = table[table[name] == key]
    return table["value"].item()


def test_light_changes_what_is_called_defective(table: pd.DataFrame) -> None:
    assert list(table.columns) == list(SHIFT_COLUMNS)
    assert value(table, "none", 0, "image_auroc") == 1
    assert value(table, "none", 0, "miss_rate") == value(table, "none", 0, "false_alarm_rate") == 0
    errors = [
        value(table, "light", strength, "miss_rate") + value(table, "light", strength, "false_alarm_rate")
        for strength in (1, 2, 3)
    ]
    assert errors == sorted(errors)
    assert errors[-1] > 0
    assert value(table, "displacement", 3, "image_auroc") == 1
    assert set(table["category"]) == {"bottle", "cable", "mixed"}
    assert len(table) == 7 * 3 * 3


def test_a_seed_gives_the_same_whatever_the_batches(table: pd.DataFrame, data: UnifiedDataModule) -> None:
    data.eval_batch_size = 5
    again = measure_shift(BrightnessModel(), data, [LIGHT])
    part = table[table["shift"] != "displacement"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, part)


def test_without_a_threshold_nothing_is_counted(data: UnifiedDataModule) -> None:
    table = measure_shift(BrightnessModel(threshold=float("nan")), data, [])
    assert value(table, "none", 0, "image_auroc") == 1
    assert np.isnan(value(table, "none", 0, "miss_rate"))


def test_page(table: pd.DataFrame, tmp_path: Path) -> None:
    page = write_shift(table, tmp_path / "new")
    assert {path.name for path in page.parent.iterdir()} == {"index.html", "shift.csv", "shift.svg"}
    text = page.read_text(encoding="utf-8")
    assert [f"<h2>{name}</h2>" in text for name in ("mixed", "bottle", "cable")] == [True] * 3
    assert "http" not in text
    assert "unknown" not in text
    lines = draw_shift(table).axes[0].lines
    assert [list(line.get_xdata()) for line in lines] == [[0, 1, 2, 3]] * 2
    rows = shift_table(table, "bottle").rows
    assert rows[0][:3] == ["none", "", "100.0 (100.0\u00a0to\u00a0100.0)"]
    assert rows[1][:2] == ["light", "0.1 (brighter or darker by this share)"]


def test_a_single_category_without_defects(tmp_path: Path, write_category: Callable[..., Path]) -> None:
    root = write_category(tmp_path, "plate", train=1, size=48, defective=0) / "plate"
    data = Folder("plate", root=root, normal_dir="train/good", normal_test_dir="test/good", val_split_mode="none")
    table = measure_shift(BrightnessModel(), data, [])
    assert np.isnan(value(table, "none", 0, "image_auroc"))
    assert value(table, "none", 0, "false_alarm_rate") == 0
    assert [axes.get_ylabel() for axes in draw_shift(table).axes[::3]] == ["plate"]


def test_command(table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict = {}

    def measure(model: AnomalibModule, data: AnomalibDataModule, seed: int) -> pd.DataFrame:
        called.update(model=model, data=data, seed=seed)
        return table

    monkeypatch.setattr("anomalib_unias.report.commands.measure_shift", measure)
    model = ["--model=Padim", "--model.backbone=resnet18", "--model.pre_trained=false"]
    data = ["--data=MVTecAD", "--data.category=bottle"]
    command = ["anomalib-unias", "shift", *model, *data, "--seed=3", f"--output={tmp_path / 'new'}"]
    monkeypatch.setattr("sys.argv", command)
    cli.main()
    assert isinstance(called["model"], Padim)
    assert (called["data"].category, called["seed"]) == ("bottle", 3)
    assert (tmp_path / "new" / "index.html").is_file()
