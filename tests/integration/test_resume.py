"""What is resumed from a checkpoint ends as what was never stopped, and is exported like it."""

import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.deploy import CompressionType, ExportType
from anomalib.engine import Engine
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from anomalib_unias import CadaPostProcessor, UniAS, UnifiedDataModule

STEPS_OF_EPOCH, STEPS = 4, 8


class PowerFailure(BaseException):
    """Ends a run without its last hooks."""


class FailAt(Callback):
    """Stops a run after a checkpoint of a step was written; the callbacks for checkpoints come last."""

    def __init__(self, step):
        self.step = step

    def on_validation_start(self, trainer, _module):
        if trainer.global_step == self.step:
            raise PowerFailure

    def on_train_epoch_start(self, trainer, _module):
        self.on_validation_start(trainer, _module)


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_category):
    root = write_category(tmp_path_factory.mktemp("data"), size=64, train=10)
    return write_category(root, "lid", size=64)


@pytest.fixture
def data(root):
    return datamodule(root)


def datamodule(root):
    return UnifiedDataModule("MVTecAD", ["plate", "lid"], root, train_batch_size=4, num_workers=0, seed=1)


def cada():
    """Without synthetic defects, which take their time."""
    return CadaPostProcessor(map_power=0.5)


def model_of(tiny, **arguments):
    torch.manual_seed(0)
    few_operations = {"levels": [3], "channel_branch": False, "reconstruction_head": "transposed"}
    other = {"visualizer": False, "evaluator": False, "feature_cache": "memory"}
    return UniAS(**{**tiny(UniAS), **few_operations, **other, "training_steps": STEPS, **arguments})


def fit(folder, model, data, *callbacks, ckpt_path=None, steps=STEPS):
    """Train with a checkpoint at the end of every epoch."""
    keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=STEPS_OF_EPOCH, save_top_k=-1)
    engine = Engine(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=steps,
        callbacks=[keep, *callbacks],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    engine.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return engine


def assert_same_state(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.fixture(scope="module", params=[cada, lambda: True], ids=["cada", "default"])
def post_processor(request):
    return request.param


@pytest.fixture(scope="module")
def whole(post_processor, root, tiny, tmp_path_factory):
    """A model that was trained without a stop, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    model = model_of(tiny, post_processor=post_processor())
    fit(folder, model, datamodule(root))
    assert not model.post_processor.image_threshold.isnan()
    return model, folder


@pytest.mark.parametrize("step", [STEPS_OF_EPOCH, STEPS])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(tmp_path, data, tiny, post_processor, whole, step):
    """Also if it was stopped when all was trained, but neither validated nor calibrated."""
    with pytest.raises(PowerFailure):
        fit(tmp_path, model_of(tiny, post_processor=post_processor()), data, FailAt(step))
    resumed = model_of(tiny, post_processor=post_processor())
    assert not (tmp_path / f"step={step + STEPS_OF_EPOCH}.ckpt").exists()
    fit(tmp_path, resumed, data, ckpt_path=tmp_path / f"step={step}.ckpt")
    expected = whole[0].state_dict()
    assert_same_state(resumed.state_dict(), expected)
    # That of anomalib's Engine is written after the validation, the other one before.
    kept = UniAS.load_from_checkpoint(sorted(tmp_path.rglob("weights/lightning/*.ckpt"))[-1])
    assert_same_state(kept.state_dict(), expected)


def test_a_run_that_is_over_can_be_resumed(data, tiny, post_processor, whole):
    model, folder = whole
    again = model_of(tiny, post_processor=post_processor())
    fit(folder, again, data, ckpt_path=folder / f"step={STEPS}.ckpt")
    assert_same_state(again.state_dict(), model.state_dict())


def test_int8_of_a_run_that_was_resumed(tmp_path, data, tiny):
    model = model_of(tiny, post_processor=cada())
    fit(tmp_path, model, data, steps=STEPS_OF_EPOCH)
    model = model_of(tiny, post_processor=cada())
    engine = fit(tmp_path, model, data, ckpt_path=tmp_path / f"step={STEPS_OF_EPOCH}.ckpt")
    path = engine.export(
        model,
        ExportType.OPENVINO,
        export_root=tmp_path,
        compression_type=CompressionType.INT8_PTQ,
        datamodule=data,
        ckpt_path=tmp_path / f"step={STEPS}.ckpt",
    )
    exported = ov.Core().read_model(path)
    assert "FakeQuantize" in {node.get_type_name() for node in exported.get_ordered_ops()}
    image = torch.stack([data.test_data[index].image for index in (0, -1)])
    with torch.no_grad():
        expected = model.eval()(image)
    found = ov.Core().compile_model(exported, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(image.numpy())
    assert np.corrcoef(found["anomaly_map"].ravel(), expected.anomaly_map.ravel())[0, 1] > 0.9
    # Eight bits change the largest value of a map that was hardly trained; what matters is that none is undefined.
    assert ((found["pred_score"] > 0) & (found["pred_score"] < 1)).all()
    assert len(data.train_data) == 16
