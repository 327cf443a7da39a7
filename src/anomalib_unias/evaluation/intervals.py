"""Intervals of rates and of metrics, at 95 % confidence."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

CONFIDENCE = 0.95
_PERCENTILES = (100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2)
# Largest number of weights at a time, 16 MB.
_WEIGHTS = 2_000_000


@lru_cache(maxsize=4096)
def binomial_interval(events: int, trials: int) -> tuple[float, float]:
    """Exact interval of a rate (Clopper and Pearson, 1934).

    Args:
        events (int): Number of events.
        trials (int): Number of trials.

    Returns:
        tuple[float, float]: Lower and upper end in ``[0, 1]``; NaN without trials.

    Example:
        >>> [round(end, 3) for end in binomial_interval(0, 100)]
        [0.0, 0.036]
    """
    if not trials:
        return float("nan"), float("nan")
    interval = binomtest(int(events), int(trials)).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


def percentile_interval(values: NDArray) -> tuple[float, float]:
    """Interval of a metric from its values on bootstrap samples.

    Args:
        values (NDArray): Values ``(B,)``; NaN where the metric is undefined.

    Returns:
        tuple[float, float]: Lower and upper end; NaN if all values are NaN.
    """
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.percentile(defined, _PERCENTILES)
    return float(low), float(high)


def bootstrap_weights(images: pd.DataFrame, samples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Draw bootstrap samples of a set of images.

    Images are drawn with replacement within each category and label, so that every sample has as many good and
    defective images of each category as the set.

    Args:
        images (pd.DataFrame): One row per image, columns ``category`` and ``label``.
        samples (int): Number of samples.
        seed (int): Seed.

    Yields:
        NDArray[np.float64]: How often each image is drawn, for some of the samples ``(b, N)``.
    """
    rng = np.random.default_rng(seed)
    strata = list(images.groupby(["category", "label"]).indices.values())
    at_a_time = max(1, _WEIGHTS // max(1, len(images)))
    for first in range(0, samples, at_a_time):
        count = min(at_a_time, samples - first)
        weights = np.zeros((count, len(images)))
        for stratum in strata:
            size = len(stratum)
            drawn = rng.integers(size, size=(count, size)) + size * np.arange(count)[:, None]
            weights[:, stratum] = np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)
        yield weights
