"""Images and regions of a test that are known beforehand."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

NAN = float("nan")


def make_images(
    good: Sequence[float], defective: Sequence[float], threshold: float = NAN, category: str = "a"
) -> pd.DataFrame:
    """Images with given scores, called defective above a threshold; one pixel of ten is marked in those."""
    scores = np.array([*good, *defective], dtype=float)
    labels = [0] * len(good) + [1] * len(defective)
    known = not np.isnan(threshold)
    predicted = (scores > threshold).astype(float) if known else np.full(len(scores), NAN)
    kinds = ["good" if label == 0 else "hole" for label in labels]
    return pd.DataFrame(
        {
            "category": category,
            "image_path": [f"{category}/test/{kind}/{index:03}.png" for index, kind in enumerate(kinds)],
            "label": labels,
            "score": scores,
            "normalized_score": scores,
            "predicted": predicted,
            "peak": scores,
            "marked": predicted / 10,
            "dice": 1 - np.array(labels) * 0.5,
            "mixed_dice": 1 - np.array(labels) * 0.5,
            "aupimo": np.where(np.array(labels) == 1, 0.25, NAN),
            "mixed_aupimo": np.where(np.array(labels) == 1, 0.5, NAN),
        }
    )


def make_regions(images: pd.DataFrame, areas: Sequence[int], pixels: int = 1000) -> pd.DataFrame:
    """One region per defective image."""
    defective = images[images["label"] == 1]
    return pd.DataFrame(
        {
            "category": defective["category"],
            "image_path": defective["image_path"],
            "area": list(areas),
            "share": np.array(areas) / pixels,
            "peak": defective["score"],
            "found": defective["predicted"],
        }
    ).reset_index(drop=True)
