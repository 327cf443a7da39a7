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
    """A model that is called before the trainer looks at the limits of a fit.

    Lightning 2.6 replaces a missing limit by 1000 epochs before it calls the first hook. The trainer is attached to
    the model still earlier.
    """

    def on_attach_to_fit(self, trainer: Trainer) -> None:
        """Called when a trainer is given the model to fit. By default nothing is done.

        Args:
            trainer (Trainer): Has not looked at its limits yet.
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

    Lightning 2.6 has no call for it: ``trainer.validate`` in a hook makes a validation of the whole run, whose
    ``on_fit_end`` is never called. This does what the training loop does for a validation of its own.

    Args:
        trainer (Trainer): Of a run whose training has ended.
    """
    trainer.validating = True
    try:
        trainer.fit_loop.epoch_loop.val_loop.run()
    finally:
        trainer.training = True


def validate_again(trainer: Trainer) -> None:
    """Validate a model that has changed since its last validation, within a fit.

    What keeps checkpoints or stops training has seen this step already: Lightning 2.6 would count it twice.

    Args:
        trainer (Trainer): Of a run whose training has ended.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    trainer.callbacks = [  # type: ignore[attr-defined]
        callback for callback in callbacks if not isinstance(callback, Checkpoint | EarlyStopping)
    ]
    try:
        validate_within_fit(trainer)
    finally:
        trainer.callbacks = callbacks  # type: ignore[attr-defined]


def forget_progress(trainer: Trainer) -> None:
    """Let a trainer count steps and epochs from zero.

    Lightning 2.6 goes on counting when it is given another model, and resets its counts in private functions only.

    Args:
        trainer (Trainer): That has fitted another model before.
    """
    _reset_progress(trainer.fit_loop)
    trainer.fit_loop.epoch_loop._batches_that_stepped = 0


def forget_results(callback: Callback, state: dict[str, Any]) -> None:
    """Put a callback back to its state before its first run.

    The step of the last checkpoint is no part of the state of a ``ModelCheckpoint`` of Lightning 2.6: at the same step
    of another run it writes none.

    Args:
        callback (Callback): A ``ModelCheckpoint`` or an ``EarlyStopping``.
        state (dict[str, Any]): Its ``state_dict`` of that time.
    """
    if isinstance(callback, ModelCheckpoint):
        # The folder is chosen in the first run, if the user has not; Lightning loads no state of another one.
        state = {**state, "dirpath": callback.dirpath}
        callback._last_global_step_saved = 0
    callback.load_state_dict(copy.deepcopy(state))


def validation_interval(trainer: Trainer) -> int | float | None:
    """Get the interval between validations.

    For a user who wants one every so many minutes, a trainer of Lightning 2.6 has no ``val_check_interval`` at all.

    Args:
        trainer (Trainer): Any.

    Returns:
        int | float | None: Batches, or share of an epoch; ``None`` if it is a time.
    """
    return getattr(trainer, "val_check_interval", None)


def make_train_loader_anew(trainer: Trainer) -> None:
    """Let a fit ask for its loader of training images once more.

    To count the steps of a run that is limited by epochs, Lightning 2.6 makes it before ``on_fit_start``, and keeps it
    whatever happens to the data.

    Args:
        trainer (Trainer): In ``on_fit_start``.
    """
    trainer.fit_loop._combined_loader = None


def train_fetcher(trainer: Trainer) -> Any:
    """Get what hands out the batches of a fit; its iterator is made anew by ``iter``.

    Lightning 2.6 draws the order of the images of a resumed epoch before any hook can set the random numbers, and
    keeps the fetcher private.

    Args:
        trainer (Trainer): In or after ``on_train_start``.

    Returns:
        Any: Iterable with an attribute ``iterator``; ``None`` before there is one.
    """
    return trainer.fit_loop._data_fetcher


def wrapped_sampler(sampler: DistributedSamplerWrapper) -> Sampler:
    """Get the sampler that Lightning wraps where several processes share a data set.

    Lightning 2.6 keeps it in a private attribute of a data set that it makes of the sampler.

    Args:
        sampler (DistributedSamplerWrapper): Of a loader.

    Returns:
        Sampler: What the datamodule has given.
    """
    return cast("Any", sampler.dataset)._sampler


def can_clip_fused(trainer: Trainer) -> bool:
    """Tell whether the gradients of a fused optimiser can be clipped.

    Lightning 2.6 refuses to in mixed precision.

    Args:
        trainer (Trainer): Of the run.

    Returns:
        bool: Whether an optimiser may be fused.
    """
    return not isinstance(trainer.precision_plugin, MixedPrecision)
