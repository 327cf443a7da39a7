"""The default calibration: every cluster of images has a level of normal scores, which scores are divided by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .calibration import Calibration, NormalScores
from .clusters import ImageClusters

_PRIOR = 10


class LevelCalibration(Calibration):
    """Brings the normal scores of all clusters of images to one level.

    The level of a cluster is the mean logarithm of the scores of its unseen normal images. Scores are divided by
    ``exp(power * level)``: power 0 does not change them, power 1 removes the differences between clusters. If scores
    can be negative, the level is the mean score, and ``power * level`` is subtracted instead. Maps and image scores
    have separate levels and powers. The order of images in a cluster, and of pixels in an image, does not change.

    Args:
        clusters (ImageClusters): Clusters of the training images.
        map_logarithm (bool): Whether maps are divided instead of shifted. Defaults to ``True``.
        score_logarithm (bool): Whether image scores are divided instead of shifted. Defaults to ``True``.
    """

    def __init__(self, clusters: ImageClusters, map_logarithm: bool = True, score_logarithm: bool = True) -> None:
        super().__init__(clusters)
        self.map_logarithm = map_logarithm
        self.score_logarithm = score_logarithm
        for name in ("map_levels", "score_levels"):
            self.register_buffer(name, torch.zeros(len(clusters)))
        for name in ("map_power", "score_power"):
            self.register_buffer(name, torch.ones(()))
        self.map_levels: Tensor
        self.score_levels: Tensor
        self.map_power: Tensor
        self.score_power: Tensor

    @property
    def arguments(self) -> dict[str, Any]:
        """See the base class."""
        return {"map_logarithm": self.map_logarithm, "score_logarithm": self.score_logarithm}

    def forward(self, maps: Sequence[Tensor], categories: Sequence[str] | None = None) -> NormalScores:
        """See the base class."""
        del categories
        cluster, distance = self.clusters(maps)
        of_map = self._shift(self.map_power * self.map_levels[cluster], self.map_logarithm)
        of_score = self._shift(self.score_power * self.score_levels[cluster], self.score_logarithm)
        return NormalScores(*of_map, *of_score, self.unfamiliar(distance))

    def raised(self, scores: Tensor, amounts: Tensor) -> Tensor:
        """Raise calibrated image scores ``(B,)`` as if their levels were lower by ``amounts`` ``(B,)``."""
        amounts = self.score_power.cpu() * amounts
        return scores * amounts.exp() if self.score_logarithm else scores + amounts

    @staticmethod
    def _shift(level: Tensor, logarithm: bool) -> tuple[Tensor, Tensor]:
        zero = torch.zeros_like(level)
        return (zero, level.exp()) if logarithm else (level, torch.ones_like(level))


@dataclass(frozen=True)
class ClusterMeans:
    """Means of values in clusters, shrunk to the common mean the more the less certain they are (empirical Bayes).

    A mean of n values has the weight ``n t / (n t + w)``, with the variance w of values within clusters and the
    variance t between clusters, by the method of moments (James and Stein 1961, DerSimonian and Laird 1986). Images
    that the model was trained on do not count for the means; for w they count as much as ten values, as there may be
    few unseen images. With fewer than two unseen images per cluster, w is at least the variance of the differences
    between unseen and training images: a model that has memorised its training images would make w too small.

    Args:
        number (Tensor): Number of values in each cluster, ``(K,)``.
        total (Tensor): Their sums, ``(K,)``.
        common (float): Mean of the cluster means.
        within (float): Variance of values within clusters.
        between (float): Variance between clusters.
    """

    number: Tensor
    total: Tensor
    common: float
    within: float
    between: float

    @classmethod
    def fit(cls, values: Tensor, clusters: Tensor, count: int, unseen: Tensor) -> "ClusterMeans":
        """Estimate means and variances.

        Args:
            values (Tensor): ``(N,)``.
            clusters (Tensor): Cluster of each value, ``(N,)``, int64.
            count (int): Number of clusters K.
            unseen (Tensor): Whether the model was not trained on the image, ``(N,)`` bool, at least one.

        Returns:
            ClusterMeans: Clusters without values have the common mean.
        """
        values = values.double()
        number, total = _totals(values[unseen], clusters[unseen], count)
        seen_squares, seen_freedom = _within(values[~unseen], clusters[~unseen], count)
        squares, freedom = _within(values[unseen], clusters[unseen], count)
        if seen_freedom > 0:
            squares, freedom = squares + _PRIOR * seen_squares / seen_freedom, freedom + _PRIOR
        within = squares / freedom if freedom > 0 else 0.0
        if number.sum() < 2 * (number > 0).sum():
            within = max(
                within, _variance_of_differences(number, total, *_totals(values[~unseen], clusters[~unseen], count))
            )

        present = number > 0
        means = total[present] / number[present]
        spread = float(means.var(correction=1)) if len(means) > 1 else 0.0
        between = max(0.0, spread - within * float((1 / number[present]).mean()))
        return cls(number, total, float(means.mean()), within, between)

    def levels(self) -> Tensor:
        """Compute the shrunk means of the clusters minus the common mean, ``(K,)``, float32."""
        return self._above(self.number, self.total)

    def influence_of_each(self, values: Tensor, clusters: Tensor) -> Tensor:
        """Compute how much each value raises the level of its cluster.

        For a value that is alone in its cluster, its distance from the level of others is unknown; two standard
        deviations are assumed.

        Args:
            values (Tensor): Values that the means were taken from, ``(N,)``.
            clusters (Tensor): Their clusters, ``(N,)``, int64.

        Returns:
            Tensor: ``(N,)``, float32.
        """
        number = self.number[clusters] - 1
        without = self._above(number, self.total[clusters] - values.double())
        return torch.where(number > 0, self.levels()[clusters] - without, 2 * self.within**0.5)

    def _above(self, number: Tensor, total: Tensor) -> Tensor:
        tiny = torch.finfo(torch.float64).tiny
        weight = number * self.between / (number * self.between + self.within + tiny)
        return (weight * (total / number.clamp(min=1) - self.common)).float()


def _totals(values: Tensor, clusters: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Count and sum the values in each cluster."""
    number = torch.bincount(clusters, minlength=count).double()
    return number, torch.zeros_like(number).index_add_(0, clusters, values)


def _within(values: Tensor, clusters: Tensor, count: int) -> tuple[float, int]:
    """Compute the sum of squared distances to the cluster means, and its degrees of freedom."""
    number, total = _totals(values, clusters, count)
    return float((values - (total / number)[clusters]).square().sum()), len(values) - int((number > 0).sum())


def _variance_of_differences(number: Tensor, total: Tensor, other_number: Tensor, other_total: Tensor) -> float:
    """Estimate the variance of single values from the variance of the difference of two means across clusters."""
    both = (number > 0) & (other_number > 0)
    if both.sum() < 2:
        return 0.0
    differences = (total / number - other_total / other_number)[both]
    return float(differences.var(correction=1) / (1 / number + 1 / other_number)[both].mean())
