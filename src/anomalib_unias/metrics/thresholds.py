"""Thresholds from validation scores, in bounded memory.

Both metrics have the inputs of anomalib's ``F1AdaptiveThreshold`` and can replace it in a post-processor. They are
meant for the prediction ``score > threshold`` of anomalib's post-processor. No validation score lies on the threshold,
and a threshold beyond the lowest or the highest score keeps a margin: otherwise the label of that image would depend on
the rounding of the runtime.
"""

import logging

import numpy as np
import torch
from anomalib.data import Batch
from anomalib.metrics import AnomalibMetric
from torch import Tensor

from anomalib_unias.metrics.functional import ScoreCurve, best_f1_index
from anomalib_unias.metrics.score_table import (
    DEFECTIVE,
    KEY,
    NORMAL,
    Precision,
    ScoreTable,
    cell_ends,
    count_rows,
    key_scores,
)
from anomalib_unias.metrics.table_metric import TableMetric, require_numbers

logger = logging.getLogger(__name__)

# Distance of a threshold to the lowest or highest score, as a share of their range.
_MARGIN = 0.01


class _ThresholdMetric(TableMetric):
    def add_scores(self, scores: Tensor, defective: Tensor) -> None:
        """Count labelled scores of equal shape ``(B, ...)``, maps one by one."""
        values, labels = scores.detach().cpu().float().numpy(), defective.cpu().numpy()
        require_numbers(values)
        parts = max(len(values), 1) if values.ndim > 1 else 1
        for part, part_labels in zip(np.array_split(values, parts), np.array_split(labels, parts), strict=True):
            self.add_rows(count_rows(part, part_labels, self.precision))


def _threshold_above(lower: int, rows: ScoreTable, dropped: Precision) -> Tensor:
    """Threshold halfway between the ``lower`` lowest rows of a table and the next one, or beyond all rows."""
    low, high = key_scores(rows[:, KEY]).astype(np.float64), cell_ends(rows, dropped).astype(np.float64)
    margin = 2 * _MARGIN * ((high[-1] - low[0]) or abs(low[0]) or 1.0)
    below = high[lower - 1] if lower > 0 else low[0] - margin
    above = low[lower] if lower < len(low) else high[-1] + margin
    middle = np.float32((below + above) / 2)
    return torch.tensor(middle if middle < np.float32(above) else np.float32(below))


class _F1Threshold(_ThresholdMetric):
    def update(self, scores: Tensor, labels: Tensor, labelled: Tensor | None = None) -> None:
        """Add labelled scores.

        Args:
            scores (Tensor): Scores ``(B, ...)``, one or more per image.
            labels (Tensor): Labels of the same shape, defective where ``> 0``.
            labelled (Tensor | None): Images whose labels count ``(B,)``. Defaults to ``None``: all.

        Raises:
            ValueError: If a score is NaN.
        """
        if labelled is not None:
            scores, labels = scores[labelled], labels[labelled]
        self.add_scores(scores, labels > 0)

    def compute(self) -> Tensor:
        """Threshold, a float32 scalar; NaN without scores."""
        rows, dropped = self.merged_rows()
        if not len(rows):
            return torch.tensor(float("nan"))
        if not rows[:, DEFECTIVE].any():
            logger.warning(
                "There is no defective score to validate on: the F1 threshold is just above the highest normal score. "
                "Use a threshold from a false alarm rate, or add defective images to the validation set."
            )
            return _threshold_above(len(rows), rows, dropped)
        if not rows[:, NORMAL].any():
            logger.warning(
                "There is no normal score to validate on: the F1 threshold is just below the lowest defective score."
            )
            return _threshold_above(0, rows, dropped)
        self._warn_of_minority(int(rows[:, NORMAL].sum()), int(rows[:, DEFECTIVE].sum()))
        scores = key_scores(rows[::-1, KEY])
        curve = ScoreCurve(scores, np.cumsum(rows[::-1, DEFECTIVE]), np.cumsum(rows[::-1, NORMAL]))
        return _threshold_above(len(rows) - 1 - best_f1_index(curve), rows, dropped)

    def _warn_of_minority(self, normal: int, defective: int) -> None:
        """Warn if calling every image defective would give a good F1 score."""


