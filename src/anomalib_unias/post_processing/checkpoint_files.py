"""Puts a calibration that was fitted after training into the checkpoints that training has written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from anomalib.models.components import AnomalibModule
from anomalib.utils.serialization import anomalib_safe_globals
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


def load_best_weights(trainer: Trainer, module: AnomalibModule) -> int:
    """Load the weights that a monitored checkpoint was kept for, if they are not the last ones.

    Args:
        trainer (Trainer): At the end of training.
        module (AnomalibModule): Its model, in place.

    Returns:
        int: Global step that the weights of the model belong to.
    """
    # anomalib's Engine adds a callback without monitor to one of Lightning's with monitor.
    monitoring = (
        callback.best_model_path
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None
    )
    path = next((Path(name) for name in monitoring if name and Path(name).is_file()), None)
    if path is None:
        return trainer.global_step
    checkpoint = _read(path, module)
    if checkpoint["global_step"] != trainer.global_step:
        module.load_state_dict(checkpoint["state_dict"])
    return int(checkpoint["global_step"])


def rewrite_checkpoints(
    trainer: Trainer, module: AnomalibModule, step: int, update: Callable[[dict[str, Any]], None]
) -> list[Path]:
    """Write the state of the model into the checkpoints that were written at a step; the rest of them stays.

    Optimisers and loops in a checkpoint are untouched, so that training can be resumed from it as before.

    Args:
        trainer (Trainer): At the end of training.
        module (AnomalibModule): Its model.
        step (int): Global step that the weights of the model belong to.
        update (Callable[[dict[str, Any]], None]): Makes further changes to a checkpoint, in place.

    Returns:
        list[Path]: Files that were rewritten.
    """
    state = trainer.strategy.lightning_module_state_dict()
    rewritten = []
    if trainer.is_global_zero:
        for path in sorted(_written_files(trainer)):
            checkpoint = _read(path, module)
            if checkpoint["global_step"] != step:
                continue
            checkpoint["state_dict"] = state
            update(checkpoint)
            trainer.strategy.checkpoint_io.save_checkpoint(checkpoint, path)
            rewritten.append(path)
    trainer.strategy.barrier()
    return rewritten


def _written_files(trainer: Trainer) -> set[Path]:
    # A run that is resumed from its last step writes no other one.
    names = {str(trainer.ckpt_path or "")}
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            names |= {callback.best_model_path, callback.last_model_path, *callback.best_k_models}
    # save_last="link" makes two names for one file.
    return {Path(name).resolve() for name in names if name and Path(name).is_file()}


def _read(path: Path, module: AnomalibModule) -> dict[str, Any]:
    with anomalib_safe_globals(extra=module.checkpoint_safe_globals()):
        return torch.load(path, map_location="cpu", weights_only=True)
