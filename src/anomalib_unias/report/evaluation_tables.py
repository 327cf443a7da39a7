"""Tables of the report with intervals in their cells."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from anomalib_unias.evaluation.error_rates import DEPLOYED
from anomalib_unias.evaluation.evaluation import Evaluation
from anomalib_unias.metrics.unified_results import GAP, MEAN, MIXED
from anomalib_unias.report.tables import DASH, number

_SHOWN_SUSPECTS = 20
_AT = {DEPLOYED: "threshold of the model", "false_alarms_1%": "1 % false alarms", "false_alarms_5%": "5 % false alarms"}


class TextTable(NamedTuple):
    """A table whose cells are text.

    Args:
        name (str): Name for links and tests.
        headings (Sequence[str]): Headings, the first one of the column with the names of the rows.
        rows (Sequence[Sequence[str]]): Cells.
    """

    name: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def error_table(evaluation: Evaluation, level: str) -> TextTable:
    """False alarms and misses in percent with their intervals, one row per category.

    Args:
        evaluation (Evaluation): Evaluation of a test.
        level (str): ``image`` or ``region``.

    Returns:
        TextTable: Without rows if there is nothing of that level.
    """
    rates = evaluation.error_rates[evaluation.error_rates["level"] == level]
    missed = [DEPLOYED, "false_alarms_1%", "false_alarms_5%"]
    alarmed = [DEPLOYED, "misses_1%", "misses_5%"]
    rows = []
    cells = rows_by(rates, "category", "at")
    for category in _in_order(rates["category"]):
        misses = [percent(cells[category, at], "miss_rate", "miss_low", "miss_high") for at in missed]
        alarms = [
            percent(cells[category, at], "false_alarm_rate", "false_alarm_low", "false_alarm_high") for at in alarmed
        ]
        counts = [str(cells[category, DEPLOYED][name]) for name in ("good", "defective")]
        rows.append([category, *counts, alarms[0], misses[0], *misses[1:], *alarms[1:]])
    defects = "Defective" if level == "image" else "Defects"
    headings = [
        *("Category", "Good", defects, "False alarms %", "Missed %"),
        *("Missed % at 1 % false alarms", "at 5 % false alarms", "False alarms % at 1 % missed", "at 5 % missed"),
    ]
    return TextTable(f"{level}-errors", headings, rows)


def interval_table(evaluation: Evaluation) -> TextTable:
    """Metrics in percent with their intervals, one row per category, ``mean``, ``mixed`` and ``gap``."""
    columns = {
        "image_auroc": "Image AUROC",
        "image_ap": "Image AP",
        "pixel_auroc": "Pixel AUROC",
        "pixel_ap": "Pixel AP",
        "aupimo": "AUPIMO",
        "dsc": "DSC",
    }
    cells = rows_by(evaluation.metrics, "category", "metric")
    names = _in_order(evaluation.metrics["category"])
    rows = [[name, *(percent(cells[name, metric], "value") for metric in columns)] for name in names]
    return TextTable("intervals", ["Category", *columns.values()], rows)


def size_table(evaluation: Evaluation, unit: str) -> TextTable:
    """Share of the defects of all categories that is found, by size.

    Args:
        evaluation (Evaluation): Evaluation of a test.
        unit (str): ``area`` or ``share``.

    Returns:
        TextTable: One row per range of sizes.
    """
    table = evaluation.recall_by_size
    table = table[(table["category"] == MIXED) & (table["unit"] == unit)]
    cells = rows_by(table, "from", "below", "at")
    rows = []
    for low, below in dict.fromkeys((low, below) for low, below, _ in cells):
        by_threshold = [cells[low, below, at] for at in _AT]
        found = [percent(cell, "recall") for cell in by_threshold]
        rows.append([_range(low, below, unit), str(by_threshold[0]["regions"]), *found])
    heading = "Area in pixels" if unit == "area" else "Share of the image"
    return TextTable(f"size-{unit}", [heading, "Defects", *(f"Found % at {at}" for at in _AT.values())], rows)


def smallest_table(evaluation: Evaluation) -> TextTable:
    """Smallest size that is found in 90 % of cases, one row per category."""
    sizes = rows_by(evaluation.smallest_found, "category", "at", "unit")
    rows = []
    for category in _in_order(evaluation.smallest_found["category"]):
        cells = []
        for at in _AT:
            area, share = (sizes[category, at, unit]["smallest"] for unit in ("area", "share"))
            cells.append(DASH if np.isnan(area) else f"{area:.0f} pixels, {100 * share:.2g} %")
        rows.append([category, *cells])
    return TextTable("smallest", ["Category", *(f"At {at}" for at in _AT.values())], rows)


def kind_table(evaluation: Evaluation) -> TextTable:
    """Share of the defective images and regions that is found, one row per category and kind of defect."""
    cells = rows_by(evaluation.recall_by_kind, "category", "kind", "level", "at")
    rows = []
    for category, kind in dict.fromkeys((category, kind) for category, kind, *_ in cells):
        images = [cells[category, kind, "image", at] for at in _AT]
        regions = cells.get((category, kind, "region", DEPLOYED))
        row = [category, kind, str(images[0]["defects"]), *(percent(cell, "recall") for cell in images)]
        row += [str(regions["defects"]), percent(regions, "recall")] if regions else [DASH, DASH]
        rows.append(row)
    headings = ["Category", "Kind", "Images", *(f"Found % at {at}" for at in _AT.values()), "Regions", "Found %"]
    return TextTable("kinds", headings, rows)


def suspect_table(evaluation: Evaluation) -> TextTable:
    """The most suspicious labels."""
    rows = [
        [category, path, "defective" if label else "good", number(score), f"{suspicion:.2f}"]
        for category, path, label, score, suspicion in _tuples(evaluation.suspects.head(_SHOWN_SUSPECTS))
    ]
    return TextTable("suspects", ["Category", "Image", "Label", "Score", "Suspicion"], rows)


def rows_by(table: pd.DataFrame, *keys: str) -> dict[Any, dict[str, Any]]:
    """Rows of a table by the values of some columns, which together are unique."""
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    return {tuple(row[key] for key in keys): row for row in rows}


def _tuples(table: pd.DataFrame) -> Iterable[tuple[Any, ...]]:
    return table.itertuples(index=False, name=None)


def _in_order(categories: Iterable[str]) -> list[str]:
    """Categories, then the summary; a single category needs none."""
    names = sorted(set(categories) - {MEAN, MIXED, GAP})
    summary = [name for name in (MEAN, MIXED, GAP) if name in set(categories)]
    return [*names, *summary] if len(names) > 1 else names


def percent(cell: Mapping[str, float], value: str, low: str = "low", high: str = "high") -> str:
    """A share of a row in percent, with its interval if it has one.

    Args:
        cell (Mapping[str, float]): Row of a table.
        value (str): Column of the share.
        low (str): Column of the lower end. Defaults to ``"low"``.
        high (str): Column of the upper end. Defaults to ``"high"``.

    Returns:
        str: A dash if the share is undefined.
    """
    if np.isnan(cell[value]):
        return DASH
    text = f"{100 * cell[value]:.1f}"
    # A line may break only before the bracket.
    return text if np.isnan(cell[low]) else f"{text} ({100 * cell[low]:.1f}\u00a0to\u00a0{100 * cell[high]:.1f})"


def _range(low: float, below: float, unit: str) -> str:
    if unit == "area":
        return f"{low:.0f} or more" if np.isinf(below) else f"{low:.0f} to {below - 1:.0f}"
    return f"{100 * low:g} % or more" if np.isinf(below) else f"{100 * low:g} to {100 * below:g} %"
