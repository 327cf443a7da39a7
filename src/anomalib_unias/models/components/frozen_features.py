"""Training on features of a frozen network that are computed once."""

from itertools import islice
from typing import Any, Literal, cast

import torch
from anomalib.data import AnomalibDataset, ImageBatch

from anomalib_unias.callbacks import TrainingData
from anomalib_unias.data.feature_cache import FeatureDataset, cached_features, weights_identity
from anomalib_unias.data.feature_files import feature_folder

from .detector import UnifiedDetector

FeatureCache = Literal["disk", "memory", "off"]


class FrozenFeatures(UnifiedDetector):
    """A model whose training needs only the features of its frozen ``model.backbone``.

    A base class to list before ``AnomalibModule``.
    """

    feature_cache: FeatureCache = "off"
    feature_cache_limit: float | None = None

    def set_feature_cache(self, mode: FeatureCache, limit: float | None) -> None:
        """Choose where features of training images are kept.

        Args:
            mode (FeatureCache): ``"disk"``, ``"memory"`` or ``"off"``.
            limit (float | None): Largest size in GB, ``None`` for the default of
                :func:`~anomalib_unias.data.feature_cache.cached_features`.

        Raises:
            ValueError: If ``mode`` is unknown.
        """
        if mode not in {"disk", "memory", "off"}:
            msg = f"feature_cache must be 'disk', 'memory' or 'off', got {mode!r}."
            raise ValueError(msg)
        self.feature_cache, self.feature_cache_limit = mode, limit

    def on_fit_start(self) -> None:
        """Raise an error if the training set is empty; else compute the frozen features once, if they are kept.

        Raises:
            ValueError: If there is no training image.
        """
        super().on_fit_start()
        if self.feature_cache != "off":
            TrainingData.of(self.trainer).replace_by_features(self.trainer, self.pre_processor, self._cache_features)

    def frozen_features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the features of the frozen network.

        Args:
            images (torch.Tensor): ``(B, 3, H, W)`` in [0, 1], of any size if there is a pre-processor.

        Returns:
            list[torch.Tensor]: ``(B, C_l, H_l, W_l)`` for each level.
        """
        images = images.to(self.device)
        return self.model.extract(self.pre_processor(images) if self.pre_processor else images)

    def stored_features(self, batch: ImageBatch) -> list[torch.Tensor] | None:
        """Get the stored features of a batch.

        Args:
            batch (ImageBatch): A training batch.

        Returns:
            list[torch.Tensor] | None: ``(B, C_l, H_l, W_l)`` for each level; ``None`` if the batch holds images.
        """
        rows = getattr(batch, "features", None)
        return None if rows is None else self.model.unflatten(rows.to(self.device))

    def features_of(self, batch: ImageBatch) -> list[torch.Tensor]:
        """Get the features of a training batch, stored or computed.

        Args:
            batch (ImageBatch): A batch with stored features, or with pre-processed images.

        Returns:
            list[torch.Tensor]: ``(B, C_l, H_l, W_l)`` for each level.
        """
        return self.stored_features(batch) or self.model.extract(batch.image)

    def features_of_loaded(self, batch: ImageBatch) -> list[torch.Tensor]:
        """Get the features of a batch as the data loader gives it, stored or computed.

        Args:
            batch (ImageBatch): A batch with stored features, or with images in [0, 1].

        Returns:
            list[torch.Tensor]: ``(B, C_l, H_l, W_l)`` for each level.
        """
        return self.stored_features(batch) or self.frozen_features(cast("torch.Tensor", batch.image))

    @torch.no_grad()
    def first_features(self, batches: int) -> list[torch.Tensor]:
        """Get the features of some training images, in a pass over the data of its own.

        Args:
            batches (int): Largest number of batches.

        Returns:
            list[torch.Tensor]: ``(N, C_l, H_l, W_l)`` for each level.
        """
        loader: Any = self.trainer.train_dataloader or ()
        found = [self.features_of_loaded(batch) for batch in islice(loader, batches)]
        return [torch.cat(level) for level in zip(*found, strict=True)]

    def _cache_features(self, images: AnomalibDataset, num_workers: int) -> FeatureDataset:
        backbone = self.model.backbone
        kind = self.model.FEATURES
        return cached_features(
            images,
            self.frozen_features,
            f"{weights_identity(backbone)} {backbone.levels} {backbone.strides} {self.pre_processor}{kind}",
            folder=feature_folder() if self.feature_cache == "disk" else None,
            limit=self.feature_cache_limit,
            num_workers=num_workers,
        )
