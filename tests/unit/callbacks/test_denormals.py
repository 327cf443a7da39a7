"""The CPU is left as it was."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from anomalib_unias.callbacks import FlushDenormals
from anomalib_unias.callbacks.denormals import denormals_are_flushed


class Learner(LightningModule):
    def __init__(self, failure=None):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.failure, self.flushed = failure, []

    def training_step(self, batch, _index):
        self.flushed.append(denormals_are_flushed())
        if self.failure is not None:
            raise self.failure
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture(params=[False, True])
def before(request):
    torch.set_flush_denormal(request.param)
    yield request.param
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("failure", [None, ValueError()])
def test_denormals_are_flushed_during_training_alone(before, failure):
    assert denormals_are_flushed() == before
    model = Learner(failure)
    trainer = Trainer(
        max_steps=1,
        accelerator="cpu",
        callbacks=[FlushDenormals()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    try:
        trainer.fit(model, DataLoader(torch.ones(1, 1)))
    except ValueError:
        assert failure is not None
    assert model.flushed == [True]
    assert denormals_are_flushed() == before


def test_unias_has_it(tiny_arguments):
    from anomalib_unias import UniAS

    assert any(isinstance(callback, FlushDenormals) for callback in UniAS(**tiny_arguments).configure_callbacks())
