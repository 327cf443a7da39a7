"""Callbacks that several parts of a run share."""

from typing import TypeVar

from lightning.pytorch import Callback, Trainer

_Shared = TypeVar("_Shared", bound="SharedCallback")


class SharedCallback(Callback):
    """A callback of which a trainer has one, whoever asks for it first. It has no constructor arguments."""

    @classmethod
    def of(cls: type[_Shared], trainer: Trainer) -> _Shared:
        """Find the one that a trainer has, or give it one.

        It comes first: what it undoes is undone even if another callback raises after an error.

        Args:
            trainer (Trainer): Any trainer, also while its callbacks are being called.

        Returns:
            SharedCallback: Always the same one for a trainer.
        """
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if type(callback) is cls:
                return callback
        added = cls()
        # A new list: Lightning may be walking through the old one.
        trainer.callbacks = [added, *trainer.callbacks]  # type: ignore[attr-defined]
        return added
