"""Our models by their names through anomalib's Engine, as in anomalib's own integration tests of its models."""

from pathlib import Path

import pytest
from anomalib.data import ImageBatch, MVTecAD
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.models import AnomalibModule, get_model

from anomalib_unias import ReContrast, UniAD, UniAS

MODELS = {"uni_a_s": UniAS, "uni_a_d": UniAD, "re_contrast": ReContrast}


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_category) -> MVTecAD:
    root = write_category(tmp_path_factory.mktemp("data"), train=4)
    return MVTecAD(root=root, category="plate", train_batch_size=2, eval_batch_size=3, num_workers=0)


class Project:
    """Models, engines and the checkpoint of one model; every question gets a model without training."""

    def __init__(self, name: str, folder: Path, arguments: dict) -> None:
        self.name, self.folder, self.arguments = name, folder, arguments

    def model(self) -> AnomalibModule:
        return get_model(self.name, **self.arguments)

    def engine(self) -> Engine:
        return Engine(logger=False, default_root_dir=self.folder, max_epochs=1, accelerator="cpu", devices=1)

    @property
    def checkpoint(self) -> Path:
        return self.folder / self.model().name / "MVTecAD" / "plate" / "v0" / "weights" / "lightning" / "model.ckpt"


@pytest.fixture(scope="module", params=MODELS)
def project(request, tmp_path_factory, data, tiny) -> Project:
    model = MODELS[request.param]
    made = Project(request.param, tmp_path_factory.mktemp(request.param), {**tiny(model), "visualizer": False})
    made.engine().fit(model=made.model(), datamodule=data)
    return made


def test_test(project, data):
    (results,) = project.engine().test(model=project.model(), datamodule=data, ckpt_path=project.checkpoint)
    assert 0 <= results["image_AUROC"] <= 1


def test_train(project, data):
    results = project.engine().train(model=project.model(), datamodule=data, ckpt_path=project.checkpoint)
    assert 0 <= results[0]["image_AUROC"] <= 1


def test_validate(project, data):
    assert project.engine().validate(model=project.model(), datamodule=data, ckpt_path=project.checkpoint)


def test_predict(project, data):
    batches = project.engine().predict(model=project.model(), datamodule=data, ckpt_path=project.checkpoint)
    assert sum(batch.batch_size for batch in batches) == len(data.test_data)
    for batch in batches:
        assert isinstance(batch, ImageBatch)
        assert batch.anomaly_map.isfinite().all()
        assert batch.pred_label is not None


def test_export(project):
    """For torch; the other kinds, which take long, are exported once, by test_export_parity.py and the command line."""
    path = project.engine().export(project.model(), ExportType.TORCH, ckpt_path=project.checkpoint)
    assert path.stat().st_size > 0
