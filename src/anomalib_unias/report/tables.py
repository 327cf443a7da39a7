"""Tables of the report, and the same numbers as files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from anomalib_unias.metrics.unified_results import GAP, MEAN, METRICS, MIXED, UnifiedResults

DASH = "–"  # noqa: RUF001


class Column(NamedTuple):
    """A column of a table.

    Args:
        metric (str): Metric, or another number that is known for every row.
        heading (str): Heading.
        explanation (str): Tooltip of the heading.
        factor (float): Factor of the shown value. Defaults to ``100``.
        style (str): Format of the shown value. Defaults to ``".1f"``.
        best (str): Whether ``high`` or ``low`` values are good, empty if neither. Defaults to ``"high"``.
    """

    metric: str
    heading: str
    explanation: str
    factor: float = 100
    style: str = ".1f"
    best: str = "high"


_IMAGE_COLUMNS = (
    Column("image_auroc", "AUROC", "Area under the ROC curve of the image scores"),
    Column("image_ap", "AP", "Average precision of the image scores"),
    Column("image_f1max", "F1max", "Largest F1 score of all image thresholds"),
)
_PIXEL_COLUMNS = (
    Column("pixel_auroc", "AUROC", "Area under the ROC curve of all pixels"),
    Column("pixel_ap", "AP", "Average precision of all pixels"),
    Column("pixel_f1max", "F1max", "Largest F1 score of all pixel thresholds"),
    Column("aupro", "AUPRO", "Area under the per-region-overlap curve up to a limited false positive rate"),
    Column("aupimo", "AUPIMO", "Mean true positive rate of an image at pixel false positive rates from 1e-5 to 1e-4"),
    Column("dsc", "DSC", "Mean Dice coefficient of the images at the largest sum of pixel precision and recall"),
    Column("dsc_best_f1", "DSC at F1max", "Mean Dice coefficient of the images at the best pixel F1 score"),
    Column("iou", "IoU", "Intersection over union of all pixels at the best pixel F1 score"),
)
THRESHOLD_COLUMNS = (
    Column("good_images", "Good images", "Number of good images in the test set", 1, ".0f", ""),
    Column("false_alarms_per_1000", "False alarms per 1000", "Good images called defective, per 1000", 1, ".1f", "low"),
    Column("defective_images", "Defective images", "Number of defective images in the test set", 1, ".0f", ""),
    Column("missed_defects", "Missed defects", "Number of defective images called good", 1, ".4g", ""),
    Column("missed_defect_rate", "Missed %", "Share of the defective images that is called good", best="low"),
)


class Cell(NamedTuple):
    """A cell: its text, its value for sorting (``None`` if undefined), and whether it is the worst of its column."""

    text: str
    value: float | None
    worst: bool = False


@dataclass(frozen=True)
class Table:
    """A table with categories that can be sorted, and a summary that stays below them.

    Args:
        groups (Sequence[tuple[str, int]]): Headings above the columns and how many columns each spans.
        columns (Sequence[Column]): Columns.
        rows (dict[str, list[Cell]]): Cells of each category.
        summary (dict[str, list[Cell]]): Cells of ``mean``, ``mixed`` and ``gap``; empty for a single category.
    """

    groups: Sequence[tuple[str, int]]
    columns: Sequence[Column]
    rows: dict[str, list[Cell]]
    summary: dict[str, list[Cell]]


def metrics_table(results: UnifiedResults) -> Table:
    """Table of the image and pixel metrics."""
    groups = [("Images", len(_IMAGE_COLUMNS)), ("Pixels", len(_PIXEL_COLUMNS))]
    return _table(results, groups, (*_IMAGE_COLUMNS, *_PIXEL_COLUMNS))


def threshold_table(results: UnifiedResults) -> Table:
    """Table of false alarms and misses at the threshold of the model."""
    return _table(results, [], THRESHOLD_COLUMNS)


def wide_metrics(results: UnifiedResults) -> pd.DataFrame:
    """Metrics with one row per category, ``mean``, ``mixed`` and ``gap``, and one column per metric."""
    wide = results.metrics.pivot(index="category", columns="metric", values="value")
    return wide.loc[[*results.categories, MEAN, MIXED, GAP], list(METRICS)]


def write_metrics(results: UnifiedResults, folder: Path) -> None:
    """Write ``metrics.csv``, one row per category.

    Args:
        results (UnifiedResults): Results.
        folder (Path): Existing folder.
    """
    wide_metrics(results).to_csv(folder / "metrics.csv")


def number(value: float, style: str = ".4g") -> str:
    """A number as text, a dash if it is undefined."""
    return format(value, style) if math.isfinite(value) else DASH


def _table(results: UnifiedResults, groups: Sequence[tuple[str, int]], columns: Sequence[Column]) -> Table:
    values: dict[Any, Any] = wide_metrics(results).join(_image_counts(results)).to_dict("index")
    worst = {
        column.metric: _worst([values[name][column.metric] for name in results.categories], column.best)
        for column in columns
    }

    def cells(name: str) -> list[Cell]:
        return [_cell(values[name][column.metric], column, worst[column.metric]) for column in columns]

    several = len(results.categories) > 1
    summary = {name: [cell._replace(worst=False) for cell in cells(name)] for name in (MEAN, MIXED, GAP) if several}
    return Table(groups, columns, {category: cells(category) for category in results.categories}, summary)


def _image_counts(results: UnifiedResults) -> pd.DataFrame:
    defective = results.images["label"].groupby(results.images["category"]).agg(["size", "sum"])
    defective.loc[MIXED] = defective.sum()
    return pd.DataFrame(
        {"good_images": defective["size"] - defective["sum"], "defective_images": defective["sum"]}, dtype=float
    )


def _worst(values: Sequence[float], best: str) -> float:
    """The worst value of a column; NaN if there is none or all are equal."""
    defined = {value for value in values if not math.isnan(value)}
    if not best or len(defined) < 2:
        return float("nan")
    return min(defined) if best == "high" else max(defined)


def _cell(value: float, column: Column, worst: float) -> Cell:
    if math.isnan(value):
        return Cell(DASH, None)
    return Cell(number(column.factor * value, column.style), float(value), value == worst)
