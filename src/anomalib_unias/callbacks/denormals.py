"""Flush denormal numbers, which make training slow on a CPU."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class FlushDenormals(Callback):
    """Rounds denormal numbers to zero during training, and restores the setting of the CPU afterwards.

    To the optimiser, gradients that underflow are zeros, but a CPU computes many times slower with denormal numbers.
    """

    def __init__(self) -> None:
        self._before: bool | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start rounding to zero."""
        del trainer, pl_module
        self._before = denormals_are_flushed()
        torch.set_flush_denormal(True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the setting of the CPU."""
        del trainer, pl_module
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the setting of the CPU: Lightning does not call ``on_train_end`` after an error."""
        del trainer, pl_module, exception
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            torch.set_flush_denormal(self._before)
            self._before = None


def denormals_are_flushed() -> bool:
    """Tell whether this thread rounds denormal numbers to zero.

    Returns:
        bool: ``False`` at the start of a process.
    """
    smallest = torch.full((1,), torch.finfo(torch.float32).tiny)
    return bool((smallest / 2 == 0).item())
