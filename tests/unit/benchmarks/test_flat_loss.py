"""When training of a peer ends."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

flat_loss = pytest.importorskip("benchmarks.flat_loss", reason="benchmarks are not part of a source distribution")
is_flat, FlatLoss = flat_loss.is_flat, flat_loss.FlatLoss


@pytest.mark.parametrize(
    ("before", "last", "expected"),
    [(1.0, 1.0, True), (1.0, 1.2, True), (1.0, 0.991, True), (1.0, 0.989, False), (-1.0, -1.009, True)],
)
def test_flat_unless_better_by_one_per_cent(before, last, expected):
    assert is_flat([before] * 200 + [last] * 200) is expected


def test_windows_grow_with_the_steps():
    losses = [5.0] * 1200 + [1.0] * 400 + [0.9] * 400
    assert not is_flat(losses)
    assert is_flat(losses, share=0.1)  # the last two windows are alike


def test_not_flat_before_two_windows():
    assert not is_flat([1.0] * 399)
    assert is_flat([1.0] * 30, least=15)


def test_longest_time_is_not_less_than_the_least():
    with pytest.raises(ValueError, match=r"2 s, is less than the least, 3 s"):
        FlatLoss(3, 2)


class Constant(LightningModule):
    """Has a loss that goes down to a floor."""

    def __init__(self, falls: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.falls = falls

    def training_step(self, batch, batch_idx):
        del batch, batch_idx
        return self.weight * 0 + max(1.0, self.falls - self.global_step)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def steps(callback, tmp_path, falls=0):
    trainer = Trainer(
        max_epochs=-1,
        callbacks=[callback],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Constant(falls), DataLoader(range(30)))
    return trainer.global_step


def test_training_ends_in_the_middle_of_an_epoch_when_the_loss_is_flat(tmp_path):
    callback = FlatLoss(0, 100)
    assert steps(callback, tmp_path) == 400
    assert callback.flat


def test_training_goes_on_while_the_loss_falls(tmp_path):
    assert steps(FlatLoss(0, 100), tmp_path, falls=300) > 600


def test_training_takes_the_least_time(tmp_path, monkeypatch):
    seconds = iter(range(10_000))
    monkeypatch.setattr(flat_loss.time, "perf_counter", lambda: float(next(seconds)))
    assert steps(FlatLoss(555, 10_000), tmp_path) == 560


def test_training_ends_at_the_longest_time_and_says_that_the_loss_was_not_flat(tmp_path, monkeypatch):
    seconds = iter(range(10_000))
    monkeypatch.setattr(flat_loss.time, "perf_counter", lambda: float(next(seconds)))
    callback = FlatLoss(0, 333)
    assert steps(callback, tmp_path, falls=1000) == 333
    assert not callback.flat
