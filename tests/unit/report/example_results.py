"""Results of a test that are known beforehand."""

import numpy as np
import torch

from anomalib_unias.metrics import PixelMetrics, UnifiedResults, summarize
from anomalib_unias.metrics.collection import Collection
from anomalib_unias.metrics.scored_image import ScoredImage


def make_results(levels: dict[str, float], defects: bool = True, threshold: float = 1.5) -> UnifiedResults:
    """Four good images at the level of each category, and four defective ones above it."""
    collection = Collection(PixelMetrics, keep_pixels="all")
    for category, level in levels.items():
        for index in range(8):
            label = int(defects and index >= 4)
            score = level + 0.1 * index + label
            mask = np.zeros((6, 6), bool)
            mask[2:4, 2:4] = label
            maps = np.random.default_rng(index).random((6, 6)) + level + 0.5 * mask
            collection.add(
                ScoredImage(
                    category=category,
                    image_path=f"{category}/{index}.png",
                    label=label,
                    score=score,
                    normalized_score=score / 10,
                    predicted=float(score > threshold),
                    anomaly_map=torch.from_numpy(maps),
                    mask=torch.from_numpy(mask),
                    predicted_mask=torch.from_numpy(maps > threshold),
                )
            )
    return summarize(collection.images(), collection.pixel_tables(torch.device("cpu")), 0.3, None)
