"""Callbacks that several parts of a run share."""

from typing import TypeVar

from lightning.pytorch import Callback, Trainer

_Shared = TypeVar("_Shared", bound=Callback)


def shared_callback(trainer: Trainer, kind: type[_Shared]) -> _Shared:
    """Find the callback of a kind that a trainer has, or give it one.

    It comes first: what it undoes is undone even if another callback raises after an error.

    Args:
        trainer (Trainer): Any trainer, also while its callbacks are being called.
        kind (type[_Shared]): Class without constructor arguments.

    Returns:
        _Shared: The only one of this class.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if type(callback) is kind:
            return callback
    added = kind()
    # A new list: Lightning may be walking through the old one.
    trainer.callbacks = [added, *trainer.callbacks]  # type: ignore[attr-defined]
    return added
