"""Limits, progress, loaders and validation of Lightning's trainer."""

import copy
from typing import Any, cast

from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loops.utilities import _reset_progress
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import Sampler


class AttachedBeforeLimits(LightningModule):
    """A model with a hook that runs before the trainer applies the limits of a fit.

    Lightning 2.6 replaces a missing limit by 1000 epochs before it calls its first hook. It attaches the trainer to the
    model even earlier.
    """

    def on_attach_to_fit(self, trainer: Trainer) -> None:
        """Called when a trainer gets the model to fit. Does nothing by default.

        Args:
            trainer (Trainer): Trainer that has not applied its limits yet.
        """

    @property
    def trainer(self) -> Trainer:
        """The trainer that the model is attached to."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING:
            self.on_attach_to_fit(trainer)


def validate_within_fit(trainer: Trainer) -> None:
    """Validate within a fit, when Lightning would not.

    Lightning 2.6 has no call for this: ``trainer.validate`` in a hook turns the whole run into a validation, and its
    ``on_fit_end`` is never called. This function does what the training loop does for its own validations.

    Args:
        trainer (Trainer): Trainer of a run whose training has ended.
    """
    trainer.validating = True
    try:
        trainer.fit_loop.epoch_loop.val_loop.run()
    finally:
        trainer.training = True


def validate_again(trainer: Trainer) -> None:
    """Validate a model that has changed since its last validation, within a fit.

    Callbacks that save checkpoints or stop the training have seen this step already, and Lightning 2.6 would count it
    twice. They are left out.

    Args:
        trainer (Trainer): Trainer of a run whose training has ended.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    trainer.callbacks = [  # type: ignore[attr-defined]
        callback for callback in callbacks if not isinstance(callback, Checkpoint | EarlyStopping)
    ]
    try:
        validate_within_fit(trainer)
    finally:
        trainer.callbacks = callbacks  # type: ignore[attr-defined]


def reset_progress(trainer: Trainer) -> None:
    """Let a trainer count steps and epochs from zero.

    Lightning 2.6 continues to count when it gets another model, and resets its counters only in private functions.

    Args:
        trainer (Trainer): Trainer that has fitted another model before.
    """
    _reset_progress(trainer.fit_loop)
    trainer.fit_loop.epoch_loop._batches_that_stepped = 0


def reset_callback(callback: Callback, state: dict[str, Any]) -> None:
    """Reset a callback to its state before its first run.

    In Lightning 2.6 the step of the last checkpoint is not in the state of a ``ModelCheckpoint``: at the same step of
    another run it would write no checkpoint.

    Args:
        callback (Callback): A ``ModelCheckpoint`` or an ``EarlyStopping``.
        state (dict[str, Any]): Its ``state_dict`` before the first run.
    """
    if isinstance(callback, ModelCheckpoint):
        # The first run chooses the folder, unless the user did; Lightning loads no state with another folder.
        state = {**state, "dirpath": callback.dirpath}
        callback._last_global_step_saved = 0
    callback.load_state_dict(copy.deepcopy(state))


def validation_interval(trainer: Trainer) -> int | float | None:
    """Get the interval between validations.

    If the user has set the interval as a time, a trainer of Lightning 2.6 has no attribute ``val_check_interval``.

    Args:
        trainer (Trainer): Any trainer.

    Returns:
        int | float | None: Number of batches, or share of an epoch; ``None`` if it is a time.
    """
    return getattr(trainer, "val_check_interval", None)


def discard_train_loader(trainer: Trainer) -> None:
    """Let a fit make its loader of training images again.

    To count the steps of a run that is limited by epochs, Lightning 2.6 makes the loader before ``on_fit_start``, and
    keeps it even if the data change.

    Args:
        trainer (Trainer): Trainer in ``on_fit_start``.
    """
    trainer.fit_loop._combined_loader = None


def train_fetcher(trainer: Trainer) -> Any:
    """Get the object that yields the batches of a fit; ``iter`` makes its iterator anew.

    Lightning 2.6 draws the order of the images of a resumed epoch before any hook can set the random numbers, and
    keeps the fetcher private.

    Args:
        trainer (Trainer): Trainer in or after ``on_train_start``.

    Returns:
        Any: Iterable with an attribute ``iterator``; ``None`` if it does not exist yet.
    """
    return trainer.fit_loop._data_fetcher


def wrapped_sampler(sampler: DistributedSamplerWrapper) -> Sampler:
    """Get the sampler that Lightning wraps when several processes share a data set.

    Lightning 2.6 keeps it in a private attribute of a data set that it makes from the sampler.

    Args:
        sampler (DistributedSamplerWrapper): Sampler of a loader.

    Returns:
        Sampler: The sampler of the datamodule.
    """
    return cast("Any", sampler.dataset)._sampler


def can_clip_fused(trainer: Trainer) -> bool:
    """Tell whether the gradients of a fused optimiser can be clipped.

    Lightning 2.6 refuses that in mixed precision.

    Args:
        trainer (Trainer): Trainer of the run.

    Returns:
        bool: Whether an optimiser may be fused.
    """
    return not isinstance(trainer.precision_plugin, MixedPrecision)
