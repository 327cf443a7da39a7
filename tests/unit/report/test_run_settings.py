import json
from pathlib import Path

import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.models import Padim
from lightning.pytorch import Trainer

from anomalib_unias.report.settings import run_settings


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(
        default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False, max_epochs=3, limit_test_batches=0.5
    )


def test_sections(trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    model = Padim("resnet18", ["layer1"], pre_trained=False, n_features=4)
    model.post_processor._image_threshold.fill_(2.5)
    trainer.datamodule = MVTecAD(root=tmp_path / "mvtec", category="cable", eval_batch_size=3, seed=5)  # type: ignore[attr-defined]
    settings = run_settings(trainer, model)
    json.dumps(settings, allow_nan=True)
    assert settings["model"]["class"] == "anomalib.models.image.padim.lightning_model.Padim"
    assert (settings["model"]["backbone"], settings["model"]["layers"]) == ("resnet18", ["layer1"])
    data = settings["data"]
    assert (data["name"], data["category"], data["eval_batch_size"], data["seed"]) == ("MVTecAD", "cable", 3, 5)
    assert (data["root"], data["test_split_mode"]) == (str(tmp_path / "mvtec"), "from_dir")
    assert "prepare_data_per_node" not in data
    assert settings["trainer"]["seed"] == "7"
    assert (settings["trainer"]["max_epochs"], settings["trainer"]["limit_test_batches"]) == (3, 0.5)
    assert settings["trainer"]["checkpoint"] is None
    assert settings["thresholds"]["image_threshold"] == settings["thresholds"]["pixel_threshold"] == 2.5
    assert settings["thresholds"]["image_sensitivity"] == 0.5
    assert settings["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(settings["versions"]) >= {"python", "anomalib", "anomalib-unias", "lightning"}


def test_without_datamodule_and_post_processor(trainer: Trainer) -> None:
    model = Padim("resnet18", ["layer1"], pre_trained=False, n_features=4, post_processor=False)
    settings = run_settings(trainer, model)
    assert settings["thresholds"] == {"post-processor": None}
    assert settings["data"]["name"] is None
