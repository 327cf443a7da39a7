"""Metrics of many categories: of each one, their mean, and of the joint set with one threshold for all."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table as RichTable

from anomalib_unias.metrics.functional import (
    ScoreCurve,
    auroc,
    average_precision,
    f1_max,
    thin_curve,
)
from anomalib_unias.metrics.image_pixels import PIXEL_COLUMNS, REGION_COLUMNS, pixel_columns, region_table
from anomalib_unias.metrics.pixel_counts import count_pixels
from anomalib_unias.metrics.pixel_metrics import PIXEL_METRICS, PixelTable, pixel_metrics

logger = logging.getLogger(__name__)

SUMMARY_ROWS = MEAN, MIXED, GAP = "mean", "mixed", "gap"
IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1max")
DEPLOYED_METRICS = ("false_alarms_per_1000", "missed_defects", "missed_defect_rate")
METRICS = (*IMAGE_METRICS, *PIXEL_METRICS, *DEPLOYED_METRICS)

RESULT_COLUMNS = ("category", "metric", "value")
IMAGE_COLUMNS = ("category", "image_path", "label", "score", "normalized_score", "predicted")
CURVE_COLUMNS = ("category", "level", "curve", "x", "y", "threshold")

# Heading, factor and format of each metric in the console.
_CONSOLE = {
    "image_auroc": ("image\nAUROC", 100, ".1f"),
    "image_ap": ("\nAP", 100, ".1f"),
    "image_f1max": ("\nF1max", 100, ".1f"),
    "pixel_auroc": ("pixel\nAUROC", 100, ".1f"),
    "pixel_ap": ("\nAP", 100, ".1f"),
    "pixel_f1max": ("\nF1max", 100, ".1f"),
    "aupro": ("\nAUPRO", 100, ".1f"),
    "aupimo": ("\nAUPIMO", 100, ".1f"),
    "dsc": ("\nDSC", 100, ".1f"),
    "dsc_best_f1": ("DSC\nbest F1", 100, ".1f"),
    "iou": ("\nIoU", 100, ".1f"),
    "false_alarms_per_1000": ("false alarms\nper 1000", 1, ".1f"),
    "missed_defects": ("missed\ndefects", 1, ".4g"),
    "missed_defect_rate": ("missed\n%", 100, ".1f"),
}


@dataclass(frozen=True)
class UnifiedResults:
    """Results of a test on many categories.

    Args:
        metrics (pd.DataFrame): Columns ``category, metric, value``. Besides the categories there are ``mean`` (of the
            categories: model-unified), ``mixed`` (the joint set with one threshold: absolute-unified) and ``gap``
            (mean minus mixed).
        images (pd.DataFrame): One row per image: ``category, image_path, label`` (1: defective), ``score`` (raw score
            of the model), ``normalized_score`` (after the post-processor) and ``predicted`` (1: defective, NaN if the
            post-processor does not predict labels). Pixel columns, NaN without a map or a known mask: ``peak`` (highest
            score of the map), ``marked`` (share that the post-processor calls defective), ``dice`` (at the threshold of
            ``dsc`` of the category), ``mixed_dice`` (at that of all images), ``aupimo`` (within the category) and
            ``mixed_aupimo``. The last four are accurate to about 0.01 unless all pixels were kept.
        curves (pd.DataFrame): Columns ``category, level, curve, x, y, threshold`` with at most 1000 points per curve,
            for every category and ``mixed``. Level is ``image`` or ``pixel``; curve is ``roc`` (false positive rate,
            recall), ``precision_recall`` (recall, precision) or, for pixels, ``pro`` (false positive rate, mean
            overlap of the regions). Thresholds are raw scores, in decreasing order.
        regions (pd.DataFrame): One row per defective region, see
            :func:`~anomalib_unias.metrics.image_pixels.region_table`.
        pixel_counts (pd.DataFrame): Pixel counts of each row of ``images`` at some thresholds, see
            :func:`~anomalib_unias.metrics.pixel_counts.count_pixels`.
    """

    metrics: pd.DataFrame
    images: pd.DataFrame
    curves: pd.DataFrame
    regions: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(REGION_COLUMNS)))
    pixel_counts: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def categories(self) -> list[str]:
        """Names of the categories in alphabetical order."""
        return sorted(self.images["category"].unique())

    def value(self, category: str, metric: str) -> float:
        """One value; ``category`` may also be ``mean``, ``mixed`` or ``gap``."""
        rows = self.metrics[(self.metrics["category"] == category) & (self.metrics["metric"] == metric)]
        return float(rows["value"].item())

    def named(self, *categories: str, separator: str) -> dict[str, float]:
        """All metrics of some rows, as ``<category><separator><metric>``."""
        rows = self.metrics[self.metrics["category"].isin(categories)]
        return dict(zip(rows["category"] + separator + rows["metric"], rows["value"], strict=True))

    @classmethod
    def empty(cls) -> "UnifiedResults":
        """Results before a test: data frames without rows."""
        columns = (RESULT_COLUMNS, (*IMAGE_COLUMNS, *PIXEL_COLUMNS), CURVE_COLUMNS)
        return cls(*(pd.DataFrame(columns=list(names)) for names in columns))

    def warn_of_undefined(self) -> None:
        """Log which categories lack which metrics, and once if no labels are predicted."""
        undefined = self.metrics[self.metrics["value"].isna() & self.metrics["category"].isin(self.categories)]
        # AUPIMO is always undefined for a few images: no warning.
        undefined = undefined[undefined["metric"] != "aupimo"]
        if len(self.images) and self.images["predicted"].isna().all():
            undefined = undefined[~undefined["metric"].isin(DEPLOYED_METRICS)]
            logger.warning(
                "There is no image threshold, so no image is called good or defective: false alarms and missed defects "
                "are undefined. Validate before the test, on images of the data module (val_split_mode)."
            )
        for category, rows in undefined.groupby("category"):
            logger.warning(
                "Category %s has no %s: good or defective images or pixels, masks or predicted labels are missing. "
                "Means are over the other categories.",
                category,
                ", ".join(rows["metric"]),
            )

    def console_table(self) -> RichTable:
        """Table for the console, scores in percent."""
        table = RichTable(
            title="One model for all categories (%)",
            caption="AP, F1max, DSC, IoU: best thresholds of the test set. Last three: threshold of the model.\n"
            "mean: of the categories. mixed: all images together, one threshold. gap: mean - mixed.",
        )
        table.add_column("category", no_wrap=True)
        for heading, _, _ in _CONSOLE.values():
            table.add_column(heading, justify="right", no_wrap=True)
        for category in [*self.categories, MEAN, MIXED, GAP]:
            cells = (
                _console_cell(self.value(category, metric), factor, style)
                for metric, (_, factor, style) in _CONSOLE.items()
            )
            table.add_row(category, *cells, end_section=category == self.categories[-1])
        return table


def image_metrics(scores: NDArray, labels: NDArray, predicted: NDArray) -> dict[str, float]:
    """Image metrics of a set of images.

    The threshold of ``image_f1max`` is chosen on the labels that are evaluated.

    Args:
        scores (NDArray): Scores ``(N,)``.
        labels (NDArray): Labels ``(N,)``, 1 for defective.
        predicted (NDArray): Labels that the model predicts at its own threshold ``(N,)``, NaN if it does not.

    Returns:
        dict[str, float]: By name, NaN where the metric is undefined:

        - ``image_auroc``: area under the ROC curve of the image scores.
        - ``image_ap``: step-wise average precision of the image scores.
        - ``image_f1max``: largest F1 score of all thresholds.
        - ``false_alarms_per_1000``: good images that the model calls defective, per 1000 good images.
        - ``missed_defects``: number of defective images that the model calls good (a count, so it has no ``gap``).
        - ``missed_defect_rate``: the same as a share of the defective images.
    """
    curve = ScoreCurve.from_scores(scores, labels)
    good, defective = predicted[labels == 0], predicted[labels == 1]
    return {
        "image_auroc": auroc(curve),
        "image_ap": average_precision(curve),
        "image_f1max": f1_max(curve),
        "false_alarms_per_1000": 1000 * _mean(good),
        "missed_defects": float(np.sum(1 - defective)),
        "missed_defect_rate": _mean(1 - defective),
    }


def unified_metrics(
    images: pd.DataFrame, tables: Mapping[str, PixelTable], fpr_limit: float, max_rows: int | None
) -> pd.DataFrame:
    """Metrics for every category, their mean, the joint set, and the difference of the two.

    A metric that is undefined for some categories (no defective images, no masks) is averaged over the others, see
    :meth:`UnifiedResults.warn_of_undefined`.

    Args:
        images (pd.DataFrame): One row per image, columns as in :class:`UnifiedResults`.
        tables (Mapping[str, PixelTable]): Pixel tables of the categories that have masks.
        fpr_limit (float): False positive rate up to which ``aupro`` is integrated.
        max_rows (int | None): Largest number of rows of the joint pixel table; ``None`` for exact metrics.

    Returns:
        pd.DataFrame: Columns ``category, metric, value``.

    Raises:
        ValueError: If a category has the name of a row of the summary: ``mean``, ``mixed`` or ``gap``.
    """
    return _unify(_sets(images, tables, max_rows), fpr_limit)


def summarize(
    images: pd.DataFrame, tables: Mapping[str, PixelTable], fpr_limit: float, max_rows: int | None
) -> UnifiedResults:
    """Compute metrics, curves and regions.

    Args:
        images (pd.DataFrame): One row per image, columns ``category, image_path, label, score, normalized_score`` and
            ``predicted``; with ``pixels`` (:class:`~anomalib_unias.metrics.image_pixels.ImagePixels` or ``None``) there
            are also regions, and pixel-level numbers of each image.
        tables (Mapping[str, PixelTable]): See :func:`unified_metrics`.
        fpr_limit (float): See :func:`unified_metrics`.
        max_rows (int | None): See :func:`unified_metrics`.

    Returns:
        UnifiedResults: Results.

    Raises:
        ValueError: If a category has the name of a row of the summary: ``mean``, ``mixed`` or ``gap``.
    """
    sets = _sets(images, tables, max_rows)
    curves = pd.concat([_curves(name, *parts) for name, parts in sets.items()], ignore_index=True)
    if "pixels" not in images:
        images = images.assign(pixels=None)
    set_tables = {name: table for name, (_, table) in sets.items() if table is not None}
    image_rows = images.drop(columns="pixels").join(pixel_columns(images, set_tables, MIXED)).reset_index(drop=True)
    counts = count_pixels(images, set_tables, MIXED).reset_index(drop=True)
    return UnifiedResults(_unify(sets, fpr_limit), image_rows, curves, region_table(images), counts)


def _sets(
    images: pd.DataFrame, tables: Mapping[str, PixelTable], max_rows: int | None
) -> dict[str, tuple[pd.DataFrame, PixelTable | None]]:
    """Images and pixels of every category and of all together."""
    refuse_summary_rows(images["category"])
    joint = PixelTable.joint(list(tables.values()), max_rows) if tables else None
    categories = {str(name): (rows, tables.get(str(name))) for name, rows in images.groupby("category")}
    return {**categories, MIXED: (images, joint)}


def refuse_summary_rows(categories: Iterable[str]) -> None:
    """Refuse categories that have the name of a row of the summary.

    Args:
        categories (Iterable[str]): Names of categories.

    Raises:
        ValueError: If one of them is ``mean``, ``mixed`` or ``gap``.
    """
    if reserved := set(SUMMARY_ROWS) & set(categories):
        msg = f"A category cannot be called {', '.join(sorted(reserved))}: the summary over categories is. Rename it."
        raise ValueError(msg)


def _unify(sets: Mapping[str, tuple[pd.DataFrame, PixelTable | None]], fpr_limit: float) -> pd.DataFrame:
    values = pd.DataFrame({name: _metrics(*parts, fpr_limit) for name, parts in sets.items()}).loc[list(METRICS)]
    mixed = values.pop(MIXED)
    mean = values.mean(axis=1)
    gap = mean - mixed
    gap["missed_defects"] = np.nan  # a number of images: the mean over categories does not compare with the total
    values = values.assign(**{MEAN: mean, MIXED: mixed, GAP: gap})
    metrics = values.rename_axis("metric").reset_index().melt("metric", var_name="category", value_name="value")
    return metrics[list(RESULT_COLUMNS)]


def _metrics(images: pd.DataFrame, table: PixelTable | None, fpr_limit: float) -> dict[str, float]:
    values = image_metrics(*(images[column].to_numpy(float) for column in ("score", "label", "predicted")))
    pixels = pixel_metrics(table, fpr_limit) if table is not None else dict.fromkeys(PIXEL_METRICS, float("nan"))
    return values | pixels


def _curves(category: str, images: pd.DataFrame, table: PixelTable | None) -> pd.DataFrame:
    image_curve = ScoreCurve.from_scores(images["score"].to_numpy(float), images["label"].to_numpy())
    parts = [
        (image_curve, "image", "roc", image_curve.false_positive_rate, image_curve.recall),
        (image_curve, "image", "precision_recall", image_curve.recall, image_curve.precision),
    ]
    if table is not None:
        curve = table.curve
        parts += [
            (curve, "pixel", "roc", curve.false_positive_rate, curve.recall),
            (curve, "pixel", "precision_recall", curve.recall, curve.precision),
            (curve, "pixel", "pro", curve.false_positive_rate, table.region_overlap),
        ]
    frames = []
    for curve, level, name, x, y in parts:
        if curve.positives and curve.negatives:
            kept = thin_curve(x, y)
            points = {"x": x[kept], "y": y[kept], "threshold": curve.thresholds[kept]}
            frames.append(pd.DataFrame({"category": category, "level": level, "curve": name, **points}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(CURVE_COLUMNS))


def _mean(values: NDArray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _console_cell(value: float, factor: float, style: str) -> str:
    return "-" if np.isnan(value) else format(factor * value, style)