class F1Threshold(AnomalibMetric, _F1Threshold):
    """Threshold with the largest F1 score.

    It lies halfway between the lowest score to be called defective and the next lower score. (anomalib's
    ``F1AdaptiveThreshold`` returns the lowest score to be called defective, which ``score > threshold`` then misses.)
    If no score is lower, it lies below that score by 1 % of the range of all scores; without defective scores, it lies
    as far above the highest score.

    Args:
        fields (Sequence[str] | None): Fields of a batch that hold scores and labels.
        prefix (str): Prefix of the metric's name. Defaults to ``""``.
        strict (bool): Raise an error if a batch lacks a field, otherwise skip the batch. Defaults to ``True``.
        exact (bool): Keep every distinct float32 score, in memory that grows with the images. Defaults to ``False``.
        max_rows (int): Largest number of ranges of scores that are distinguished, at least 560.
            Defaults to ``131072``.

    Example:
        >>> import torch
        >>> from anomalib.data import ImageBatch
        >>> metric = F1Threshold(fields=["pred_score", "gt_label"])
        >>> scores, labels = torch.tensor([0.1, 0.2, 0.8, 0.9]), torch.tensor([0, 0, 1, 1])
        >>> metric.update(ImageBatch(image=torch.zeros(4, 3, 8, 8), pred_score=scores, gt_label=labels))
        >>> metric.compute()
        tensor(0.5000)
    """

    def update(self, batch: Batch) -> None:  # type: ignore[override]
        """Add a batch; a pixel threshold leaves out images that ``batch.mask_valid`` marks as unlabelled."""
        super().update(batch, getattr(batch, "mask_valid", None) if "gt_mask" in self.fields else None)

    def _warn_of_minority(self, normal: int, defective: int) -> None:
        if "gt_label" in self.fields and normal < defective:
            logger.warning(
                "The F1 threshold is taken from %d good and %d defective images: where good images are a minority it "
                "calls many of them defective. Validate with more good images, or use the threshold "
                "'false_alarm_rate'.",
                normal,
                defective,
            )


class _FalseAlarmThreshold(_ThresholdMetric):
    def __init__(
        self, false_alarm_rate: float = 0.01, warn: bool = True, exact: bool = False, max_rows: int = 2**17
    ) -> None:
        if not 0 <= false_alarm_rate < 1:
            msg = f"A false-alarm rate is a share of normal images or pixels, in [0, 1), got {false_alarm_rate}."
            raise ValueError(msg)
        super().__init__(exact=exact, max_rows=max_rows)
        self.false_alarm_rate = false_alarm_rate
        self._warn = warn

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add the scores of normal images; those of defective images are ignored.

        Args:
            scores (Tensor): Scores ``(B, ...)``, one or more per image.
            labels (Tensor): Labels ``(B,)`` of the images, defective where ``> 0``.

        Raises:
            ValueError: If a score is NaN.
        """
        normal = scores[labels <= 0]
        self.add_scores(normal, torch.zeros_like(normal, dtype=torch.bool))

    def compute(self) -> Tensor:
        """Threshold, a float32 scalar; NaN without normal images."""
        rows, dropped = self.merged_rows()
        if not len(rows):
            logger.warning("There is no normal image to validate on: a false alarm rate gives no threshold.")
            return torch.tensor(float("nan"))
        count = int(rows[:, NORMAL].sum())
        # Conformal: a new score exceeds the k-th highest of n others with probability at most k / (n + 1).
        rank = int(self.false_alarm_rate * (count + 1) * (1 + 1e-9))
        if rank < 1 and self.false_alarm_rate > 0 and self._warn:
            logger.warning(
                "%d normal scores can guarantee a false alarm rate of %.3g at best, %g was asked for (it needs %d). "
                "The threshold is above all of them.",
                count,
                1 / (count + 1),
                self.false_alarm_rate,
                int(np.ceil(1 / self.false_alarm_rate - 1e-9)) - 1,
            )
        alarms, allowed = count - np.cumsum(rows[:, NORMAL]), max(rank - 1, 0)
        return _threshold_above(int(np.argmax(alarms <= allowed)) + 1, rows, dropped)


class FalseAlarmThreshold(AnomalibMetric, _FalseAlarmThreshold):  # type: ignore[misc]
    """Threshold that a new normal score exceeds with at most a given probability. It needs no defective image.

    The probability holds for any distribution of scores, if new images are like these (split conformal prediction, Vovk
    et al. 2005): of n normal scores, ``floor(rate (n + 1)) - 1`` lie above the threshold. A rate below ``1 / (n + 1)``
    cannot be guaranteed; then the threshold lies above all scores, and a warning names the lowest rate that can.

    It is the lowest such threshold: halfway between two neighbouring normal scores, or above the highest one by 1 % of
    their range.

    Args:
        fields (Sequence[str] | None): Fields of a batch that hold scores and *image* labels.
        prefix (str): Prefix of the metric's name. Defaults to ``""``.
        strict (bool): Raise an error if a batch lacks a field, otherwise skip the batch. Defaults to ``True``.
        false_alarm_rate (float): Share of the normal scores that may exceed the threshold. Defaults to ``0.01``.
        warn (bool): Warn if there are too few scores to guarantee the rate. Defaults to ``True``.
        exact (bool): Keep every distinct float32 score, in memory that grows with the images. Defaults to ``False``.
        max_rows (int): Largest number of ranges of scores that are distinguished, at least 560.
            Defaults to ``131072``.

    Raises:
        ValueError: If ``false_alarm_rate`` is not in ``[0, 1)``.

    Example:
        >>> import torch
        >>> from anomalib.data import ImageBatch
        >>> metric = FalseAlarmThreshold(fields=["pred_score", "gt_label"], false_alarm_rate=0.4)
        >>> scores, labels = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.9]), torch.tensor([0, 0, 0, 0, 1])
        >>> metric.update(ImageBatch(image=torch.zeros(5, 3, 8, 8), pred_score=scores, gt_label=labels))
        >>> metric.compute()
        tensor(0.3500)
    """
