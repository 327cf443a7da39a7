"""Training that ends when the loss is flat."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

_STEPS_BETWEEN_CHECKS = 20


def is_flat(losses: Sequence[float], share: float = 0.2, least: int = 200, gain: float = 0.01) -> bool:
    """Check whether the mean loss of the last window is not better than that of the window before.

    Args:
        losses (Sequence[float]): Loss of every step.
        share (float): Length of a window, as a share of the steps. Defaults to ``0.2``.
        least (int): Minimum length of a window in steps. Defaults to ``200``.
        gain (float): Smallest improvement, as a share of the mean of the window before. Defaults to ``0.01``.

    Returns:
        bool: Whether the loss is flat; ``False`` if there are fewer steps than two windows.

    Example:
        >>> is_flat([1.0] * 400), is_flat([1.0] * 399), is_flat([1 - step / 500 for step in range(400)])
        (True, False, False)
    """
    window = max(least, int(share * len(losses)))
    if len(losses) < 2 * window:
        return False
    before, last = np.mean(losses[-2 * window : -window]), np.mean(losses[-window:])
    return bool(last >= before - gain * abs(before))


class FlatLoss(Callback):
    """Ends training when the loss is flat, within a minimum and a maximum wall time.

    Args:
        least_seconds (float): Minimum wall time.
        most_seconds (float): Maximum wall time.

    Attributes:
        flat: Whether the loss was flat when training ended.
        losses: Loss of every step.

    Raises:
        ValueError: If the maximum is less than the minimum.
    """

    def __init__(self, least_seconds: float, most_seconds: float) -> None:
        if most_seconds < least_seconds:
            msg = f"The longest time, {most_seconds:g} s, is less than the least, {least_seconds:g} s. Raise it."
            raise ValueError(msg)
        self.least_seconds = least_seconds
        self.most_seconds = most_seconds
        self.flat = False
        self.losses: list[float] = []
        self._started = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Mapping[str, Any], batch: Any, batch_idx: int
    ) -> None:
        """Record the loss, and end training if the loss is flat or the time is over."""
        del pl_module, batch, batch_idx
        self.losses.append(float(outputs["loss"]))
        seconds = time.perf_counter() - self._started
        timed_out = seconds >= self.most_seconds
        if timed_out or (seconds >= self.least_seconds and len(self.losses) % _STEPS_BETWEEN_CHECKS == 0):
            self.flat = is_flat(self.losses)
            if timed_out or self.flat:
                trainer.should_stop = True
