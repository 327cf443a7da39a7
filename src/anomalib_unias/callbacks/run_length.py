"""Length of a run, and when it is validated, if the user has not set them."""

import copy
import math
import weakref
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer

from anomalib_unias.compat.trainer import reset_callback, reset_progress, validate_within_fit, validation_interval

from .shared import SharedCallback

VALIDATIONS = 10
"""Number of validations of a run that ends by steps, if a callback monitors a metric."""


class RunLength(SharedCallback):
    """Gives a run its default length, and validates it at its end.

    In anomalib 2.7.0 the ``trainer_arguments`` of a model replace those of the user, and the model cannot see the
    values of the user. Therefore the model returns no limit, and this callback sets one on the trainer for a single
    run, if the user gave none of ``max_steps``, ``max_epochs`` and ``max_time``.

    Lightning validates at the end of epochs, and a run that ends by steps seldom ends there: its thresholds and its
    checkpoint would belong to older weights. Such a run is validated after its last step and, if a callback monitors a
    metric (``EarlyStopping``, ``ModelCheckpoint``), also after every tenth of the run. Without such a callback, a model
    whose post-processor validates it after the training is validated only then; checkpoints are written after every
    epoch. If the user has set ``val_check_interval`` or ``check_val_every_n_epoch``, only that setting counts.
    """

    def __init__(self) -> None:
        self._original_limits: dict[str, Any] | None = None
        self._model: weakref.ref[LightningModule] | None = None
        self._unused: list[tuple[Callback, dict[str, Any]]] = []
        self._validates_at_end = False
        self._trained = False

    def begin(self, trainer: Trainer, model: LightningModule, steps: int) -> None:
        """Set what the user has not set, until the run ends.

        Args:
            trainer (Trainer): Trainer that gets the model to fit. It has not applied its limits yet: it will replace a
                ``max_epochs`` of ``None`` by 1000.
            model (LightningModule): The model.
            steps (int): Default length of the run, in steps of the optimiser.

        Raises:
            ValueError: If ``steps`` is not a whole number from 1.
        """
        if not isinstance(steps, int) or steps < 1:
            msg = f"training_steps must be a whole number from 1, got {steps!r}."
            raise ValueError(msg)
        self._end(trainer)  # a run that failed before its callbacks were called
        self._reset_for_other_model(trainer, model)
        self._trained = False
        loop = trainer.fit_loop
        self._original_limits = {
            "max_steps": loop.epoch_loop.max_steps,
            "max_epochs": loop.max_epochs,
            "val_check_interval": validation_interval(trainer),
            "check_val_every_n_epoch": trainer.check_val_every_n_epoch,
            "limit_val_batches": trainer.limit_val_batches,
        }
        timed = any(isinstance(callback, Timer) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if loop.epoch_loop.max_steps == -1 and loop.max_epochs is None and not timed:
            loop.epoch_loop.max_steps = steps
        self._plan_validations(trainer, model, only_steps=loop.max_epochs in {None, -1} and not timed)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the run trains."""
        del trainer, pl_module
        self._trained = True

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Make Lightning validate after the last step of a run."""
        del args, kwargs
        if self._validates_at_end and trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
            trainer.val_check_batch = 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Allow validations again, before the post-processor is called."""
        del pl_module
        self._allow_validations(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate a resumed model whose run stopped after the last step but before the validation.

        Lightning ends such a resumed run at once: its thresholds and its checkpoint would be missing.
        """
        self._allow_validations(trainer)
        # A calibrated model was validated for its calibration, and its thresholds may come from other images.
        calibrated = getattr(getattr(pl_module, "post_processor", None), "calibration", None) is not None
        if not self._trained and trainer.ckpt_path and trainer.enable_validation and not calibrated:
            validate_within_fit(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the limits of the trainer: Lightning does not call ``teardown`` after an error."""
        del pl_module, exception
        self._end(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the limits of the trainer."""
        del pl_module, stage
        self._end(trainer)

    def _plan_validations(self, trainer: Trainer, model: LightningModule, *, only_steps: bool) -> None:
        # The default is one epoch, 1.0; the number 1 is one batch.
        default = isinstance(interval := validation_interval(trainer), float) and interval == 1.0
        self._validates_at_end = default and trainer.check_val_every_n_epoch == 1
        if not self._validates_at_end or not only_steps or trainer.max_steps == -1:
            return
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        monitored = any(getattr(callback, "monitor", None) is not None for callback in callbacks)
        if not monitored and getattr(getattr(model, "post_processor", None), "validates_after_training", False):
            trainer.limit_val_batches = 0
            return
        interval = -(-trainer.max_steps // VALIDATIONS) if monitored else trainer.max_steps
        # Lightning counts the interval in batches, which are steps only without gradient accumulation.
        trainer.val_check_interval = max(1, interval * trainer.accumulate_grad_batches)
        trainer.check_val_every_n_epoch = None

    def _allow_validations(self, trainer: Trainer) -> None:
        if self._original_limits is not None:
            trainer.limit_val_batches = self._original_limits["limit_val_batches"]

    def _end(self, trainer: Trainer) -> None:
        self._allow_validations(trainer)
        if self._original_limits is not None:
            trainer.fit_loop.epoch_loop.max_steps = self._original_limits["max_steps"]
            trainer.fit_loop.max_epochs = self._original_limits["max_epochs"]
            if self._original_limits["val_check_interval"] is not None:
                trainer.val_check_interval = self._original_limits["val_check_interval"]
            trainer.check_val_every_n_epoch = self._original_limits["check_val_every_n_epoch"]
        self._original_limits, self._validates_at_end = None, False

    def _reset_for_other_model(self, trainer: Trainer, model: LightningModule) -> None:
        """Reset the counters of a trainer that has trained another model, and forget that model's checkpoints."""
        if self._model is None:
            self._unused = [
                (callback, copy.deepcopy(callback.state_dict()))
                for callback in trainer.callbacks  # type: ignore[attr-defined]
                if isinstance(callback, EarlyStopping | ModelCheckpoint)
            ]
        elif self._model() is not model:
            reset_progress(trainer)
            for callback, state in self._unused:
                reset_callback(callback, state)
        self._model = weakref.ref(model)


def planned_images(trainer: Trainer, batch_size: int, images: int) -> float:
    """Number of images that a run draws, including repeated ones.

    Args:
        trainer (Trainer): Trainer at the start of the run.
        batch_size (int): Number of images in a batch.
        images (int): Number of training images.

    Returns:
        float: Infinite if neither steps nor epochs are limited.
    """
    count = math.inf
    if trainer.max_steps not in {-1, None}:
        count = trainer.max_steps * batch_size * trainer.accumulate_grad_batches * trainer.world_size
    if trainer.max_epochs not in {-1, None}:
        limit = trainer.limit_train_batches
        epoch = limit * batch_size if isinstance(limit, int) else images * limit
        count = min(count, trainer.max_epochs * min(epoch, images))
    return count
