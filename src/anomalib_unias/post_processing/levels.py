"""The default calibration: every kind of image has a level of normal scores, and scores are divided by it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .calibration import Calibration, NormalScores
from .clusters import ImageClusters

_PRIOR = 10


class LevelCalibration(Calibration):
    """Brings the normal scores of all kinds of images to one level.

    The level of a kind is the mean of the logarithms of the scores of unseen normal images of it, and scores are
    divided by ``exp(power * level)``; power 0 leaves them alone, 1 removes the differences between kinds. Models whose
    scores may be negative are shifted by ``power * level`` instead, the level being a mean of scores. Maps and image
    scores have levels and powers of their own. The order of images of one kind, and of pixels of one image, stays.

    Args:
        clusters (ImageClusters): Kinds of the training images.
        map_logarithm (bool): Whether maps are divided, not shifted. Defaults to ``True``.
        score_logarithm (bool): The same of image scores. Defaults to ``True``.
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
        """Calibrated image scores ``(B,)`` as they would be with levels that are lower by ``amounts`` ``(B,)``."""
        amounts = self.score_power.cpu() * amounts
        return scores * amounts.exp() if self.score_logarithm else scores + amounts

    @staticmethod
    def _shift(level: Tensor, logarithm: bool) -> tuple[Tensor, Tensor]:
        zero = torch.zeros_like(level)
        return (zero, level.exp()) if logarithm else (level, torch.ones_like(level))


@dataclass(frozen=True)
class ClusterMeans:
    """Means of values in clusters, the less sure the closer to the common mean (empirical Bayes).

    A mean of n values counts ``n t / (n t + w)``, with the variance w of values within clusters and the variance t
    between clusters, by the method of moments (James and Stein 1961, DerSimonian and Laird 1986). The images that the
    model has been trained on have no say in the means, but in w as much as ten values: there may be few others. If
    there are fewer than two others to a cluster, and a model knows those that it has been trained on by heart, w is at
    least the variance of how far the others are above them.

    Args:
        number (Tensor): Values in each cluster, ``(K,)``.
        total (Tensor): Their sums, ``(K,)``.
        common (float): Mean of the means.
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
        """Take means and variances.

        Args:
            values (Tensor): ``(N,)``.
            clusters (Tensor): Cluster of each value, ``(N,)``, int64.
            count (int): Number of clusters K.
            unseen (Tensor): Images that the model has not been trained on, ``(N,)`` bool, at least one.

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
        """Means of the clusters above the common mean, ``(K,)``, float32."""
        return self._above(self.number, self.total)

    def influence_of_each(self, values: Tensor, clusters: Tensor) -> Tensor:
        """How much each value raises the level of its cluster.

        Of a value that is alone in its cluster nobody knows how far it is from the level of others: two standard
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
    """Number and sum of the values in each cluster."""
    number = torch.bincount(clusters, minlength=count).double()
    return number, torch.zeros_like(number).index_add_(0, clusters, values)


def _within(values: Tensor, clusters: Tensor, count: int) -> tuple[float, int]:
    """Sum of the squared distances to the means of the clusters, and its degrees of freedom."""
    number, total = _totals(values, clusters, count)
    return float((values - (total / number)[clusters]).square().sum()), len(values) - int((number > 0).sum())


def _variance_of_differences(number: Tensor, total: Tensor, other_number: Tensor, other_total: Tensor) -> float:
    """Variance of single values, from how much the difference of two means varies from cluster to cluster."""
    both = (number > 0) & (other_number > 0)
    if both.sum() < 2:
        return 0.0
    differences = (total / number - other_total / other_number)[both]
    return float(differences.var(correction=1) / (1 / number + 1 / other_number)[both].mean())
