"""The page on which a reader can move the threshold."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_unias.metrics.unified_results import UnifiedResults
from anomalib_unias.report.templates import template


def write_threshold_page(
    results: UnifiedResults, threshold: float, pictures: Mapping[tuple[str, str], str], folder: Path
) -> None:
    """Write ``threshold.html``: a slider for the threshold, which needs only this page and the files beside it.

    It shows the confusion counts and rates at any threshold, the images whose label changes, and the expected cost of
    1000 parts for the costs and the share of defective parts that the reader sets. It takes about 100 bytes per image.

    Args:
        results (UnifiedResults): Results of the test.
        threshold (float): Threshold of the model for raw image scores, NaN if there is none.
        pictures (Mapping[tuple[str, str], str]): Files of the existing pictures, by category and path.
        folder (Path): Existing folder.
    """
    images = results.images[np.isfinite(results.images["score"].to_numpy(float))]
    categories = results.categories
    data = {
        "threshold": threshold if np.isfinite(threshold) else None,
        "categories": categories,
        "images": [
            [categories.index(category), int(label), float(score), path, pictures.get((category, path), "")]
            for category, label, score, path in _rows(images[["category", "label", "score", "image_path"]])
        ],
    }
    # "<" cannot end the script element from within it; U+2028 and U+2029 are escaped by json already.
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    page = template("threshold.html").render(data=text, categories=categories, deployed=np.isfinite(threshold))
    (folder / "threshold.html").write_text(page, encoding="utf-8")


def _rows(table: Any) -> Iterable[tuple]:
    return table.itertuples(index=False, name=None)
