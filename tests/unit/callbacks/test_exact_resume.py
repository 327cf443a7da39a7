"""A resumed run sees the images and draws the random numbers that the uninterrupted run does."""

from itertools import product

import pytest
import torch
from anomalib.data import MVTecAD
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from anomalib_unias import UnifiedDataModule
from anomalib_unias.callbacks import ExactResume
from anomalib_unias.callbacks.exact_resume import _generators
from anomalib_unias.data.sampling import training_sampler


class Learner(LightningModule):
    """Notes the images and a random number of every step."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.steps = []

    def training_step(self, batch, _index):
        self.steps.append((tuple(batch.image_path), torch.rand(()).item()))
        return self.layer(torch.ones(1)).sum()

    def validation_step(self, *_):
        torch.rand(3)

    def configure_callbacks(self):
        return [ExactResume()]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class StopAfter(Callback):
    def on_train_epoch_end(self, trainer, _module):
        trainer.should_stop = trainer.current_epoch == 1


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_category):
    root = write_category(tmp_path_factory.mktemp("data"), size=16, train=7)
    return write_category(root, "lid", size=16)


def unified(root, **arguments):
    return UnifiedDataModule("MVTecAD", ["plate", "lid"], root, train_batch_size=4, **arguments)


def run(folder, data, seed, *callbacks, ckpt_path=None, **limit):
    torch.manual_seed(seed)
    model = Learner()
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **limit,
    )
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return model.steps


EPOCHS, STEPS = {"max_epochs": 4}, {"max_steps": 14}


@pytest.mark.parametrize(
    ("arguments", "limit", "at_epoch_end"),
    [
        *product(
            [{}, {"seed": 3}, {"sampling": "balanced"}, {"sampling": "balanced", "seed": 3}, None],
            [EPOCHS],
            [False, True],
        ),
        *product([{"seed": 3}], [STEPS], [False, True]),
        ({"seed": 3, "num_workers": 1}, EPOCHS, False),
    ],
    ids=str,
)
def test_a_resumed_run_continues_exactly(tmp_path, root, arguments, limit, at_epoch_end):
    def data():
        if arguments is None:
            return MVTecAD(root, "plate", num_workers=0, train_batch_size=2)
        return unified(root, **{"num_workers": 0, **arguments})

    whole = run(tmp_path, data(), 7, **limit)
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=at_epoch_end)
    first = run(tmp_path, data(), 7, keep, StopAfter(), **limit)
    resumed = run(tmp_path, data(), 99, ckpt_path=tmp_path / "epoch=1.ckpt", **limit)
    assert len(first) == 8
    assert first + resumed == whole


@pytest.mark.parametrize("arguments", [{}, {"seed": 3}, {"sampling": "balanced", "seed": 3}, None], ids=str)
@pytest.mark.parametrize("limit", [EPOCHS, STEPS], ids=str)
def test_a_run_that_is_resumed_at_any_step_continues_exactly(tmp_path, root, arguments, limit):
    """Within the first epoch and another one, and with a checkpoint of the last step of an epoch.

    Lightning leaves out the validation that would have followed such a checkpoint, hence there is none here.
    """
    limit = {**limit, "limit_val_batches": 0}

    def data():
        if arguments is None:
            return MVTecAD(root, "plate", num_workers=0, train_batch_size=2)
        return unified(root, num_workers=0, **arguments)

    keep = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    whole = run(tmp_path, data(), 7, keep, **limit)
    for step in (1, 3, 4, 6, 8):
        again = ModelCheckpoint(tmp_path / str(step), "{step}", save_top_k=-1, every_n_train_steps=1)
        checkpoint = tmp_path / f"step={step}.ckpt"
        assert run(tmp_path, data(), 99, again, ckpt_path=checkpoint, **limit) == whole[step:]
    twice = tmp_path / "1" / "step=2.ckpt"
    assert run(tmp_path, data(), 98, ckpt_path=twice, **limit) == whole[2:]


def test_generators_of_samplers_are_found():
    sampler = training_sampler(["a", "b", "b"], "balanced", seed=1)
    trainer = Trainer(barebones=True)
    for given in (sampler, DistributedSamplerWrapper(sampler, num_replicas=2, rank=0)):
        loader = DataLoader(range(3), sampler=given, generator=torch.Generator())
        trainer.fit_loop._combined_loader = type("Loaders", (), {"iterables": loader})()
        assert list(_generators(trainer)) == [loader.generator, sampler.generator]
