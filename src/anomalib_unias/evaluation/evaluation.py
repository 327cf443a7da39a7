"""Evaluate a test: all tables of a report."""

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from anomalib_unias.evaluation.defect_size import recall_by_kind, recall_by_size, smallest_found
from anomalib_unias.evaluation.error_rates import DEPLOYED, error_rates
from anomalib_unias.evaluation.image_statistics import bootstrap_statistics, statistics_of_rows
from anomalib_unias.evaluation.intervals import percentile_interval
from anomalib_unias.evaluation.suspects import suspicious_labels
from anomalib_unias.metrics.unified_results import GAP, RESULT_COLUMNS, UnifiedResults

METRIC_COLUMNS = (*RESULT_COLUMNS, "low", "high")
# Metrics with a bootstrap interval, and rates with the columns of their exact interval and its factor.
_BOOTSTRAPPED = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "dsc", "aupimo")
_RATES = {
    "false_alarms_per_1000": ("false_alarm_low", "false_alarm_high", 1000),
    "missed_defect_rate": ("miss_low", "miss_high", 1),
}


@dataclass(frozen=True)
class Evaluation:
    """All tables about a test.

    Args:
        metrics (pd.DataFrame): Metrics with intervals: ``category, metric, value, low, high``.
        error_rates (pd.DataFrame): See :func:`~anomalib_unias.evaluation.error_rates.error_rates`.
        recall_by_size (pd.DataFrame): See :func:`~anomalib_unias.evaluation.defect_size.recall_by_size`.
        smallest_found (pd.DataFrame): See :func:`~anomalib_unias.evaluation.defect_size.smallest_found`.
        recall_by_kind (pd.DataFrame): See :func:`~anomalib_unias.evaluation.defect_size.recall_by_kind`.
        suspects (pd.DataFrame): See :func:`~anomalib_unias.evaluation.suspects.suspicious_labels`.
    """

    metrics: pd.DataFrame
    error_rates: pd.DataFrame
    recall_by_size: pd.DataFrame
    smallest_found: pd.DataFrame
    recall_by_kind: pd.DataFrame
    suspects: pd.DataFrame

    @classmethod
    def of(cls, results: UnifiedResults, threshold: float) -> "Evaluation":
        """Evaluate a test.

        Args:
            results (UnifiedResults): Results of the test.
            threshold (float): Threshold of the model for raw image scores, NaN if there is none.

        Returns:
            Evaluation: Tables.
        """
        images, regions = results.images, results.regions
        rates = error_rates(images, regions, threshold)
        return cls(
            metrics=_with_intervals(results, rates),
            error_rates=rates,
            recall_by_size=recall_by_size(images, regions),
            smallest_found=smallest_found(images, regions),
            recall_by_kind=recall_by_kind(images, regions),
            suspects=suspicious_labels(images),
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _with_intervals(results: UnifiedResults, rates: pd.DataFrame) -> pd.DataFrame:
    """Metrics with 95 % intervals: bootstrap over the images, exact for rates, NaN for the others."""
    images = results.images.join(results.pixel_counts)
    samples, observed = bootstrap_statistics(images), statistics_of_rows(images, np.ones((1, len(images))))
    deployed = rates[(rates["level"] == "image") & (rates["at"] == DEPLOYED)].set_index("category")
    rows = []
    for category, metric, value in results.metrics[list(RESULT_COLUMNS)].itertuples(index=False):
        low = high = float("nan")
        if metric in _BOOTSTRAPPED:
            # Pixel sketches cause an error of some thousandths, the same in all samples.
            centred = samples[category, metric] + (value - observed[category, metric])
            low, high = percentile_interval(np.clip(centred, -1 if category == GAP else 0, 1))
        elif metric in _RATES and category in deployed.index:
            low_name, high_name, factor = _RATES[metric]
            low, high = factor * deployed.loc[category, low_name], factor * deployed.loc[category, high_name]
        rows.append((category, metric, value, low, high))
    return pd.DataFrame(rows, columns=list(METRIC_COLUMNS))
