"""UniAD and ReContrast in anomalib's Engine: what they share with UniAS, and their presets."""

from inspect import signature
from pathlib import Path

import pytest
import torch
from anomalib.cli import AnomalibCLI
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.models import get_model, list_models
from lightning.pytorch import Callback

from anomalib_unias import CadaPostProcessor, ReContrast, ReContrastLite, UniAD, UniADLite
from anomalib_unias.data.feature_cache import FeatureBatch
from anomalib_unias.models.components import ArchitectureMismatchError
from anomalib_unias.models.recontrast.lite import RECONTRAST_LITE
from anomalib_unias.models.uniad.lite import UNIAD_LITE

CONFIGS = Path(__file__).parents[3] / "configs" / "model"
PRESETS = {UniADLite: (UniAD, UNIAD_LITE), ReContrastLite: (ReContrast, RECONTRAST_LITE)}
MODELS = [UniAD, ReContrast]
IMAGES = torch.rand(2, 3, 80, 110, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_category):
    return write_category(tmp_path_factory.mktemp("data"), train=12)


@pytest.fixture
def data(root):
    return MVTecAD(root=root, category="plate", train_batch_size=4, eval_batch_size=6, num_workers=0)


@pytest.fixture
def build(tiny):
    def build(model: type, **changes):
        torch.manual_seed(3)
        return model(**{**tiny(model), "visualizer": False, **changes})

    return build


def engine(tmp_path, **arguments) -> Engine:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return Engine(default_root_dir=tmp_path / "results", accelerator="cpu", devices=1, **quiet, **arguments)


def trained_state(model) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items() if key.startswith("model.")}


class StopAfter(Callback):
    def __init__(self, epochs: int):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, _module):
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


class Batches(Callback):
    def __init__(self):
        self.kinds = set()

    def on_train_batch_start(self, _trainer, _module, batch, _index):
        self.kinds.add(type(batch))


@pytest.mark.parametrize("model", MODELS)
def test_a_run_ends_by_itself_and_its_checkpoint_predicts_the_same(tmp_path, build, data, model):
    run, own = engine(tmp_path), build(model)
    run.fit(own, datamodule=data)
    assert run.trainer.global_step == 4
    path = run.trainer.checkpoint_callback.best_model_path
    with torch.no_grad():
        expected, found = own.eval()(IMAGES), model.load_from_checkpoint(path).eval()(IMAGES)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)

    larger = model.load_from_checkpoint(path, image_size=(96, 128)).eval()
    with torch.no_grad():
        answer = larger(IMAGES)
    assert answer.anomaly_map.shape == (2, 1, 96, 128)
    assert answer.pred_label is None, "thresholds do not hold at another size"
    other = {"hidden_dim": 32} if model is UniAD else {"bottleneck_blocks": 2}
    with pytest.raises(ArchitectureMismatchError, match=f"{next(iter(other))}=.*{model.__name__}.load_from_checkpoint"):
        engine(tmp_path).test(build(model, **other), datamodule=data, ckpt_path=path)


@pytest.mark.parametrize("model", MODELS)
def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path, build, data, model):
    whole, stopped, resumed = (build(model) for _ in range(3))
    torch.manual_seed(7)
    engine(tmp_path / "whole", max_epochs=3).fit(whole, datamodule=data)
    torch.manual_seed(7)
    first = engine(tmp_path / "first", max_epochs=3, callbacks=[StopAfter(1)])
    first.fit(stopped, datamodule=data)
    torch.manual_seed(99)
    path = first.trainer.checkpoint_callback.best_model_path
    engine(tmp_path / "second", max_epochs=3).fit(resumed, datamodule=data, ckpt_path=path)
    expected, found = trained_state(whole), trained_state(resumed)
    assert not [key for key in expected if not torch.equal(expected[key], found[key])]
    assert any(not torch.equal(expected[key], tensor) for key, tensor in trained_state(stopped).items())


@pytest.mark.parametrize("model", MODELS)
def test_a_loss_that_is_not_finite_stops_and_names_the_images(tmp_path, build, data, model):
    broken = build(model)
    with torch.no_grad():
        broken.model.get_parameter(
            "transformer.norm.weight" if model is UniAD else "trained_heads.levels.0.bias"
        ).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 0.*\.png"):
        engine(tmp_path).fit(broken, datamodule=data)


@pytest.mark.parametrize(("model", "kept"), [(UniAD, True), (ReContrast, False)])
def test_features_are_kept_where_the_training_needs_no_images(tmp_path, monkeypatch, build, data, model, kept):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    batches = Batches()
    arguments = {"feature_cache": "disk"} if kept else {}
    engine(tmp_path, callbacks=[batches], max_epochs=2).fit(build(model, **arguments), datamodule=data)
    assert (batches.kinds == {FeatureBatch}) is kept
    files = list((tmp_path / "cache").rglob("*.npy"))
    assert len(files) == kept


def test_kept_features_train_as_computed_ones(build):
    model = build(UniAD)
    (computed,) = model.frozen_features(IMAGES)
    (stored,) = model.model.unflatten(computed.flatten(1).half())
    torch.testing.assert_close(stored, computed, rtol=1e-3, atol=1e-3)


def test_uniad_takes_one_tenth_of_the_rate_in_the_end(tmp_path, build, data):
    rates = []

    class Rates(Callback):
        def on_train_batch_end(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    engine(tmp_path, max_steps=10, callbacks=[Rates()]).fit(build(UniAD), datamodule=data)
    assert rates == pytest.approx([1e-4] * 7 + [1e-5] * 3)


def test_recontrast_trains_its_encoder_slowly(build):
    model = build(ReContrast)
    optimizer = model.configure_optimizers()
    assert [group["lr"] for group in optimizer.param_groups] == [2e-3, 1e-5]
    given = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert given == {id(parameter) for parameter in model.model.parameters() if parameter.requires_grad}


@pytest.mark.parametrize("preset", PRESETS)
def test_default_values_are_the_preset(preset):
    model, changes = PRESETS[preset]
    before, found = ({name: p.default for name, p in signature(each).parameters.items()} for each in (model, preset))
    assert found == before | changes
    assert all(before[name] != value for name, value in changes.items())
    built = preset(pre_trained=False)
    assert isinstance(built.post_processor, CadaPostProcessor)
    assert built.model.image_size == (224, 224)
    opened = model(**{name: value for name, value in built.hparams.items() if name in before})
    assert opened.model.state_dict().keys() == built.model.state_dict().keys()


@pytest.mark.parametrize(("name", "preset"), [("uniad_lite", UniADLite), ("recontrast_lite", ReContrastLite)])
def test_the_configuration_is_the_class(name, preset):
    rest = ["--model.pre_trained", "false", "--export_type", "onnx"]
    by_file = AnomalibCLI(["export", "--config", str(CONFIGS / f"{name}.yaml"), *rest], run=False)
    by_name = AnomalibCLI(["export", "--model", preset.__name__, *rest], run=False)
    assert by_file.config["export"]["model"] == by_name.config["export"]["model"]
    assert type(by_file.model) is preset


@pytest.mark.parametrize("model", [*MODELS, *PRESETS])
def test_anomalib_knows_the_names(model, tiny):
    name = model.__name__
    arguments = tiny(PRESETS[model][0] if model in PRESETS else model)
    for asked in (name, {"class_path": name, "init_args": arguments}):
        given = {} if isinstance(asked, dict) else arguments
        assert type(get_model(asked, **given)) is model
    assert name in list_models("pascal")
