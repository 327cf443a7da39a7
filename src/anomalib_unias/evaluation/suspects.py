"""Suspicious labels: images to check again before trusting the numbers."""

import numpy as np
import pandas as pd

SUSPECT_COLUMNS = ("category", "image_path", "label", "score", "suspicion")


def suspicious_labels(images: pd.DataFrame) -> pd.DataFrame:
    """Good images that score like defective ones of their category, and the reverse.

    The suspicion of a good image is the share of the defective images of its category that score lower, that of a
    defective image the share of the good ones that score higher; ties count half. Half or more is suspicious.

    Args:
        images (pd.DataFrame): Images as in :class:`~anomalib_unias.metrics.UnifiedResults`.

    Returns:
        pd.DataFrame: Columns :data:`SUSPECT_COLUMNS`, the most suspicious first. Categories with only one label have
        none.
    """
    parts = []
    for _, part in images.groupby("category"):
        for label, sign in ((0, 1), (1, -1)):
            labelled, others = part[part["label"] == label], np.sort(sign * part.loc[part["label"] != label, "score"])
            if len(labelled) and len(others):
                scores = sign * labelled["score"].to_numpy(float)
                sides = (np.searchsorted(others, scores, side=side) for side in ("left", "right"))
                parts.append(labelled.assign(suspicion=sum(sides) / (2 * len(others))))
    if not parts:
        return pd.DataFrame(columns=list(SUSPECT_COLUMNS))
    table = pd.concat(parts)
    table = table.loc[table["suspicion"] >= 0.5, list(SUSPECT_COLUMNS)]
    return table.sort_values(["suspicion", "category", "image_path"], ascending=[False, True, True], ignore_index=True)
