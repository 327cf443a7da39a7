"""Training that ends when the loss is flat."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

_STEPS_BETWEEN_LOOKS = 20


def is_flat(losses: Sequence[float], share: float = 0.2, least: int = 200, gain: float = 0.01) -> bool:
    """Whether the mean loss of the last window is not better than that of the window before.

    Args:
        losses (Sequence[float]): Loss of every step.
        share (float): Length of a window, as share of the steps. Defaults to ``0.2``.
        least (int): Its least length. Defaults to ``200``.
        gain (float): What counts as better, as share of the mean of the window before. Defaults to ``0.01``.

    Returns:
        bool: ``False`` while there are no two windows.

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
    """Ends training when the loss is flat, but not before a least wall time, and at latest after a longest one.

    Args:
        least_seconds (float): Least wall time.
        most_seconds (float): Longest wall time.

    Attributes:
        flat: Whether the loss was flat when training ended.
        losses: Loss of every step.

    Raises:
        ValueError: If the longest time is less than the least.
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
        """Note the loss, and end training if it is time."""
        del pl_module, batch, batch_idx
        self.losses.append(float(outputs["loss"]))
        seconds = time.perf_counter() - self._started
        over = seconds >= self.most_seconds
        if over or (seconds >= self.least_seconds and len(self.losses) % _STEPS_BETWEEN_LOOKS == 0):
            self.flat = is_flat(self.losses)
            if over or self.flat:
                trainer.should_stop = True
