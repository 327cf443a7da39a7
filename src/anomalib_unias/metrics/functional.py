"""Metrics of ranked scores, as pure functions of the counts at every threshold.

Every function treats equal scores as tied: they are predicted defective together. "At a threshold" means
``score >= threshold`` is predicted defective. A metric that is undefined, because one of the two classes is missing,
is NaN.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import auc

# Two values of a criterion that differ by less than this differ only by rounding.
_TIE = 1e-12


@dataclass(frozen=True)
class ScoreCurve:
    """Numbers of positives and negatives at or above each threshold, for every distinct score.

    Args:
        thresholds (NDArray): Distinct scores in decreasing order, ``(T,)``.
        true_positives (NDArray): Number of positives at or above each threshold, ``(T,)``.
        false_positives (NDArray): Number of negatives at or above each threshold, ``(T,)``.
    """

    thresholds: NDArray
    true_positives: NDArray
    false_positives: NDArray

    @classmethod
    def from_scores(cls, scores: NDArray, labels: NDArray) -> "ScoreCurve":
        """Curve of labelled scores.

        Args:
            scores (NDArray): Scores ``(N,)``, higher means more anomalous.
            labels (NDArray): Labels ``(N,)``, non-zero means positive.

        Returns:
            ScoreCurve: Curve with one threshold per distinct score.

        Example:
            >>> import numpy as np
            >>> curve = ScoreCurve.from_scores(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]))
            >>> curve.true_positives.tolist(), curve.false_positives.tolist()
            ([1, 2, 2], [0, 1, 2])
        """
        thresholds, index = np.unique(scores, return_inverse=True)
        positives = np.bincount(index[labels > 0], minlength=len(thresholds))
        totals = np.bincount(index, minlength=len(thresholds))
        return cls(thresholds[::-1], np.cumsum(positives[::-1]), np.cumsum((totals - positives)[::-1]))

    @property
    def positives(self) -> float:
        """Number of positives."""
        return float(self.true_positives[-1]) if len(self.true_positives) else 0.0

    @property
    def negatives(self) -> float:
        """Number of negatives."""
        return float(self.false_positives[-1]) if len(self.false_positives) else 0.0

    @cached_property
    def recall(self) -> NDArray:
        """Recall at each threshold, ``(T,)``; NaN without positives."""
        return self.true_positives / (self.positives or np.nan)

    @cached_property
    def precision(self) -> NDArray:
        """Precision at each threshold, ``(T,)``."""
        return self.true_positives / (self.true_positives + self.false_positives)

    @cached_property
    def false_positive_rate(self) -> NDArray:
        """False positive rate at each threshold, ``(T,)``; NaN without negatives."""
        return self.false_positives / (self.negatives or np.nan)

    @cached_property
    def f1(self) -> NDArray:
        """F1 score at each threshold, ``(T,)``; NaN without positives."""
        return 2 * self.true_positives / (self.true_positives + self.false_positives + (self.positives or np.nan))


def auroc(curve: ScoreCurve) -> float:
    """Area under the ROC curve, ties by the trapezoidal rule. NaN if a class is missing."""
    if not (curve.positives and curve.negatives):
        return float("nan")
    return float(auc(np.append(0, curve.false_positive_rate), np.append(0, curve.recall)))


def average_precision(curve: ScoreCurve) -> float:
    """Step-wise average precision, the sum of precision times gain in recall. NaN without positives."""
    if not curve.positives:
        return float("nan")
    return float(np.sum(np.diff(curve.recall, prepend=0) * curve.precision))


def f1_max(curve: ScoreCurve) -> float:
    """Largest F1 score of all thresholds. NaN without positives."""
    return float(curve.f1.max()) if curve.positives else float("nan")


def best_f1_index(curve: ScoreCurve) -> int:
    """Index of the threshold with the largest F1 score, the lowest one of several. The curve must have positives."""
    return _last_maximum(curve.f1)


def precision_plus_recall_index(curve: ScoreCurve) -> int:
    """Index of the threshold with the largest sum of precision and recall, the rule of the UniAS paper.

    The lowest one of several. The curve must have positives. With a weak detector the rule can choose a threshold at
    which everything is predicted defective.
    """
    return _last_maximum(curve.precision + curve.recall)


def intersection_over_union(curve: ScoreCurve, index: int) -> float:
    """Intersection over union of prediction and ground truth at the threshold ``index``, over all pixels."""
    union = curve.positives + curve.false_positives[index]
    return float(curve.true_positives[index] / union)


def aupro(curve: ScoreCurve, region_overlap: NDArray, fpr_limit: float = 0.3) -> float:
    """Area under the per-region-overlap curve up to a false positive rate, divided by that rate.

    Args:
        curve (ScoreCurve): Curve of the pixels; its false positives are the pixels outside all regions.
        region_overlap (NDArray): Share of a region that is predicted defective, averaged over the regions, at each
            threshold of the curve, ``(T,)``.
        fpr_limit (float): Upper end of the false positive rate in ``(0, 1]``. Defaults to ``0.3``.

    Returns:
        float: Area in ``[0, 1]``, linear between thresholds. NaN without regions or without normal pixels.
    """
    if not (curve.positives and curve.negatives):
        return float("nan")
    rate = np.append(0, curve.false_positive_rate)
    overlap = np.append(0, region_overlap)
    inside = np.searchsorted(rate, fpr_limit, side="right")
    if inside < len(rate):
        # Within the segment that crosses the limit; np.interp on the whole curve is ambiguous at vertical steps.
        segment = slice(inside - 1, inside + 1)
        overlap = np.append(overlap[:inside], np.interp(fpr_limit, rate[segment], overlap[segment]))
        rate = np.append(rate[:inside], fpr_limit)
    return float(auc(rate, overlap)) / fpr_limit


def thin_curve(x: NDArray, y: NDArray, points: int = 1000) -> NDArray[np.intp]:
    """Choose at most ``points`` points that represent a curve.

    They are spaced evenly along the curve, with equal weight for both axes, and include its two ends.

    Args:
        x (NDArray): First coordinates ``(T,)``.
        y (NDArray): Second coordinates ``(T,)``.
        points (int): Largest number of points. Defaults to ``1000``.

    Returns:
        NDArray[np.intp]: Increasing indices.
    """
    if len(x) <= points:
        return np.arange(len(x))
    length = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    return np.unique(np.searchsorted(length, np.linspace(0, length[-1], points)))


def _last_maximum(values: NDArray) -> int:
    return int(np.flatnonzero(values >= values.max() - _TIE)[-1])
