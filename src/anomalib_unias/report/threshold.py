"""The threshold of a run on the scale of its raw scores."""

from typing import Any

import numpy as np
import pandas as pd

from anomalib_unias.compat.scores import has_threshold


def deployed_threshold(images: pd.DataFrame, post_processor: Any) -> float:
    """Raw image score above which the model calls an image defective.

    It is the threshold of the post-processor. The sensitivity of the post-processor acts on the normalised scale only,
    so the threshold is moved to the nearest raw score that agrees with the predicted labels.

    Args:
        images (pd.DataFrame): Images as in :class:`~anomalib_unias.metrics.UnifiedResults`.
        post_processor (Any): Post-processor with an ``image_threshold``, or any other object.

    Returns:
        float: Threshold; NaN if no labels are predicted, or no single threshold gives them.

    Example:
        >>> images = pd.DataFrame({"score": [1.0, 2.0, 7.0], "predicted": [0.0, 0.0, 1.0]})
        >>> deployed_threshold(images, None)
        4.5
    """
    good, defective = (images.loc[images["predicted"] == label, "score"] for label in (0, 1))
    highest_good = good.max() if len(good) else -np.inf
    lowest_defective = defective.min() if len(defective) else np.inf
    if images["predicted"].isna().any() or highest_good > lowest_defective:
        return float("nan")
    threshold = float(getattr(post_processor, "image_threshold", np.nan))
    if np.isnan(threshold):
        threshold = float(highest_good + lowest_defective) / 2
        return threshold if np.isfinite(threshold) else float("nan")
    return float(np.clip(threshold, highest_good, lowest_defective))


def normalized_threshold(post_processor: Any) -> float:
    """Normalised image score above which a post-processor calls an image defective.

    Args:
        post_processor (Any): Post-processor, or any other object.

    Returns:
        float: Threshold; NaN if there is none.
    """
    if not has_threshold(post_processor, "image_threshold"):
        return float("nan")
    return float(getattr(post_processor, "normalized_image_threshold", np.nan))
