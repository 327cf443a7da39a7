"""False alarms and misses with exact intervals: at the threshold of the model, and at given rates."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalib_unias.evaluation.image_statistics import FALSE_ALARM_RATES, allowed
from anomalib_unias.evaluation.intervals import binomial_interval
from anomalib_unias.metrics.unified_results import MIXED

DEPLOYED = "deployed"
MISS_RATES = (0.01, 0.05)
ERROR_COLUMNS = (
    "category",
    "level",
    "at",
    "threshold",
    *("good", "false_alarms", "false_alarm_rate", "false_alarm_low", "false_alarm_high"),
    *("defective", "misses", "miss_rate", "miss_low", "miss_high"),
)


class Outcomes(NamedTuple):
    """False alarms and misses at a threshold; NaN where they are not known.

    Args:
        false_alarms (NDArray): For each good image, 1 if it is called defective, else 0 ``(G,)``.
        misses (NDArray): For each defect, 1 if it is missed, else 0 ``(D,)``.
        threshold (float): Threshold of the raw scores, NaN if there is no such threshold.
    """

    false_alarms: NDArray
    misses: NDArray
    threshold: float

    @classmethod
    def at(cls, good: NDArray, defective: NDArray, threshold: float) -> "Outcomes":
        """Outcomes of scores: those above the threshold are called defective; all are NaN if the threshold is."""
        if np.isnan(threshold):
            return cls(np.full(len(good), np.nan), np.full(len(defective), np.nan), threshold)
        return cls((good > threshold).astype(float), (defective <= threshold).astype(float), threshold)


def error_rates(images: pd.DataFrame, regions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """False alarms and misses of every category and of all images together.

    At level ``image``, an image is called defective by its score. At level ``region``, a region is found if one of its
    pixels is called defective, and a false alarm is a good image with such a pixel. At the threshold of the model
    (``deployed``) the labels are those of the post-processor. Otherwise the threshold is chosen among the scores that
    are evaluated: for a false alarm rate the lowest one that at most this share of the good images exceeds, for a miss
    rate the highest one at which at most this share of the defects is missed. Each category has its own threshold;
    ``mixed`` has one for all. The interval of the other rate is exact (Clopper and Pearson) given that threshold.

    Args:
        images (pd.DataFrame): Images as in :class:`~anomalib_unias.metrics.UnifiedResults`.
        regions (pd.DataFrame): Regions as in :class:`~anomalib_unias.metrics.UnifiedResults`.
        threshold (float): Threshold of the model for raw image scores, NaN if there is none.

    Returns:
        pd.DataFrame: Columns :data:`ERROR_COLUMNS`. ``level`` is ``image`` or ``region``, ``at`` is ``deployed``,
        ``false_alarms_1%``, ``false_alarms_5%``, ``misses_1%`` or ``misses_5%``. Rates are NaN if there is nothing to
        count them on; counts and rates are NaN if no labels are predicted.
    """
    rows = []
    for category in [*sorted(images["category"].unique()), MIXED]:
        for level, at, outcomes in _outcomes(_part(images, category), _part(regions, category), threshold):
            false_alarms, misses = _rate(outcomes.false_alarms), _rate(outcomes.misses)
            rows.append((category, level, at, outcomes.threshold, *false_alarms, *misses))
    return pd.DataFrame(rows, columns=list(ERROR_COLUMNS))


def false_alarm_threshold(good: NDArray, rate: float) -> float:
    """Lowest threshold that at most a given share of the good images exceeds.

    Args:
        good (NDArray): Scores of good images ``(G,)``.
        rate (float): Share in ``[0, 1)``. A share of less than one image allows none.

    Returns:
        float: One of the scores; NaN without scores.

    Example:
        >>> false_alarm_threshold(np.array([1.0, 2.0, 3.0, 4.0]), 0.25)
        3.0
    """
    return float(np.sort(good)[::-1][int(allowed(rate, len(good)))]) if len(good) else float("nan")


def miss_threshold(defective: NDArray, rate: float) -> float:
    """Highest threshold at which at most a given share of the defects is missed.

    Args:
        defective (NDArray): Scores of defects ``(D,)``.
        rate (float): Share in ``[0, 1)``. A share of less than one defect allows none.

    Returns:
        float: Just below one of the scores; NaN without scores.
    """
    if not len(defective):
        return float("nan")
    return float(np.nextafter(np.sort(defective)[int(allowed(rate, len(defective)))], -np.inf))


def _part(table: pd.DataFrame, category: str) -> pd.DataFrame:
    return table if category == MIXED else table[table["category"] == category]


def _outcomes(images: pd.DataFrame, regions: pd.DataFrame, threshold: float) -> Iterator[tuple[str, str, Outcomes]]:
    good, defective = (images[images["label"] == label] for label in (0, 1))
    marked = good["marked"].to_numpy(float)
    yield (
        "image",
        DEPLOYED,
        Outcomes(good["predicted"].to_numpy(float), 1 - defective["predicted"].to_numpy(float), threshold),
    )
    yield from _at_rates("image", good["score"].to_numpy(float), defective["score"].to_numpy(float))
    if len(regions):
        peaks = good["peak"].dropna().to_numpy(float)
        has_pixel = np.where(np.isnan(marked), np.nan, marked > 0)[~good["peak"].isna().to_numpy()]
        yield "region", DEPLOYED, Outcomes(has_pixel, 1 - regions["found"].to_numpy(float), float("nan"))
        yield from _at_rates("region", peaks, regions["peak"].to_numpy(float))


def _at_rates(level: str, good: NDArray, defective: NDArray) -> Iterator[tuple[str, str, Outcomes]]:
    for rate in FALSE_ALARM_RATES:
        yield level, f"false_alarms_{rate:.0%}", Outcomes.at(good, defective, false_alarm_threshold(good, rate))
    for rate in MISS_RATES:
        yield level, f"misses_{rate:.0%}", Outcomes.at(good, defective, miss_threshold(defective, rate))


def _rate(events: NDArray) -> tuple[int, float, float, float, float]:
    """Number of trials, events, rate and its interval."""
    nan = float("nan")
    if np.isnan(events).any():
        return len(events), nan, nan, nan, nan
    count = int(events.sum())
    rate = count / len(events) if len(events) else nan
    return len(events), count, rate, *binomial_interval(count, len(events))
