"""What anomalib and Lightning have no hook for in the life of a post-processor."""

import weakref
from typing import Any

from anomalib.models.components import AnomalibModule
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from anomalib_unias.callbacks.run_length import validate_now


def watch_for_owner(post_processor: Any) -> None:
    """Notice the model that a post-processor becomes part of.

    ``load_from_checkpoint`` followed by ``export`` has no trainer that would call ``setup``: without its model a
    restored post-processor could not hook into it.
    """
    reference: weakref.ref[Any] = weakref.ref(post_processor)

    def notice(owner: nn.Module, name: str, submodule: Any) -> None:
        del name
        waiting = reference()
        if waiting is None:
            handle.remove()
        elif submodule is waiting and isinstance(owner, AnomalibModule):
            submodule._owner = weakref.ref(owner)
            handle.remove()

    handle = register_module_module_registration_hook(notice)


def validate_again(trainer: Trainer) -> None:
    """Validate the calibrated model, so that thresholds and normalisation belong to it.

    What keeps checkpoints or stops training has seen this step already.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    trainer.callbacks = [  # type: ignore[attr-defined]
        callback for callback in callbacks if not isinstance(callback, Checkpoint | EarlyStopping)
    ]
    try:
        validate_now(trainer)
    finally:
        trainer.callbacks = callbacks  # type: ignore[attr-defined]
