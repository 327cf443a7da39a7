"""Summaries of the pixels and regions of each image, kept for results per image after a test."""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import maximum

from anomalib_unias.metrics.aupimo import SharedFprRange
from anomalib_unias.metrics.pixel_metrics import PixelTable
from anomalib_unias.metrics.rank_sketch import RankSketch
from anomalib_unias.metrics.scored_image import ScoredImage

PIXEL_COLUMNS = ("peak", "marked", "dice", "mixed_dice", "aupimo", "mixed_aupimo")
REGION_COLUMNS = ("category", "image_path", "area", "share", "peak", "found")


@dataclass(frozen=True)
class ImagePixels:
    """Summary of the pixels and regions of one image, about 2 kB.

    Args:
        normal (RankSketch): Scores of the pixels outside defects.
        defective (RankSketch): Scores of the pixels in defects.
        peak (float): Highest score of the anomaly map.
        marked (float): Share of the pixels that the post-processor calls defective, NaN if it predicts no mask.
        areas (NDArray): Number of pixels of each defective region (8-connected) ``(R,)``.
        peaks (NDArray): Highest score in each region ``(R,)``.
        found (NDArray): 1 if the post-processor calls a pixel of the region defective, 0 if none, NaN if it predicts
            no mask ``(R,)``.
    """

    normal: RankSketch
    defective: RankSketch
    peak: float
    marked: float
    areas: NDArray[np.int64]
    peaks: NDArray[np.float32]
    found: NDArray[np.float32]

    @classmethod
    def of(cls, image: ScoredImage, exact: bool = False) -> "ImagePixels":
        """Summarise an image.

        Args:
            image (ScoredImage): Image with map and mask of the same size ``(H, W)``.
            exact (bool): Keep the scores of all pixels. Defaults to ``False``.

        Returns:
            ImagePixels: The summary.
        """
        assert image.anomaly_map is not None
        assert image.mask is not None
        scores = image.anomaly_map.detach().cpu().float().numpy()
        mask = image.mask.cpu().numpy() > 0
        predicted = None if image.predicted_mask is None else image.predicted_mask.cpu().numpy() > 0
        count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        regions = np.arange(1, count)  # component 0 is the background
        return cls(
            normal=RankSketch.of(scores[~mask], exact),
            defective=RankSketch.of(scores[mask], exact),
            peak=float(scores.max()),
            marked=float("nan") if predicted is None else float(predicted.mean()),
            areas=statistics[regions, cv2.CC_STAT_AREA].astype(np.int64),
            peaks=np.asarray(maximum(scores, labels, regions), dtype=np.float32),
            found=_found(labels, regions, predicted),
        )

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.normal.size + self.defective.size

    def dice(self, threshold: float) -> float:
        """Dice coefficient of the pixels at or above a threshold; 1 if there is neither defect nor prediction."""
        if np.isnan(threshold):
            return float("nan")
        true_positives, false_positives = (
            float(part.count_from(np.array([threshold], np.float32))[0]) for part in (self.defective, self.normal)
        )
        pixels = self.defective.size + true_positives + false_positives
        return 2 * true_positives / pixels if pixels else 1.0

    def aupimo(self, shared_fpr: SharedFprRange | None) -> float:
        """AUPIMO of the image; NaN without a defect or a range of false positive rates."""
        if shared_fpr is None or not self.defective.size:
            return float("nan")
        return shared_fpr.mean_over(self.defective.count_from(shared_fpr.thresholds) / self.defective.size)


def pixel_columns(images: pd.DataFrame, tables: Mapping[str, PixelTable], mixed: str) -> pd.DataFrame:
    """Pixel-level numbers of each image.

    Args:
        images (pd.DataFrame): Columns ``category`` and ``pixels`` (:class:`ImagePixels` or ``None``).
        tables (Mapping[str, PixelTable]): Pixel tables of the categories, and of all images.
        mixed (str): Name of the table of all images.

    Returns:
        pd.DataFrame: Columns :data:`PIXEL_COLUMNS` as in :class:`~anomalib_unias.metrics.UnifiedResults`, NaN for an
        image without map or mask.
    """
    thresholds = {name: table.dsc_threshold for name, table in tables.items()}
    rows = [
        (
            pixels.peak,
            pixels.marked,
            pixels.dice(thresholds[category]),
            pixels.dice(thresholds[mixed]),
            pixels.aupimo(tables[category].shared_fpr),
            pixels.aupimo(tables[mixed].shared_fpr),
        )
        if isinstance(pixels, ImagePixels)
        else (np.nan,) * len(PIXEL_COLUMNS)
        for category, pixels in zip(images["category"], images["pixels"], strict=True)
    ]
    return pd.DataFrame(rows, columns=list(PIXEL_COLUMNS), index=images.index, dtype=float)


def region_table(images: pd.DataFrame) -> pd.DataFrame:
    """Defective regions of a set of images.

    Args:
        images (pd.DataFrame): Columns ``category, image_path`` and ``pixels`` (:class:`ImagePixels` or ``None``).

    Returns:
        pd.DataFrame: One row per region: ``category, image_path, area`` (pixels of the map), ``share`` (of the image),
        ``peak`` (highest score in it) and ``found`` (1 if a pixel of it is predicted defective, NaN if no masks are
        predicted).
    """
    shown = images[[isinstance(pixels, ImagePixels) and len(pixels.areas) > 0 for pixels in images["pixels"]]]
    if not len(shown):
        return pd.DataFrame(columns=list(REGION_COLUMNS))
    parts: list[ImagePixels] = list(shown["pixels"])
    counts = [len(pixels.areas) for pixels in parts]
    areas = np.concatenate([pixels.areas for pixels in parts])
    return pd.DataFrame(
        {
            "category": np.repeat(shown["category"].to_numpy(), counts),
            "image_path": np.repeat(shown["image_path"].to_numpy(), counts),
            "area": areas,
            "share": areas / np.repeat([pixels.size for pixels in parts], counts),
            "peak": np.concatenate([pixels.peaks for pixels in parts]).astype(float),
            "found": np.concatenate([pixels.found for pixels in parts]).astype(float),
        }
    )


def _found(labels: NDArray, regions: NDArray, predicted: NDArray | None) -> NDArray[np.float32]:
    if predicted is None:
        return np.full(len(regions), np.nan, np.float32)
    return np.isin(regions, labels[predicted]).astype(np.float32)
