"""Restore the random numbers of a resumed run."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader

from anomalib_unias.compat.trainer import train_fetcher, wrapped_sampler

_KEY = "anomalib_unias_rng_state"
_CUDA_KEY = "anomalib_unias_cuda_rng_state"
_LOADER_KEY = "anomalib_unias_loader_rng_states"
_EPOCH_KEY = "anomalib_unias_epoch_start"

States = dict[str, Any]
"""States of all generators, by the keys that they have in a checkpoint."""


class ExactResume(Callback):
    """Continues a resumed run as if it had not stopped.

    Checkpoints store the states of the global random number generators and of the own generators of the training
    loader and its samplers: the current states, and those at the start of the epoch. To resume within an epoch, the
    order of its images is drawn again, and images that were already seen are read and skipped. With several processes,
    each one continues with the state of the first. One exception: in the rest of the very first epoch, worker processes
    that augment images draw other random numbers.
    """

    def __init__(self) -> None:
        self._resumed: dict[str, Any] | None = None
        self._epoch: States | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the state of all generators."""
        checkpoint.update(_states(trainer, pl_module))
        checkpoint[_EPOCH_KEY] = self._epoch

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the state of all generators until the training begins."""
        del trainer, pl_module
        self._resumed = checkpoint if _KEY in checkpoint else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue within an epoch, for which Lightning does not call ``on_train_epoch_start``."""
        loop = trainer.fit_loop
        if self._resumed is None or not loop.restarted_mid_epoch:
            return
        fetcher = train_fetcher(trainer)
        progress: Any = loop.epoch_loop.batch_progress.current
        processed = progress.processed
        complete = processed >= trainer.num_training_batches
        if complete and not loop.epoch_loop.restarted_on_train_batch_end:
            return  # saved in the validation at the end of an epoch: no batch is left of it, the next one begins
        state, self._resumed = self._resumed, None
        self._epoch = state.get(_EPOCH_KEY)
        if complete or self._epoch is None:
            self._begin_epoch(trainer, pl_module, state)
            iter(fetcher)
            return
        _restore(trainer, pl_module, self._epoch)
        iter(fetcher)
        if self._epoch["iterator_exists"]:
            # Lightning makes the iterator of the first epoch, which draws a number, before the epoch begins.
            _restore(trainer, pl_module, self._epoch)
        for _ in range(processed):
            next(fetcher.iterator)
        _restore(trainer, pl_module, state)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue with the random numbers that the interrupted run would have used."""
        loop = trainer.fit_loop
        if self._resumed is None:
            first = trainer.current_epoch == 0
            self._epoch = {**_states(trainer, pl_module), "iterator_exists": first}
            return
        state, self._resumed = self._resumed, None
        self._begin_epoch(trainer, pl_module, state)
        fetcher = train_fetcher(trainer)
        if fetcher is not None and (loop.is_resuming or loop.restarting):
            # Lightning drew the order of images before the state could be restored, and would not draw it again.
            iter(fetcher)

    def _begin_epoch(self, trainer: Trainer, pl_module: LightningModule, state: States) -> None:
        """Begin an epoch with the random numbers of a checkpoint."""
        _restore(trainer, pl_module, state)
        self._epoch = {**_states(trainer, pl_module), "iterator_exists": False}


def _states(trainer: Trainer, pl_module: LightningModule) -> States:
    states: States = {_KEY: torch.get_rng_state()}
    if pl_module.device.type == "cuda":
        states[_CUDA_KEY] = torch.cuda.get_rng_state(pl_module.device)
    states[_LOADER_KEY] = [generator.get_state() for generator in _generators(trainer)]
    return states


def _restore(trainer: Trainer, pl_module: LightningModule, states: States) -> None:
    torch.set_rng_state(states[_KEY].cpu())
    if _CUDA_KEY in states and pl_module.device.type == "cuda":
        torch.cuda.set_rng_state(states[_CUDA_KEY].cpu(), pl_module.device)
    generators = list(_generators(trainer))
    if len(generators) == len(states.get(_LOADER_KEY, [])):
        for generator, saved in zip(generators, states[_LOADER_KEY], strict=True):
            generator.set_state(saved.cpu())


def _generators(trainer: Trainer) -> Iterator[torch.Generator]:
    """Own generators of the training loaders and their samplers, each once."""
    seen: set[int] = set()
    for loader in CombinedLoader(trainer.train_dataloader).flattened:
        for part in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
            if isinstance(part, DistributedSamplerWrapper):
                part = wrapped_sampler(part)
            generator = getattr(part, "generator", None)
            if isinstance(generator, torch.Generator) and id(generator) not in seen:
                seen.add(id(generator))
                yield generator
