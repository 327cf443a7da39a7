"""Base class of callbacks that several parts of a run share."""

from typing import TypeVar

from lightning.pytorch import Callback, Trainer

_Shared = TypeVar("_Shared", bound="SharedCallback")


class SharedCallback(Callback):
    """A callback that exists once per trainer, whoever asks for it first. It has no constructor arguments."""

    @classmethod
    def of(cls: type[_Shared], trainer: Trainer) -> _Shared:
        """Get the callback of a trainer, or add one.

        It is added as the first callback: so it cleans up after an error even if another callback raises an error then.

        Args:
            trainer (Trainer): Any trainer, also while its callbacks are being called.

        Returns:
            SharedCallback: The callback, always the same one for a trainer.
        """
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if type(callback) is cls:
                return callback
        added = cls()
        # A new list: Lightning may be iterating over the old one.
        trainer.callbacks = [added, *trainer.callbacks]  # type: ignore[attr-defined]
        return added
