"""All pixel metrics of a test set in one pass and in bounded memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomalib_unias.metrics.aupimo import SharedFprRange
from anomalib_unias.metrics.functional import (
    ScoreCurve,
    aupro,
    auroc,
    average_precision,
    best_f1_index,
    f1_max,
    intersection_over_union,
    precision_plus_recall_index,
)
from anomalib_unias.metrics.score_table import (
    DEFECTIVE,
    DICE,
    IMAGE_FPR,
    IMAGE_TPR,
    KEY,
    NORMAL,
    PIXEL_WIDTH,
    REGION,
    Precision,
    ScoreTable,
    full_precision,
    key_scores,
    merge_tables,
    pixel_rows,
)
from anomalib_unias.metrics.table_metric import TableMetric, require_numbers

PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "aupimo", "dsc", "dsc_best_f1", "iou")


@dataclass(frozen=True)
class PixelTable:
    """Summary of the anomaly maps and masks of a set of images.

    Args:
        rows (ScoreTable): Table ``(n, 7)`` with increasing keys, see :mod:`anomalib_unias.metrics.score_table`.
        dropped (Precision): Number of trailing bits of the key that are dropped, by segment ``(560,)``.
        images (int): Number of images.
        images_without_defect (int): Number of images whose mask is empty.
        regions (int): Number of defective regions.
    """

    rows: ScoreTable
    dropped: Precision
    images: int
    images_without_defect: int
    regions: int

    @classmethod
    def joint(cls, tables: Sequence["PixelTable"], max_rows: int | None) -> "PixelTable":
        """Table of several sets of images together, the same as if they had been one set from the start."""
        rows, dropped = np.empty((0, PIXEL_WIDTH)), full_precision()
        for table in tables:
            rows, dropped = merge_tables([rows, table.rows], np.maximum(dropped, table.dropped), max_rows)
        return cls(
            rows=rows,
            dropped=dropped,
            images=sum(table.images for table in tables),
            images_without_defect=sum(table.images_without_defect for table in tables),
            regions=sum(table.regions for table in tables),
        )

    @cached_property
    def curve(self) -> ScoreCurve:
        """Counts of pixels at or above every threshold."""
        return ScoreCurve(key_scores(self._descending(KEY)), self._summed(DEFECTIVE), self._summed(NORMAL))

    @property
    def region_overlap(self) -> NDArray:
        """Share of a region that is found, averaged over the regions, at each threshold of the curve ``(T,)``."""
        return np.minimum(self._summed(REGION) / (self.regions or np.nan), 1)

    @property
    def dice(self) -> NDArray:
        """Dice coefficient of an image, averaged over the images, at each threshold of the curve ``(T,)``."""
        return (self.images_without_defect + self._summed(DICE)) / (self.images or np.nan)

    @cached_property
    def shared_fpr(self) -> SharedFprRange | None:
        """Thresholds over which AUPIMO averages the true positive rate; ``None`` if it is undefined."""
        normal = self.rows[self.rows[:, IMAGE_FPR] > 0]
        if not len(normal):
            return None
        rates = np.cumsum(normal[::-1, IMAGE_FPR])[::-1] / self.images_without_defect
        return SharedFprRange.of(key_scores(normal[:, KEY]), rates)

    @property
    def dsc_threshold(self) -> float:
        """Threshold of the metric ``dsc``; NaN without defective pixels."""
        if not self.curve.positives:
            return float("nan")
        return float(self.curve.thresholds[precision_plus_recall_index(self.curve)])

    @property
    def aupimo(self) -> float:
        """Mean AUPIMO of the images with a defect; NaN if it is undefined."""
        images = self.images - self.images_without_defect
        if self.shared_fpr is None or not images:
            return float("nan")
        found = np.append(np.cumsum(self.rows[::-1, IMAGE_TPR])[::-1], 0) / images
        return self.shared_fpr.mean_over(
            found[np.searchsorted(key_scores(self.rows[:, KEY]), self.shared_fpr.thresholds)]
        )

    def _descending(self, column: int) -> NDArray:
        return self.rows[::-1, column]

    def _summed(self, column: int) -> NDArray:
        return np.cumsum(self._descending(column))


def pixel_metrics(table: PixelTable, fpr_limit: float = 0.3) -> dict[str, float]:
    """Pixel metrics of a set of images.

    The thresholds of ``pixel_f1max``, ``dsc``, ``dsc_best_f1`` and ``iou`` are chosen on the labels that are evaluated,
    as in the literature: they show how well one threshold *can* segment the maps, not how well a deployed one does.

    Args:
        table (PixelTable): Table of the set.
        fpr_limit (float): False positive rate up to which ``aupro`` is integrated. Defaults to ``0.3``.

    Returns:
        dict[str, float]: By name, NaN where the metric is undefined:

        - ``pixel_auroc``: area under the ROC curve of all pixels.
        - ``pixel_ap``: step-wise average precision of all pixels.
        - ``pixel_f1max``: largest F1 score of all thresholds, over all pixels.
        - ``aupro``: area under the mean overlap of defective regions (8-connected) against the false positive rate
          of all pixels outside regions, up to ``fpr_limit`` and divided by it.
        - ``aupimo``: mean AUPIMO of the images with a defect, see :mod:`anomalib_unias.metrics.aupimo`.
        - ``dsc``: mean Dice coefficient by the rule of the UniAS paper: threshold at the largest sum of precision
          and recall over all pixels, Dice coefficient of every image at this threshold, mean over all images. An
          image without defect counts 1 if nothing is predicted in it, else 0.
        - ``dsc_best_f1``: the same at the threshold with the largest F1 score over all pixels.
        - ``iou``: intersection over union at that threshold, over all pixels.
    """
    curve = table.curve
    values = {
        "pixel_auroc": auroc(curve),
        "pixel_ap": average_precision(curve),
        "pixel_f1max": f1_max(curve),
        "aupro": aupro(curve, table.region_overlap, fpr_limit),
        "aupimo": table.aupimo,
        "dsc": float("nan"),
        "dsc_best_f1": float("nan"),
        "iou": float("nan"),
    }
    if curve.positives:
        best_f1 = best_f1_index(curve)
        values["dsc"] = float(table.dice[precision_plus_recall_index(curve)])
        values["dsc_best_f1"] = float(table.dice[best_f1])
        values["iou"] = intersection_over_union(curve, best_f1)
    return values


class PixelMetrics(TableMetric):
    """All metrics of :func:`pixel_metrics` in one pass over the anomaly maps.

    Memory does not depend on the number of images: at most ``max_rows`` rows of 56 bytes, and as much again for rows
    that are not merged yet. The result depends neither on the order of the images nor on how they are split into
    batches or processes, and it is exact while there are at most ``max_rows`` different scores.

    Args:
        exact (bool): Keep every distinct float32 score, in memory that grows with the images. Defaults to ``False``.
        max_rows (int): Largest number of ranges of scores that are distinguished, at least 560.
            Defaults to ``131072``.
        fpr_limit (float): False positive rate up to which ``aupro`` is integrated. Defaults to ``0.3``.

    Raises:
        ValueError: If ``max_rows`` is less than 560 or ``fpr_limit`` is not in ``(0, 1]``.

    Example:
        >>> import torch
        >>> metric = PixelMetrics()
        >>> anomaly_map = torch.tensor([[[0.1, 0.2], [0.7, 0.9]]])
        >>> metric.update(anomaly_map, anomaly_map > 0.5)
        >>> metric.compute()["pixel_ap"]
        tensor(1., dtype=torch.float64)
    """

    columns = PIXEL_WIDTH

    def __init__(self, exact: bool = False, max_rows: int = 2**17, fpr_limit: float = 0.3) -> None:
        if not 0 < fpr_limit <= 1:
            msg = f"fpr_limit is the upper end of a false positive rate, in (0, 1], got {fpr_limit}."
            raise ValueError(msg)
        super().__init__(exact=exact, max_rows=max_rows)
        self.fpr_limit = fpr_limit
        for count in ("images", "images_without_defect", "regions"):
            self.add_state(count, default=torch.tensor(0), dist_reduce_fx="sum")
        self.images: Tensor
        self.images_without_defect: Tensor
        self.regions: Tensor

    def update(self, anomaly_map: Tensor, mask: Tensor) -> None:
        """Add a batch of images.

        Args:
            anomaly_map (Tensor): Anomaly maps ``(B, H, W)`` or ``(B, 1, H, W)``, in any range, compared as float32.
            mask (Tensor): Ground truth ``(B, H, W)`` or ``(B, 1, H, W)``, defective where ``> 0``.

        Raises:
            ValueError: If the sizes of maps and masks differ, or a map has NaN.
        """
        maps, masks = _planes(anomaly_map), _planes(mask) > 0
        if maps.shape != masks.shape:
            msg = (
                f"Anomaly maps of shape {tuple(maps.shape)} need masks of the same shape, got {tuple(masks.shape)}. "
                "Resize the masks to the maps (nearest neighbour)."
            )
            raise ValueError(msg)
        require_numbers(maps)
        for image_map, image_mask in zip(maps, masks, strict=True):
            rows, regions = pixel_rows(image_map, image_mask, self.precision)
            self.add_rows(rows)
            self.images += 1
            self.images_without_defect += int(not image_mask.any())
            self.regions += regions

    def table(self) -> PixelTable:
        """Table of all images so far, of all processes if the metric is synchronised."""
        rows, dropped = self.merged_rows()
        return PixelTable(rows, dropped, int(self.images), int(self.images_without_defect), int(self.regions))

    def compute(self) -> dict[str, Tensor]:
        """Metrics of :func:`pixel_metrics` as float64 scalars."""
        values = pixel_metrics(self.table(), self.fpr_limit)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def _planes(images: Tensor) -> NDArray:
    if images.ndim not in {3, 4} or (images.ndim == 4 and images.shape[1] != 1):
        msg = f"Expected one map per image, shape (B, H, W) or (B, 1, H, W), got {tuple(images.shape)}."
        raise ValueError(msg)
    planes = images.reshape(len(images), *images.shape[-2:]).detach().cpu()
    return (planes.float() if planes.is_floating_point() else planes).numpy()
