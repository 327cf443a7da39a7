"""Results of a test that are known beforehand."""

import numpy as np
import pandas as pd
import torch

from anomalib_unias.metrics import PixelMetrics, UnifiedResults, summarize


def make_results(levels: dict[str, float], defects: bool = True, threshold: float = 1.5) -> UnifiedResults:
    """Four good images at the level of each category, and four defective ones above it."""
    rows, tables = [], {}
    for category, level in levels.items():
        metric = PixelMetrics()
        for index in range(8):
            label = int(defects and index >= 4)
            score = level + 0.1 * index + label
            path = f"{category}/{index}.png"
            rows.append((category, path, label, score, score / 10, float(score > threshold)))
            mask = np.zeros((1, 6, 6), bool)
            mask[:, 2:4, 2:4] = label
            maps = np.random.default_rng(index).random((1, 6, 6)) + level + 0.5 * mask
            metric.update(torch.from_numpy(maps), torch.from_numpy(mask))
        tables[category] = metric.table()
    columns = ["category", "image_path", "label", "score", "normalized_score", "predicted"]
    return summarize(pd.DataFrame(rows, columns=columns), tables, 0.3, None)
