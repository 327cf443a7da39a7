"""The default calibration: every cluster of images has a level and a spread of normal scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .calibration import Calibration, NormalScores
from .clusters import Assignment, ImageClusters

_PRIOR = 10
# Clusters with fewer unseen images have the common spread, because a single outlier would decide.
_ENOUGH_FOR_SPREAD = 50
# Images that are all alike have no spread.
_SMALLEST_SPREAD = 0.25


class LevelCalibration(Calibration):
    """Brings the normal scores of all clusters of images to one level, and image scores also to one spread.

    The level of a cluster is the mean logarithm of the scores of its unseen normal images. Scores are divided by
    ``exp(power * level)``: power 0 does not change them, power 1 removes the differences between clusters. If scores
    can be negative, the level is the mean score, and ``power * level`` is subtracted instead. Maps and image scores
    have separate levels and powers. Then the distances of image scores from the common level of normal images are
    divided by ``spread ** power``, the spread being the standard deviation of a cluster relative to that of all, and 1
    for clusters with fewer than 50 unseen images. The order of images in a cluster, and of pixels in an image, does not
    change.

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
        self.register_buffer("score_spreads", torch.ones(len(clusters)))
        self.register_buffer("score_center", torch.zeros(()))
        for name in ("map_power", "score_power"):
            self.register_buffer(name, torch.ones(()))
        self.register_load_state_dict_pre_hook(_add_spreads)
        self.map_levels: Tensor
        self.score_levels: Tensor
        self.score_spreads: Tensor
        self.score_center: Tensor
        self.map_power: Tensor
        self.score_power: Tensor

    @property
    def arguments(self) -> dict[str, Any]:
        """See the base class."""
        return {"map_logarithm": self.map_logarithm, "score_logarithm": self.score_logarithm}

    def forward(self, maps: Sequence[Tensor], categories: Sequence[str] | None = None) -> NormalScores:
        """See the base class."""
        del categories
        return self.of_clusters(self.clusters(maps))

    def of_clusters(self, assignment: Assignment) -> NormalScores:
        """Get offsets and scales of images from their clusters."""
        cluster, distance = assignment
        of_map = self._shift(self.map_power * self.map_levels[cluster], self.map_logarithm)
        of_score = self.of_scores(self.score_levels[cluster], self.score_spreads[cluster])
        return NormalScores(*of_map, *of_score, self.unfamiliar(distance))

    def of_scores(self, levels: Tensor, spreads: Tensor) -> tuple[Tensor, Tensor]:
        """Compute offsets and scales of image scores.

        Args:
            levels (Tensor): Levels of normal scores, ``(B,)``.
            spreads (Tensor): Their spreads, 1 is the common one, ``(B,)``.

        Returns:
            tuple[Tensor, Tensor]: Offsets ``(B,)`` and scales ``(B,)``.
        """
        offset, scale = self._shift(self.score_power * levels, self.score_logarithm)
        spreads = spreads**self.score_power
        return offset + scale * self.score_center * (1 - spreads), scale * spreads

    @staticmethod
    def _shift(level: Tensor, logarithm: bool) -> tuple[Tensor, Tensor]:
        zero = torch.zeros_like(level)
        return (zero, level.exp()) if logarithm else (level, torch.ones_like(level))


