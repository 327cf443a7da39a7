"""The calibrations of the paper: they predict the statistics that an anomaly map would have if the image were normal.

These are the level u (mean of the map) and the height g - u (its maximum minus the mean, or three standard deviations).
The paper predicts u and g; if these are close together, the divisor g - u can become zero or negative.
"""

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .calibration import Calibration, NormalScores
from .clusters import ImageClusters
from .regression import FeatureHead

Statistics = Literal["max", "std"]

logger = logging.getLogger(__name__)

# Smallest height, as a share of the largest. A map that is 0 on the normal images of a product has no height of its
# own, and the heights of the products of one model do not differ this much.
_SMALLEST_HEIGHT = 1e-3
_IMAGES_AT_ONCE = 256


class CategoryNeededError(ValueError):
    """CaDA-A is used on images whose category is not known."""


class StatisticsCalibration(Calibration):
    """Base: maps of normal images get mean 0 and, on average, maximum 1. Predictions stay in the range of the targets.

    Args:
        clusters (ImageClusters): Clusters of the training images.
    """

    def __init__(self, clusters: ImageClusters) -> None:
        super().__init__(clusters)
        self.register_buffer("lowest", torch.zeros(2))
        self.register_buffer("highest", torch.zeros(2))
        self.lowest: Tensor
        self.highest: Tensor

    def set_range(self, targets: Tensor) -> None:
        """Set the range that predictions are clamped to.

        No height is below a thousandth of the largest one. If all heights are 0, they are set to 1, so that maps are
        only shifted.

        Args:
            targets (Tensor): Level and height of the maps of normal images, ``(N, 2)``.
        """
        self.lowest.copy_(targets.amin(dim=0))
        self.highest.copy_(targets.amax(dim=0))
        if self.highest[1] <= 0:
            logger.warning("The anomaly maps of all normal images are constant: CADA shifts but does not scale them.")
            self.highest[1] = 1.0
            self.lowest[1] = 1.0
        self.lowest[1] = torch.maximum(self.lowest[1], _SMALLEST_HEIGHT * self.highest[1])

    def forward(self, maps: Sequence[Tensor], categories: Sequence[str] | None = None) -> NormalScores:
        """See the base class."""
        values = self.predict(maps, categories)
        level, height = torch.minimum(torch.maximum(values, self.lowest), self.highest).unbind(dim=1)
        return NormalScores(level, height, level, height, self.unfamiliar(self.clusters(maps).distance))

    @abstractmethod
    def predict(self, maps: Sequence[Tensor], categories: Sequence[str] | None) -> Tensor:
        """Predict level and height of the map, ``(B, 2)``, without clamping."""


class TableCalibration(StatisticsCalibration):
    """CaDA-A: one pair of statistics for each category; the category is given with the image.

    Args:
        clusters (ImageClusters): Clusters of the training images.
        categories (Sequence[str]): Names of the categories.
    """

    def __init__(self, clusters: ImageClusters, categories: Sequence[str]) -> None:
        super().__init__(clusters)
        self.categories = list(categories)
        self.register_buffer("table", torch.zeros(len(self.categories), 2))
        self.table: Tensor

    @property
    def arguments(self) -> dict[str, Any]:
        """See the base class."""
        return {"categories": self.categories}

    def predict(self, maps: Sequence[Tensor], categories: Sequence[str] | None) -> Tensor:
        """Look the categories up.

        Raises:
            CategoryNeededError: If there are no categories, or unknown ones.
        """
        del maps
        if categories is None:
            msg = (
                "CaDA-A needs the category of every image, and this batch has none. Use it in validation and test with "
                "UnifiedDataModule or CombinedDataModule; for prediction and export use the variant 'cada' or 'cada_b'."
            )
            raise CategoryNeededError(msg)
        if unknown := sorted(set(categories) - set(self.categories)):
            msg = f"CaDA-A was trained on the categories {self.categories}, got {unknown}. Train with these too."
            raise CategoryNeededError(msg)
        rows = [self.categories.index(category) for category in categories]
        return self.table[torch.tensor(rows, device=self.table.device)]


class ClassifierCalibration(StatisticsCalibration):
    """CaDA-B: a classifier predicts the category, a table holds the statistics of each category.

    Args:
        clusters (ImageClusters): Clusters of the training images.
        categories (Sequence[str]): Names of the categories.
        head (Mapping[str, Any]): Arguments of :class:`FeatureHead` except ``outputs``, as plain data.
    """

    def __init__(self, clusters: ImageClusters, categories: Sequence[str], head: Mapping[str, Any]) -> None:
        super().__init__(clusters)
        self.categories = list(categories)
        self._arguments = {"categories": self.categories, "head": dict(head)}
        self.normalization = FeatureNormalization()
        self.head = FeatureHead(outputs=len(self.categories), **head)
        self.register_buffer("table", torch.zeros(len(self.categories), 2))
        self.table: Tensor

    @property
    def arguments(self) -> dict[str, Any]:
        """See the base class."""
        return self._arguments

    def predict(self, maps: Sequence[Tensor], categories: Sequence[str] | None) -> Tensor:
        """Look the most probable category up."""
        del categories
        return self.table[self.head(self.normalization(maps[-1])).argmax(dim=1)]


class RegressorCalibration(StatisticsCalibration):
    """CADA as in the paper: a small network predicts the statistics.

    Args:
        clusters (ImageClusters): Clusters of the training images.
        head (Mapping[str, Any]): Arguments of :class:`FeatureHead` except ``outputs``, as plain data.
    """

    def __init__(self, clusters: ImageClusters, head: Mapping[str, Any]) -> None:
        super().__init__(clusters)
        self._arguments = {"head": dict(head)}
        self.normalization = FeatureNormalization()
        self.head = FeatureHead(outputs=2, **head)
        self.register_buffer("center", torch.zeros(2))
        self.register_buffer("spread", torch.ones(2))
        self.center: Tensor
        self.spread: Tensor

    @property
    def arguments(self) -> dict[str, Any]:
        """See the base class."""
        return self._arguments

    def predict(self, maps: Sequence[Tensor], categories: Sequence[str] | None) -> Tensor:
        """Predict level and height in units of the model's scores."""
        del categories
        return self.head(self.normalization(maps[-1])) * self.spread + self.center


class FeatureNormalization(nn.Module):
    """Normalises feature maps to mean 0 and standard deviation 1, with one mean and one deviation for all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))
        self.center: Tensor
        self.spread: Tensor

    def fit(self, features: Tensor) -> None:
        """Fit both to features ``(N, ...)``, in parts, to save memory."""
        moments = torch.stack(
            [
                torch.stack([part.double().mean(), part.double().square().mean()]) * len(part)
                for part in features.split(_IMAGES_AT_ONCE)
            ]
        )
        mean, square = moments.sum(dim=0) / len(features)
        self.center.copy_(mean)
        self.spread.copy_((square - mean**2).clamp(min=torch.finfo(torch.float32).tiny).sqrt())

    def forward(self, features: Tensor) -> Tensor:
        """Normalise features of any shape."""
        return (features - self.center) / self.spread
