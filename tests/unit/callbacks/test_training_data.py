"""Images that a run holds out or replaces by features are back when it has ended, however it ends."""

import signal

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_unias import CadaPostProcessor, UniAS, UnifiedDataModule
from anomalib_unias.callbacks import TrainingData
from anomalib_unias.data.errors import HeldOutError
from anomalib_unias.data.feature_cache import FeatureDataset


@pytest.fixture
def interruptible():
    """Lightning ignores further interrupts after the first one."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def data(tmp_path, write_category):
    root = write_category(tmp_path / "data", size=32, train=10)
    write_category(root, "lid", size=32)
    datamodule = UnifiedDataModule("MVTecAD", ["plate", "lid"], root, num_workers=0, train_batch_size=4)
    datamodule.setup(TrainerFn.FITTING)  # as a first run does, so that the next one finds it set up
    return datamodule


def features(images, num_workers):
    assert num_workers == 0
    return FeatureDataset(images, np.zeros((len(images), 3), np.float16))


class Learner(LightningModule):
    """Asks for held-out images and features, and fails on demand."""

    def __init__(self, fractions=(), failure=None, where="training_step", kept=True):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.fractions, self.failure, self.where, self.kept = fractions, failure, where, kept
        self.held_out, self.seen = [], set()

    def _fail(self, where):
        if self.failure is not None and self.where == where:
            raise self.failure

    def setup(self, stage):
        del stage
        owner = TrainingData.of(self.trainer)
        self.held_out = [owner.hold_out(self.trainer, fraction) for fraction in self.fractions]
        self._fail("setup")

    def on_fit_start(self):
        if self.kept:
            TrainingData.of(self.trainer).replace_by_features(self.trainer, None, features)
        self._fail("on_fit_start")

    def training_step(self, batch, _index):
        self.seen.update(batch.image_path)
        assert hasattr(batch, "features") == self.kept
        self._fail("training_step")
        return self.layer(torch.ones(1)).sum()

    def on_train_end(self):
        self.images = TrainingData.of(self.trainer).images(self.trainer)
        self._fail("on_train_end")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(tmp_path, model, data, **arguments):
    arguments = {"max_epochs": 2, "barebones": True, "accelerator": "cpu", **arguments}
    trainer = Trainer(default_root_dir=tmp_path, **arguments)
    trainer.fit(model, datamodule=data)
    return trainer


@pytest.mark.parametrize("where", ["setup", "on_fit_start", "training_step", "on_train_end"])
@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
@pytest.mark.usefixtures("interruptible")
def test_after_a_failure(tmp_path, data, where, failure):
    before = data.train_data
    model = Learner((0.2,), failure(), where)
    with pytest.raises(SystemExit if failure is KeyboardInterrupt else failure):
        fit(tmp_path, model, data)
    assert data.train_data is before


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("fractions", [(), (0.2,)])
def test_after_a_good_run(tmp_path, data, kept, fractions):
    before = data.train_data
    model = Learner(fractions, kept=kept)
    fit(tmp_path, model, data)
    assert data.train_data is before
    # A fifth of ten and of six images is held out.
    assert len(model.seen) == len(model.images) == 16 - 3 * len(fractions)
    assert not isinstance(model.images, FeatureDataset)


def test_another_callback_that_fails_too(tmp_path, data):
    class Rude(Callback):
        def on_exception(self, *_):
            raise RuntimeError

    before = data.train_data
    with pytest.raises(RuntimeError):
        fit(tmp_path, Learner((0.2,), ValueError()), data, callbacks=[Rude()], barebones=False, logger=False)
    assert data.train_data is before


def test_who_asks_for_the_same_share_gets_the_same_images(tmp_path, data):
    model = Learner((0.2, 0.2, 0.4), kept=False)
    fit(tmp_path, model, data)
    first, second, larger = (set(images.samples.image_path) for images in model.held_out)
    assert first == second < larger
    assert len(larger) == 4 + 2  # four tenths of ten images, and of six
    assert not larger & model.seen
    assert larger | model.seen == set(data.train_data.samples.image_path)


def test_the_first_seed_counts_for_all(data):
    trainer = Trainer(barebones=True)
    trainer.datamodule = data
    owner = TrainingData.of(trainer)
    first, second = owner.hold_out(trainer, 0.4, seed=1), TrainingData.of(trainer).hold_out(trainer, 0.4, seed=2)
    owner.teardown(trainer, Learner(), "fit")
    other = owner.hold_out(trainer, 0.4, seed=2)
    owner.teardown(trainer, Learner(), "fit")
    chosen = [list(images.samples.image_path) for images in (first, second, other)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_images_cannot_be_held_out_of_features(data):
    trainer = Trainer(barebones=True)
    trainer.datamodule = data
    owner = TrainingData.of(trainer)
    held_out = owner.hold_out(trainer, 0.2)
    owner.replace_by_features(trainer, None, features)
    assert len(owner.hold_out(trainer, 0.2)) == len(held_out)
    with pytest.raises(RuntimeError, match="hold them out in setup"):
        owner.hold_out(trainer, 0.4)


def test_a_single_image_cannot_be_held_out(tmp_path, write_category):
    data = MVTecAD(write_category(tmp_path / "data", size=32, train=1), "plate", num_workers=0)
    with pytest.raises(HeldOutError, match="has only 1"):
        fit(tmp_path, Learner((0.2,)), data)


def test_the_share_has_a_range(tmp_path, data):
    with pytest.raises(ValueError, match="between 0 and 1, got 1.0"):
        fit(tmp_path, Learner((1.0,)), data)


def test_a_model_can_be_fitted_after_a_failure_of_unias(tmp_path, data, tiny_arguments):
    class Failing(UniAS):
        def training_step(self, batch, *args, **kwargs):
            assert batch.features is not None
            super().training_step(batch, *args, **kwargs)
            raise ValueError

    class Looking(UniAS):
        def training_step(self, batch, *args, **kwargs):
            sizes.add(tuple(batch.image.shape[1:]))
            return super().training_step(batch, *args, **kwargs)

    sizes = set()
    before = data.train_data
    arguments = {**tiny_arguments, "visualizer": False, "evaluator": False}
    engine = {"default_root_dir": tmp_path, "max_steps": 9, "barebones": True, "accelerator": "cpu"}
    failing = Failing(**arguments, feature_cache="memory", post_processor=CadaPostProcessor())
    with pytest.raises(ValueError):  # noqa: PT011
        Engine(**engine).fit(failing, datamodule=data)
    assert data.train_data is before
    # Images of a placeholder would have a single value.
    assert data.train_data[0].image.unique().numel() > 100
    Engine(**engine).fit(Looking(**arguments, feature_cache="off"), datamodule=data)
    assert sizes == {(3, 64, 96)}
