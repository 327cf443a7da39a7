"""Writes a calibration that was fitted after training into the checkpoints of the training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from anomalib.models.components import AnomalibModule
from anomalib.utils.serialization import anomalib_safe_globals
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


def load_best_weights(trainer: Trainer, module: AnomalibModule) -> int:
    """Load the weights of the best monitored checkpoint, if they are not the last ones.

    Args:
        trainer (Trainer): Trainer at the end of training.
        module (AnomalibModule): Its model, changed in place.

    Returns:
        int: Global step of the weights that the model has now.
    """
    # anomalib's Engine adds a checkpoint callback without monitor, even if there is one with monitor.
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
    """Write the state of the model into the checkpoints of one step.

    The states of optimisers and loops in a checkpoint do not change, so that training can be resumed as before.

    Args:
        trainer (Trainer): Trainer at the end of training.
        module (AnomalibModule): Its model.
        step (int): Global step of the model's weights; checkpoints of other steps are left alone.
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
    # A run that is resumed from its last step writes no new checkpoint.
    names = {str(trainer.ckpt_path or "")}
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            names |= {callback.best_model_path, callback.last_model_path, *callback.best_k_models}
    # With save_last="link" one file has two names.
    return {Path(name).resolve() for name in names if name and Path(name).is_file()}


def _read(path: Path, module: AnomalibModule) -> dict[str, Any]:
    with anomalib_safe_globals(extra=module.checkpoint_safe_globals()):
        return torch.load(path, map_location="cpu", weights_only=True)
