"""Metrics of images that each count a given number of times, for bootstrap samples."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalib_unias.evaluation.intervals import bootstrap_weights
from anomalib_unias.metrics.unified_results import GAP, MEAN, MIXED

FALSE_ALARM_RATES = (0.01, 0.05)
STATISTICS = (
    "image_auroc",
    "image_ap",
    "pixel_auroc",
    "pixel_ap",
    "dsc",
    "aupimo",
    "false_alarm_rate",
    "miss_rate",
    *(f"miss_rate_at_{rate:.0%}_false_alarms" for rate in FALSE_ALARM_RATES),
)


def image_statistics(images: pd.DataFrame, weights: NDArray, prefix: str = "") -> dict[str, NDArray]:
    """Metrics of weighted images.

    Args:
        images (pd.DataFrame): Images ``(N rows)`` as in :class:`~anomalib_unias.metrics.UnifiedResults`, and for pixel
            metrics the columns of its ``pixel_counts``.
        weights (NDArray): How often each image counts ``(B, N)``.
        prefix (str): ``"mixed_"`` for the columns ``mixed_dice``, ``mixed_aupimo`` and ``mixed_pixel_counts``, whose
            thresholds are those of all images. Defaults to ``""``: those of the category.

    Returns:
        dict[str, NDArray]: By name, values ``(B,)``, NaN where undefined: ``image_auroc``, ``image_ap``,
        ``pixel_auroc``, ``pixel_ap``, ``dsc``, ``aupimo`` (the last two with fixed thresholds, not chosen again),
        ``false_alarm_rate`` and ``miss_rate`` at the threshold of the model, and the miss rates at given false alarm
        rates.
    """
    labels = images["label"].to_numpy()
    good, defective = weights * (labels == 0), weights * (labels == 1)
    true_positives, false_positives = _cumulated(images["score"].to_numpy(float), defective, good)
    predicted = images["predicted"].to_numpy(float)
    return {
        "image_auroc": _auroc(true_positives, false_positives),
        "image_ap": _average_precision(true_positives, false_positives),
        **_pixel_statistics(images, weights, f"{prefix}pixel_counts"),
        "dsc": _mean(images[f"{prefix}dice"].to_numpy(float), weights),
        "aupimo": _mean(images[f"{prefix}aupimo"].to_numpy(float), defective),
        "false_alarm_rate": _mean(predicted, good),
        "miss_rate": _mean(1 - predicted, defective),
        **{
            f"miss_rate_at_{rate:.0%}_false_alarms": _miss_rate(true_positives, false_positives, rate)
            for rate in FALSE_ALARM_RATES
        },
    }


def statistics_of_rows(images: pd.DataFrame, weights: NDArray) -> dict[tuple[str, str], NDArray]:
    """Metrics of every category, their mean, all images together, and the gap.

    Args:
        images (pd.DataFrame): Images as in :func:`image_statistics`, rows numbered from 0.
        weights (NDArray): How often each image counts ``(B, N)``.

    Returns:
        dict[tuple[str, str], NDArray]: Values ``(B,)`` by category (or ``mean``, ``mixed``, ``gap``) and metric.
    """
    rows = {
        str(name): image_statistics(images.iloc[index], weights[:, index])
        for name, index in images.groupby("category").indices.items()
    }
    mixed = image_statistics(images, weights, "mixed_")
    mean = {name: _mean_of_rows([row[name] for row in rows.values()]) for name in STATISTICS}
    rows |= {MEAN: mean, MIXED: mixed, GAP: {name: mean[name] - mixed[name] for name in STATISTICS}}
    return {(category, name): values for category, row in rows.items() for name, values in row.items()}


def bootstrap_statistics(images: pd.DataFrame, samples: int = 1000, seed: int = 0) -> dict[tuple[str, str], NDArray]:
    """Metrics of bootstrap samples of the images.

    Args:
        images (pd.DataFrame): Images as in :func:`image_statistics`, rows numbered from 0.
        samples (int): Number of samples. Defaults to ``1000``.
        seed (int): Seed. The same for two runs on the same images draws the same images. Defaults to ``0``.

    Returns:
        dict[tuple[str, str], NDArray]: Values ``(samples,)`` by category (or ``mean``, ``mixed``, ``gap``) and metric.
    """
    parts = [statistics_of_rows(images, weights) for weights in bootstrap_weights(images, samples, seed)]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _pixel_statistics(images: pd.DataFrame, weights: NDArray, column: str) -> dict[str, NDArray]:
    if column not in images:
        return dict.fromkeys(("pixel_auroc", "pixel_ap"), np.full(len(weights), np.nan))
    normal, defective, tied = np.stack(list(images[column]), axis=1)
    times = weights.astype(np.float32)
    true_positives, false_positives = ((times @ counts).astype(float) for counts in (defective, normal))
    return {
        "pixel_auroc": _auroc(true_positives, false_positives),
        "pixel_ap": _average_precision(true_positives, false_positives, tied[0]),
    }


def _cumulated(scores: NDArray, defective: NDArray, good: NDArray) -> tuple[NDArray, NDArray]:
    """Weights of the defective and of the good images at or above each distinct score, decreasing ``(B, T)``."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    sums = (np.add.reduceat(weights[:, order], starts, axis=1) for weights in (defective, good))
    true_positives, false_positives = (np.cumsum(values, axis=1) for values in sums)
    return true_positives, false_positives