@dataclass(frozen=True)
class ClusterStatistics:
    """Means and spreads of values in clusters; means are shrunk to the common one the less certain they are.

    A mean of n values has the weight ``n t / (n t + w)``, with the variance w of values within clusters and the
    variance t between clusters, by the method of moments (James and Stein 1961, DerSimonian and Laird 1986). Images
    that the model was trained on do not count for means and spreads; for w they count as much as ten values, as there
    may be few unseen images. With fewer than two unseen images per cluster, w is at least the variance of the
    differences between unseen and training images: a model that has memorised its training images would make w too
    small. Clusters with fewer than 50 values have the common spread.

    Args:
        number (Tensor): Number of values in each cluster, ``(K,)``.
        total (Tensor): Their sums, ``(K,)``.
        squares (Tensor): Sums of their squared distances to the mean of the cluster, ``(K,)``.
        common (float): Mean of the cluster means.
        within (float): Variance of values within clusters.
        between (float): Variance between clusters.
    """

    number: Tensor
    total: Tensor
    squares: Tensor
    common: float
    within: float
    between: float

    @classmethod
    def fit(cls, values: Tensor, clusters: Tensor, count: int, unseen: Tensor) -> "ClusterStatistics":
        """Estimate means and variances.

        Args:
            values (Tensor): ``(N,)``.
            clusters (Tensor): Cluster of each value, ``(N,)``, int64.
            count (int): Number of clusters K.
            unseen (Tensor): Whether the model was not trained on the image, ``(N,)`` bool, at least one.

        Returns:
            ClusterStatistics: Clusters without values have the common mean and spread.
        """
        values = values.double()
        number, total = _totals(values[unseen], clusters[unseen], count)
        seen_number, seen_total = _totals(values[~unseen], clusters[~unseen], count)
        squares = _squares(values[unseen], clusters[unseen], count)
        within, freedom = float(squares.sum()), _freedom(number)
        if (seen_freedom := _freedom(seen_number)) > 0:
            within += _PRIOR * float(_squares(values[~unseen], clusters[~unseen], count).sum()) / seen_freedom
            freedom += _PRIOR
        within = within / freedom if freedom > 0 else 0.0
        if number.sum() < 2 * (number > 0).sum():
            within = max(within, _variance_of_differences(number, total, seen_number, seen_total))

        present = number > 0
        means = total[present] / number[present]
        spread = float(means.var(correction=1)) if len(means) > 1 else 0.0
        between = max(0.0, spread - within * float((1 / number[present]).mean()))
        return cls(number, total, squares, float(means.mean()), within, between)

    def levels(self) -> Tensor:
        """Compute the shrunk means of the clusters minus the common mean, ``(K,)``, float32."""
        return self._above(self.number, self.total)

    def spreads(self) -> Tensor:
        """Compute the standard deviations of the clusters, relative to that of all, ``(K,)``, float32."""
        return self._spread(self.number, self.squares)

    def without_each(self, values: Tensor, clusters: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what level and spread of its cluster would be without each value.

        For a value that is alone in its cluster, its distance from the level of others is unknown; two standard
        deviations are assumed.

        Args:
            values (Tensor): Values that the statistics were taken from, ``(N,)``.
            clusters (Tensor): Their clusters, ``(N,)``, int64.

        Returns:
            tuple[Tensor, Tensor]: Levels and spreads, ``(N,)`` each, float32.
        """
        values, number, total = values.double(), self.number[clusters], self.total[clusters]
        levels = self._above(number - 1, total - values)
        levels = torch.where(number > 1, levels, self.levels()[clusters] - 2 * self.within**0.5)
        own = (values - total / number).square() * number / (number - 1).clamp(min=1)
        return levels, self._spread(number - 1, (self.squares[clusters] - own).clamp(min=0))

    def _above(self, number: Tensor, total: Tensor) -> Tensor:
        tiny = torch.finfo(torch.float64).tiny
        weight = number * self.between / (number * self.between + self.within + tiny)
        return (weight * (total / number.clamp(min=1) - self.common)).float()

    def _spread(self, number: Tensor, squares: Tensor) -> Tensor:
        common = self.squares.sum() / _freedom(self.number)
        spread = (squares / (number - 1) / common).sqrt().clamp(min=_SMALLEST_SPREAD)
        return torch.where((number >= _ENOUGH_FOR_SPREAD) & (common > 0), spread, 1.0).float()


def _add_spreads(calibration: LevelCalibration, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Complete the state dict of a version without spreads."""
    for name in ("score_spreads", "score_center"):
        state_dict.setdefault(f"{prefix}{name}", getattr(calibration, name))


def _totals(values: Tensor, clusters: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Count and sum the values in each cluster."""
    number = torch.bincount(clusters, minlength=count).double()
    return number, torch.zeros_like(number).index_add_(0, clusters, values)


def _squares(values: Tensor, clusters: Tensor, count: int) -> Tensor:
    """Compute for each cluster the sum of the squared distances to its mean."""
    number, total = _totals(values, clusters, count)
    return _totals((values - (total / number)[clusters]).square(), clusters, count)[1]


def _freedom(number: Tensor) -> int:
    """Compute the degrees of freedom of ``number`` values in each cluster around the means of the clusters."""
    return int((number - 1).clamp(min=0).sum())


def _variance_of_differences(number: Tensor, total: Tensor, other_number: Tensor, other_total: Tensor) -> float:
    """Estimate the variance of single values from the variance of the difference of two means across clusters."""
    both = (number > 0) & (other_number > 0)
    if both.sum() < 2:
        return 0.0
    differences = (total / number - other_total / other_number)[both]
    return float(differences.var(correction=1) / (1 / number + 1 / other_number)[both].mean())
