"""The preset: a class whose default values it is."""

from inspect import signature
from pathlib import Path

import pytest
import torch
from anomalib.cli import AnomalibCLI
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.models import get_model, list_models

from anomalib_unias import CadaPostProcessor, UniAS, UniASLite
from anomalib_unias.models.components import with_defaults
from anomalib_unias.models.unias.lite import UNIAS_LITE

CONFIG = Path(__file__).parents[3] / "configs" / "model" / "unias_lite.yaml"
# Of the preset, but for what makes it slow to train.
QUICK = {
    "backbone": "resnet18",
    "pre_trained": False,
    "image_size": (64, 96),
    "neighbor_mask_size": 3,
    "training_steps": 2,
    "prototypes": 50,
}


def defaults(model: type) -> dict:
    return {name: parameter.default for name, parameter in signature(model).parameters.items()}


def test_default_values_are_the_preset():
    before = defaults(UniAS)
    assert defaults(UniASLite) == before | UNIAS_LITE
    assert all(before[name] != value for name, value in UNIAS_LITE.items() if name != "image_score")
    model = UniASLite(pre_trained=False)
    assert {name: model.hparams[name] for name in UNIAS_LITE} == UNIAS_LITE
    assert isinstance(model.post_processor, CadaPostProcessor)


def test_other_arguments_are_as_always():
    model = UniASLite((96, 128), "resnet18", pre_trained=False, hidden_dim=32, post_processor=False)
    assert (model.hparams.hidden_dim, model.hparams.num_heads, model.post_processor) == (32, 2, None)
    with pytest.raises(TypeError, match="unexpected keyword"):
        UniASLite(hidden=32)


def test_default_values_of_arguments_that_are_not_there():
    with pytest.raises(TypeError, match="no argument with a default named hidden"):
        with_defaults(UniAS.__init__, {"hidden": 3})


def test_the_configuration_is_the_class():
    rest = ["--model.pre_trained", "false", "--export_type", "onnx"]
    by_file = AnomalibCLI(["export", "--config", str(CONFIG), *rest], run=False)
    by_name = AnomalibCLI(["export", "--model", "UniASLite", *rest], run=False)
    assert by_file.config["export"]["model"] == by_name.config["export"]["model"]
    assert type(by_file.model) is UniASLite
    assert dict(by_file.model.hparams) == dict(by_name.model.hparams)


@pytest.mark.parametrize("name", ["UniASLite", "uni_as_lite", {"class_path": "UniASLite"}])
def test_anomalib_knows_the_name(name):
    assert type(get_model(name, pre_trained=False)) is UniASLite
    assert {"UniAS", "UniASLite"} <= list_models("pascal")


def test_the_command_line_explains_its_arguments(capsys):
    with pytest.raises(SystemExit):
        AnomalibCLI(["train", "--model.help", "UniASLite"], run=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "Highest learning rate of AdamW. (type: float, default: 0.002)" in shown
    assert "Defaults to ``1e-4``" not in shown


@pytest.mark.parametrize(("saved", "opened"), [(UniAS, UniASLite), (UniASLite, UniAS)])
def test_checkpoints_of_both_classes(saved, opened, tmp_path, write_category):
    """The preset was a configuration of UniAS before it was a class."""
    data = MVTecAD(
        root=write_category(tmp_path / "data", train=12), category="plate", train_batch_size=2, num_workers=0
    )
    arguments = UNIAS_LITE | QUICK if saved is UniAS else QUICK
    model = saved(**arguments, post_processor=CadaPostProcessor(map_power=1), visualizer=False)
    engine = Engine(default_root_dir=tmp_path / "results", accelerator="cpu", devices=1, enable_progress_bar=False)
    engine.fit(model, datamodule=data)
    path = engine.trainer.checkpoint_callback.best_model_path
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        expected, found = model.eval()(images), opened.load_from_checkpoint(path).eval()(images)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    fresh = opened(**(QUICK if opened is UniASLite else UNIAS_LITE | QUICK), post_processor=CadaPostProcessor())
    assert engine.test(fresh, datamodule=data, ckpt_path=path)
