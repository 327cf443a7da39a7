"""Pixel counts of each image at some thresholds, which give the pixel metrics of any subset of the images."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalib_unias.metrics.functional import ScoreCurve, thin_curve
from anomalib_unias.metrics.image_pixels import ImagePixels
from anomalib_unias.metrics.pixel_metrics import PixelTable

COUNT_COLUMNS = ("pixel_counts", "mixed_pixel_counts")
CURVE_POINTS = 64


def count_pixels(images: pd.DataFrame, tables: Mapping[str, PixelTable], mixed: str) -> pd.DataFrame:
    """Count the pixels of each image at or above thresholds along the curves of its category, and of all images.

    The counts give average precision and AUROC of any subset of the images to about 0.001, and exactly if all pixels
    were kept and have few distinct scores.

    Args:
        images (pd.DataFrame): Columns ``category`` and ``pixels`` (:class:`ImagePixels` or ``None``).
        tables (Mapping[str, PixelTable]): Pixel tables of the categories, and of all images.
        mixed (str): Name of the table of all images.

    Returns:
        pd.DataFrame: Columns :data:`COUNT_COLUMNS` (thresholds of the category, of all images), for each image an array
        ``(3, K)``, float32: number of pixels outside defects, number of pixels in defects, and 1 where all pixels
        between a threshold and the next higher one have equal scores. No columns if there are no pixels.
    """
    if not tables:
        return pd.DataFrame(index=images.index)
    thresholds = {name: curve_thresholds(table.curve) for name, table in tables.items()}
    width = max(len(values) for values, _ in thresholds.values())
    names = images["category"].to_numpy()
    set_names = {"pixel_counts": names, "mixed_pixel_counts": np.full(len(names), mixed)}
    counts = {}
    for column, sets in set_names.items():
        block = np.zeros((len(images), 3, width), np.float32)
        for number, (name, pixels) in enumerate(zip(sets, images["pixels"], strict=True)):
            if name in thresholds:
                values, tied = thresholds[name]
                block[number, 2, : len(tied)] = tied
                if isinstance(pixels, ImagePixels):
                    # Repeats of the last threshold add nothing.
                    at = np.pad(values, (0, width - len(values)), mode="edge")
                    block[number, :2] = pixels.normal.count_from(at), pixels.defective.count_from(at)
        counts[column] = pd.Series(list(block), index=images.index, dtype=object)
    return pd.DataFrame(counts)


def curve_thresholds(curve: ScoreCurve) -> tuple[NDArray, NDArray[np.bool_]]:
    """Choose thresholds that represent the ROC and precision-recall curves, and all scores that many pixels share.

    Args:
        curve (ScoreCurve): Curve of pixels.

    Returns:
        tuple[NDArray, NDArray[np.bool_]]: Decreasing thresholds ``(K,)``, at most a few hundred, and for each whether
        no other score lies between it and the next higher one ``(K,)``. A single threshold if there are no positives or
        no negatives.

    Example:
        >>> values, tied = curve_thresholds(ScoreCurve.from_scores(np.array([1, 2, 2, 3]), np.array([0, 0, 1, 1])))
        >>> values.tolist(), tied.tolist()
        ([3, 2, 1], [True, True, True])
    """
    if not (curve.positives and curve.negatives):
        return np.zeros(1), np.zeros(1, bool)
    rate, recall = curve.false_positive_rate, curve.recall
    # Precision depends on the few false positives at the top, the area under the ROC curve on the many below.
    magnitude = np.log1p(curve.false_positives) / np.log1p(curve.negatives)
    shares = np.maximum(np.diff(rate, prepend=0), np.diff(recall, prepend=0))
    frequent = np.flatnonzero(shares > 1 / CURVE_POINTS)
    parts = (
        thin_curve(rate, recall, CURVE_POINTS),
        thin_curve(magnitude, recall, CURVE_POINTS),
        frequent,
        frequent[frequent > 0] - 1,
    )
    indices = np.unique(np.concatenate(parts))
    return curve.thresholds[indices], np.diff(indices, prepend=-1) == 1
