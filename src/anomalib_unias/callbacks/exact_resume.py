"""Random numbers of a run that is resumed."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader

_KEY = "anomalib_unias_rng_state"
_CUDA_KEY = "anomalib_unias_cuda_rng_state"
_LOADER_KEY = "anomalib_unias_loader_rng_states"


class ExactResume(Callback):
    """Lets a run that is resumed from the end of an epoch go on as if it had not stopped.

    Checkpoints hold the state of the global generators of random numbers, and of the generators that the loader of the
    training images and its samplers have of their own. In several processes each goes on with the state of the first.
    """

    def __init__(self) -> None:
        self._resumed: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the state of all generators."""
        checkpoint[_KEY] = torch.get_rng_state()
        if pl_module.device.type == "cuda":
            checkpoint[_CUDA_KEY] = torch.cuda.get_rng_state(pl_module.device)
        checkpoint[_LOADER_KEY] = [generator.get_state() for generator in _generators(trainer)]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the state of all generators until an epoch begins."""
        del trainer, pl_module
        self._resumed = checkpoint if _KEY in checkpoint else None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the random numbers where the interrupted run would have."""
        if self._resumed is None:
            return
        state, self._resumed = self._resumed, None
        torch.set_rng_state(state[_KEY].cpu())
        if _CUDA_KEY in state and pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(state[_CUDA_KEY].cpu(), pl_module.device)
        generators = list(_generators(trainer))
        if len(generators) == len(state.get(_LOADER_KEY, [])):
            for generator, saved in zip(generators, state[_LOADER_KEY], strict=True):
                generator.set_state(saved.cpu())
        loop = trainer.fit_loop
        if loop._data_fetcher is not None and (loop.is_resuming or loop.restarting):
            # Lightning has drawn the order of images before it could be told the state, and would not again.
            iter(loop._data_fetcher)


def _generators(trainer: Trainer) -> Iterator[torch.Generator]:
    """Generators that the training loaders and their samplers have of their own, each once."""
    seen: set[int] = set()
    for loader in CombinedLoader(trainer.train_dataloader).flattened:
        for part in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
            if isinstance(part, DistributedSamplerWrapper):
                part = part.dataset._sampler  # type: ignore[attr-defined]
            generator = getattr(part, "generator", None)
            if isinstance(generator, torch.Generator) and id(generator) not in seen:
                seen.add(id(generator))
                yield generator
