"""Checkpoints that a calibration is added to."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from anomalib_unias.post_processing.checkpoint_files import load_best_weights, rewrite_checkpoints


class Model(nn.Linear):
    """A model with one weight."""

    def __init__(self, weight):
        super().__init__(1, 1, bias=False)
        nn.init.constant_(self.weight, weight)

    def checkpoint_safe_globals(self):
        return []


def save(path, step, weight):
    torch.save({"global_step": step, "state_dict": Model(weight).state_dict(), "optimizer_states": [step]}, path)
    return str(path)


def callback(monitor=None, best="", last="", others=()):
    made = ModelCheckpoint(monitor=monitor)
    made.best_model_path, made.last_model_path = best, last
    made.best_k_models = dict.fromkeys(others, 0.0)
    return made


def trainer(*callbacks, step, module=None, ckpt_path=None, zero=True):
    strategy = SimpleNamespace(
        lightning_module_state_dict=lambda: module.state_dict(),
        checkpoint_io=TorchCheckpointIO(),
        barrier=lambda: None,
    )
    return SimpleNamespace(
        checkpoint_callbacks=callbacks, global_step=step, strategy=strategy, ckpt_path=ckpt_path, is_global_zero=zero
    )


def test_best_weights_of_the_monitored_checkpoint_are_loaded(tmp_path):
    best, last = save(tmp_path / "best.ckpt", 3, 0.5), save(tmp_path / "last.ckpt", 9, 9.0)
    model = Model(9.0)
    assert load_best_weights(trainer(callback(best=last), callback("image_AUROC", best=best), step=9), model) == 3
    assert model.weight.item() == 0.5


@pytest.mark.parametrize("name", ["best.ckpt", "gone.ckpt"])
def test_last_weights_stay_if_nothing_is_monitored_or_the_file_is_gone(tmp_path, name):
    best = save(tmp_path / "best.ckpt", 3, 0.5)
    monitor = None if name == "best.ckpt" else "image_AUROC"
    model = Model(9.0)
    assert load_best_weights(trainer(callback(monitor, best=str(tmp_path / name)), step=9), model) == 9
    assert model.weight.item() == 9
    assert best


def test_weights_of_the_last_step_are_not_read_again(tmp_path):
    """They could be of a lower precision in the file."""
    model = Model(9.0)
    assert load_best_weights(trainer(callback("x", best=save(tmp_path / "a.ckpt", 9, 8.99)), step=9), model) == 9
    assert model.weight.item() == 9


def test_all_checkpoints_of_the_step_are_rewritten_and_no_other(tmp_path):
    files = [save(tmp_path / f"{index}.ckpt", step, 1.0) for index, step in enumerate((9, 9, 3))]
    (tmp_path / "link.ckpt").symlink_to(files[0])
    made = callback(best=files[0], last=str(tmp_path / "link.ckpt"), others=files[1:])
    model = Model(4.0)
    run = trainer(made, step=9, module=model, ckpt_path=str(tmp_path / "gone.ckpt"))
    rewritten = rewrite_checkpoints(run, model, 9, lambda checkpoint: checkpoint.update(calibration="new"))
    assert [path.name for path in rewritten] == ["0.ckpt", "1.ckpt"]
    assert (tmp_path / "link.ckpt").is_symlink()
    read = [torch.load(path) for path in files]
    assert [one["state_dict"]["weight"].item() for one in read] == [4, 4, 1]
    assert [one.get("calibration") for one in read] == ["new", "new", None]
    assert [one["optimizer_states"] for one in read] == [[9], [9], [3]]


def test_a_resumed_run_rewrites_the_checkpoint_that_it_began_with(tmp_path):
    path = save(tmp_path / "begun.ckpt", 9, 1.0)
    model = Model(4.0)
    run = trainer(step=9, module=model, ckpt_path=path)
    assert [file.name for file in rewrite_checkpoints(run, model, 9, lambda _: None)] == ["begun.ckpt"]


def test_one_process_writes(tmp_path):
    path = save(tmp_path / "a.ckpt", 9, 1.0)
    model = Model(4.0)
    assert rewrite_checkpoints(trainer(callback(best=path), step=9, module=model, zero=False), model, 9, dict) == []
    assert torch.load(path)["state_dict"]["weight"].item() == 1