def _auroc(true_positives: NDArray, false_positives: NDArray) -> NDArray:
    """Area under the ROC curves by the trapezoidal rule ``(B,)``."""
    positives, negatives = true_positives[:, -1], false_positives[:, -1]
    before = np.pad(true_positives, ((0, 0), (1, 0)))[:, :-1]
    area = (np.diff(false_positives, axis=1, prepend=0) * (true_positives + before) / 2).sum(axis=1)
    return _divide(area, positives * negatives)


def _average_precision(true_positives: NDArray, false_positives: NDArray, tied: NDArray | float = 1.0) -> NDArray:
    """Average precision ``(B,)``; a step of equal scores takes the precision at its end, others in their middle."""
    gain, alarms = (np.diff(counts, axis=1, prepend=0) for counts in (true_positives, false_positives))
    found, false = true_positives - (1 - tied) * gain / 2, false_positives - (1 - tied) * alarms / 2
    area = np.nansum(gain * _divide(found, found + false), axis=1)
    return _divide(area, true_positives[:, -1])


def _miss_rate(true_positives: NDArray, false_positives: NDArray, rate: float) -> NDArray:
    """Miss rate at the lowest threshold that at most ``rate`` of the good images exceed ``(B,)``."""
    positives, negatives = true_positives[:, -1], false_positives[:, -1]
    within = (false_positives <= allowed(rate, negatives)[:, None]).sum(axis=1)
    found = np.pad(true_positives, ((0, 0), (1, 0)))[np.arange(len(within)), within]
    return np.where(negatives > 0, _divide(positives - found, positives), np.nan)


def allowed(rate: float, count: NDArray | float) -> NDArray:
    """Largest whole number of images that does not exceed a share of them.

    Args:
        rate (float): Share in ``[0, 1]``.
        count (NDArray | float): Numbers of images of any shape.

    Returns:
        NDArray: Whole numbers of the same shape.

    Example:
        >>> int(allowed(0.07, 100)), int(allowed(0.01, 99))
        (7, 0)
    """
    return np.floor(rate * np.asarray(count, dtype=float) + 1e-9)


def _mean(values: NDArray, weights: NDArray) -> NDArray:
    """Weighted means of the values that are not NaN ``(B,)``."""
    defined = ~np.isnan(values)
    weights = weights[:, defined]
    return _divide(weights @ values[defined], weights.sum(axis=1))


def _mean_of_rows(rows: list[NDArray]) -> NDArray:
    """Mean over the rows for which a metric is defined ``(B,)``."""
    values = np.stack(rows)
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))


def _divide(numerator: NDArray, denominator: NDArray) -> NDArray:
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)
