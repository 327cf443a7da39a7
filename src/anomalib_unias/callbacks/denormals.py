"""Denormal numbers, which make training slow on a CPU."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class FlushDenormals(Callback):
    """Rounds denormal numbers to zero during training, and leaves the CPU as it was.

    Gradients that underflow are zeros to the optimiser, but a CPU computes with denormal numbers many times slower.
    """

    def __init__(self) -> None:
        self._before: bool | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Round to zero from now on."""
        del trainer, pl_module
        self._before = denormals_are_flushed()
        torch.set_flush_denormal(True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the CPU as it was."""
        del trainer, pl_module
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the CPU as it was: Lightning does not end the training after an error."""
        del trainer, pl_module, exception
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            torch.set_flush_denormal(self._before)
            self._before = None


def denormals_are_flushed() -> bool:
    """Tell whether this thread rounds denormal numbers to zero.

    Returns:
        bool: ``False`` is what a process starts with.
    """
    smallest = torch.full((1,), torch.finfo(torch.float32).tiny)
    return bool((smallest / 2 == 0).item())
