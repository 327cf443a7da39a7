"""Share of the defects that is found, by size and by kind."""

from collections.abc import Iterator
from pathlib import PurePath

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from anomalib_unias.evaluation.error_rates import DEPLOYED, false_alarm_threshold
from anomalib_unias.evaluation.image_statistics import FALSE_ALARM_RATES
from anomalib_unias.evaluation.intervals import binomial_interval
from anomalib_unias.metrics.unified_results import MIXED

AREA_EDGES = 4.0 ** np.arange(12)
SHARE_EDGES = np.array([0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3])
SIZE_COLUMNS = ("category", "at", "unit", "from", "below", "regions", "found", "recall", "low", "high")
SMALLEST_COLUMNS = ("category", "at", "unit", "smallest", "regions_from_there")
KIND_COLUMNS = ("category", "kind", "level", "at", "defects", "found", "recall", "low", "high")

_UNITS = {"area": AREA_EDGES, "share": SHARE_EDGES}
_RECALL = 0.9
# With fewer regions of at least a size, nothing shows that 90 % of them are found.
_FEWEST_REGIONS = 10


def recall_by_size(images: pd.DataFrame, regions: pd.DataFrame) -> pd.DataFrame:
    """Share of the defective regions that is found, by their size.

    A region is found as in :func:`~anomalib_unias.evaluation.error_rates.error_rates`. The size is measured in pixels
    of the anomaly map, and as a share of the image.

    Args:
        images (pd.DataFrame): Images as in :class:`~anomalib_unias.metrics.UnifiedResults`.
        regions (pd.DataFrame): Regions as in :class:`~anomalib_unias.metrics.UnifiedResults`.

    Returns:
        pd.DataFrame: Columns :data:`SIZE_COLUMNS`, one row per category (and ``mixed``), ``at`` (``deployed``,
        ``false_alarms_1%``, ``false_alarms_5%``), ``unit`` (``area`` in pixels, ``share`` of the image) and range of
        sizes that contains a region. The last range is open.
    """
    rows = []
    for category, at, part, found in _found_regions(images, regions):
        for unit, edges in _UNITS.items():
            bins = np.digitize(part[unit].to_numpy(float), edges)
            for index in np.unique(bins):
                below = float(edges[index]) if index < len(edges) else float("inf")
                rows.append((category, at, unit, float(edges[index - 1]), below, *_recall(found[bins == index])))
    return pd.DataFrame(rows, columns=list(SIZE_COLUMNS))


def smallest_found(images: pd.DataFrame, regions: pd.DataFrame) -> pd.DataFrame:
    """Smallest size of a defect that is found in 90 % of cases.

    The only assumption is that the share found does not decrease with the size (isotonic regression).

    Args:
        images (pd.DataFrame): Images as in :class:`~anomalib_unias.metrics.UnifiedResults`.
        regions (pd.DataFrame): Regions as in :class:`~anomalib_unias.metrics.UnifiedResults`.

    Returns:
        pd.DataFrame: Columns :data:`SMALLEST_COLUMNS`, by category, ``at`` and ``unit`` as in :func:`recall_by_size`.
        ``smallest`` is NaN if no size is found in 90 % of cases, or fewer than ten regions are at least that large.
    """
    rows = []
    for category, at, part, found in _found_regions(images, regions):
        for unit in _UNITS:
            sizes = part[unit].to_numpy(float)
            smallest = _smallest(sizes, found)
            rows.append((category, at, unit, smallest, int((sizes >= smallest).sum())))
    return pd.DataFrame(rows, columns=list(SMALLEST_COLUMNS))


def recall_by_kind(images: pd.DataFrame, regions: pd.DataFrame) -> pd.DataFrame:
    """Share of the defective images and regions that is found, by kind of defect.

    Args:
        images (pd.DataFrame): Images as in :class:`~anomalib_unias.metrics.UnifiedResults`. The kind is the name of the
            folder of an image, empty if its path has none.
        regions (pd.DataFrame): Regions as in :class:`~anomalib_unias.metrics.UnifiedResults`.

    Returns:
        pd.DataFrame: Columns :data:`KIND_COLUMNS`; ``level`` is ``image`` or ``region``, ``at`` as in
        :func:`recall_by_size`, each category with its own threshold.
    """
    rows = []
    found = [("image", *entry) for entry in _found_images(images)]
    found += [("region", *entry) for entry in _found_regions(images, regions) if entry[0] != MIXED]
    for level, category, at, part, values in found:
        kinds = np.array([kind_of(path) for path in part["image_path"]])
        rows += [(category, kind, level, at, *_recall(values[kinds == kind])) for kind in np.unique(kinds)]
    table = pd.DataFrame(rows, columns=list(KIND_COLUMNS))
    return table.sort_values(["category", "kind", "level"], kind="stable", ignore_index=True)


def kind_of(image_path: str) -> str:
    """Kind of a defect: the folder of its image.

    Example:
        >>> kind_of("bottle/test/broken_large/000.png"), kind_of("000.png")
        ('broken_large', '')
    """
    return PurePath(image_path).parent.name


def _found_images(images: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame, NDArray]]:
    for category, part in images.groupby("category"):
        good, defective = (part[part["label"] == label] for label in (0, 1))
        if not len(defective):
            continue
        yield str(category), DEPLOYED, defective, defective["predicted"].to_numpy(float)
        for rate in FALSE_ALARM_RATES:
            threshold = false_alarm_threshold(good["score"].to_numpy(float), rate)
            yield str(category), f"false_alarms_{rate:.0%}", defective, _above(defective["score"], threshold)


def _found_regions(images: pd.DataFrame, regions: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame, NDArray]]:
    """Category, ``at``, regions of the category, and which of them are found (1, 0, NaN)."""
    for category in [*sorted(regions["category"].unique()), MIXED]:
        part = regions if category == MIXED else regions[regions["category"] == category]
        if not len(part):
            continue
        category_images = images if category == MIXED else images[images["category"] == category]
        peaks = category_images.loc[category_images["label"] == 0, "peak"].dropna().to_numpy(float)
        yield category, DEPLOYED, part, part["found"].to_numpy(float)
        for rate in FALSE_ALARM_RATES:
            threshold = false_alarm_threshold(peaks, rate)
            yield category, f"false_alarms_{rate:.0%}", part, _above(part["peak"], threshold)


def _above(scores: pd.Series, threshold: float) -> NDArray:
    values = scores.to_numpy(float)
    return np.full(len(values), np.nan) if np.isnan(threshold) else (values > threshold).astype(float)


def _recall(found: NDArray) -> tuple[int, float, float, float, float]:
    """Number of defects, how many are found, the share and its interval."""
    if np.isnan(found).any():
        nan = float("nan")
        return len(found), nan, nan, nan, nan
    count = int(found.sum())
    return len(found), count, count / len(found), *binomial_interval(count, len(found))


def _smallest(sizes: NDArray, found: NDArray) -> float:
    if np.isnan(found).any():
        return float("nan")
    recall = IsotonicRegression(y_min=0, y_max=1).fit(sizes, found).predict(sizes)
    detected = sizes[recall >= _RECALL]
    return float(detected.min()) if len(detected) >= _FEWEST_REGIONS else float("nan")
