"""Manage the training images of a datamodule during a run."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from anomalib.data import AnomalibDataset
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from anomalib_unias.compat.trainer import discard_train_loader
from anomalib_unias.data.feature_cache import FeatureDataset, is_deterministic
from anomalib_unias.data.feature_files import FeatureCacheError
from anomalib_unias.data.held_out import HeldOutOrder

from .run_length import planned_images
from .shared import SharedCallback

logger = logging.getLogger(__name__)


class TrainingData(SharedCallback):
    """Changes the training images of a datamodule for one run, and restores them at its end, also after an error.

    Nothing else writes to ``train_data``. Models and post-processors share one instance per trainer::

        held_out = TrainingData.of(trainer).hold_out(trainer, 0.1)  # in ``setup``
        TrainingData.of(trainer).replace_by_features(trainer, ...)  # in ``on_fit_start``

    Images are held out first: the loader of the training images may be made between these two hooks.
    """

    def __init__(self) -> None:
        self._datamodule: Any = None
        self._complete: AnomalibDataset | None = None
        self._order: HeldOutOrder | None = None
        self._held_out: set[int] = set()

    def hold_out(self, trainer: Trainer, fraction: float, seed: int = 0) -> AnomalibDataset:
        """Hold a share of the normal images of each category out of the training.

        The same share gives the same images, and a larger share contains those of a smaller one, so that no more than
        the largest share is held out. Therefore the seed of the first call counts for the whole run.

        Args:
            trainer (Trainer): Trainer with a datamodule of anomalib, in or after ``setup``, before features replace
                the images.
            fraction (float): Share in ``(0, 1)``; at least one image of each category.
            seed (int): Seed of the choice of images. Defaults to ``0``.

        Returns:
            AnomalibDataset: The held-out images.

        Raises:
            ValueError: If the fraction is out of its range.
            HeldOutError: If a category has only one normal image.
            RuntimeError: If features already replace images that are to be held out.
        """
        complete = self._complete_data(trainer)
        if self._order is None:
            self._order = HeldOutOrder(complete, seed)
        chosen = self._order.first(fraction)
        if not chosen <= self._held_out:
            if isinstance(self._datamodule.train_data, FeatureDataset):
                msg = "Images are to be held out of features that are cached already: hold them out in setup."
                raise RuntimeError(msg)
            self._held_out |= chosen
            self._datamodule.train_data = self._remaining(complete)
        return complete.subsample(sorted(chosen))

    def images(self, trainer: Trainer) -> AnomalibDataset:
        """The images that a run trains on, also if features replace them.

        Args:
            trainer (Trainer): Trainer of a run that has made its training loader.

        Returns:
            AnomalibDataset: The training images without the held-out ones.
        """
        loader: Any = trainer.train_dataloader
        dataset = loader.dataset
        return dataset.images if isinstance(dataset, FeatureDataset) else dataset

    def replace_by_features(
        self, trainer: Trainer, pre_processor: nn.Module | None, compute: Callable[..., FeatureDataset]
    ) -> None:
        """Let the run read features of a frozen network instead of images, if the result is the same and it saves time.

        With random augmentations the result is not the same. If the run is too short to see every image more than once,
        it saves no time. If features cannot be stored, a warning gives the reason.

        Args:
            trainer (Trainer): Trainer in ``on_fit_start``.
            pre_processor (nn.Module | None): Pre-processor of the model; ``None`` if it has none.
            compute (Callable[..., FeatureDataset]): Function like
                :func:`~anomalib_unias.data.feature_cache.cached_features`, called with the images and ``num_workers``.
        """
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        images = getattr(datamodule, "train_data", None)
        if images is None or not is_deterministic(images, pre_processor):
            return
        if planned_images(trainer, datamodule.train_batch_size, len(images)) <= len(images):
            return
        self._complete_data(trainer)
        try:
            # The loader of the features draws random numbers, which must not change those of the run.
            with torch.random.fork_rng():
                datamodule.train_data = compute(images, num_workers=datamodule.num_workers)
        except FeatureCacheError as error:
            logger.warning("%s Training computes them in every step instead.", error)
            return
        discard_train_loader(trainer)

    def require_images(self, trainer: Trainer) -> None:
        """Refuse a training set without images.

        Args:
            trainer (Trainer): Trainer in or after ``setup``.

        Raises:
            ValueError: If there is no image to train on.
        """
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        dataset = getattr(datamodule, "train_data", None)
        if dataset is not None and len(dataset) == 0:
            msg = (
                f"The training set of {datamodule.name} is empty: expected normal images to learn "
                "from. Check its root, category and split arguments."
            )
            raise ValueError(msg)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the images: Lightning does not call ``teardown`` after an error."""
        del trainer, pl_module, exception
        self._restore()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the images."""
        del trainer, pl_module
        self._restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the images."""
        del trainer, pl_module, stage
        self._restore()

    def _complete_data(self, trainer: Trainer) -> AnomalibDataset:
        if self._complete is None:
            self._datamodule = trainer.datamodule  # type: ignore[attr-defined]
            self._complete = self._datamodule.train_data
        return self._complete

    def _remaining(self, complete: AnomalibDataset) -> AnomalibDataset:
        return complete.subsample([row for row in range(len(complete)) if row not in self._held_out])

    def _restore(self) -> None:
        if self._complete is not None:
            self._datamodule.train_data = self._complete
        self._datamodule, self._complete, self._order, self._held_out = None, None, None, set()
