"""Metrics in the form of the tables."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from anomalib_unias.metrics import PixelMetrics
from anomalib_unias.metrics.collection import Collection
from anomalib_unias.metrics.scored_image import ScoredImage
from anomalib_unias.metrics.unified_results import GAP, unified_metrics

METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "dsc", "dsc_best_f1", "aupro")

Row = tuple[str, str, float]
"""Category, metric, value."""


def table_rows(results: pd.DataFrame) -> list[Row]:
    """Select the results of ``UnifiedEvaluator`` that the tables show."""
    shown = results[results["metric"].isin(METRICS) & (results["category"] != GAP)]
    return list(shown[["category", "metric", "value"]].itertuples(index=False, name=None))


class Measurement:
    """Metrics of predictions that do not come from a trainer, in memory that does not grow with the images."""

    def __init__(self) -> None:
        self._collection = Collection(PixelMetrics)

    def add(
        self, maps: Tensor, scores: Sequence[float], masks: Tensor, labels: Sequence[bool], categories: Sequence[str]
    ) -> None:
        """Add a batch.

        Args:
            maps (Tensor): Anomaly maps ``(B, H, W)``.
            scores (Sequence[float]): Image scores.
            masks (Tensor): Ground-truth masks ``(B, H, W)``.
            labels (Sequence[bool]): Whether an image is defective.
            categories (Sequence[str]): Category of each image.
        """
        for image in zip(categories, labels, scores, maps, masks, strict=True):
            category, label, score, anomaly_map, mask = image
            self._collection.add(
                ScoredImage(
                    category=category,
                    image_path="",
                    label=int(label),
                    score=float(score),
                    normalized_score=float(score),
                    predicted=float("nan"),
                    anomaly_map=anomaly_map,
                    mask=mask,
                    predicted_mask=None,
                )
            )

    def rows(self) -> list[Row]:
        """Compute the metrics of each category, their mean, and those of the joint set."""
        images, tables = self._collection.images(), self._collection.pixel_tables(torch.device("cpu"))
        return table_rows(unified_metrics(images, tables, fpr_limit=0.3, max_rows=2**17))
