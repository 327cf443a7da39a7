"""The page that compares runs, and the same comparison as text."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from anomalib_unias.evaluation.comparison import NO_DIFFERENCE
from anomalib_unias.metrics.unified_results import MIXED
from anomalib_unias.report.evaluation_tables import TextTable, rows_by
from anomalib_unias.report.tables import DASH
from anomalib_unias.report.templates import template

_NAMES = {
    "image_auroc": "Image AUROC",
    "image_ap": "Image AP",
    "pixel_auroc": "Pixel AUROC",
    "pixel_ap": "Pixel AP",
    "dsc": "DSC",
    "aupimo": "AUPIMO",
    "false_alarm_rate": "False alarms",
    "miss_rate": "Missed",
    "miss_rate_at_1%_false_alarms": "Missed at 1 % false alarms",
    "miss_rate_at_5%_false_alarms": "Missed at 5 % false alarms",
}


def comparison_table(comparison: pd.DataFrame, category: str) -> TextTable:
    """Comparison of one category as text, in percent.

    Args:
        comparison (pd.DataFrame): See :func:`~anomalib_unias.evaluation.comparison.compare_runs`.
        category (str): A category, ``mean`` or ``mixed``.

    Returns:
        TextTable: One row per metric and run; metrics that are undefined for all runs are left out.
    """
    part = comparison[comparison["category"] == category]
    rows = []
    for metric, name in _NAMES.items():
        of_metric = part[part["metric"] == metric]
        if of_metric["value"].isna().all():
            continue
        for number, row in enumerate(rows_by(of_metric, "run").values()):
            difference = _interval(row, "difference", "difference_low", "difference_high", "+.1f") if number else ""
            value = _interval(row, "value", "low", "high", ".1f")
            rows.append([name if number == 0 else "", row["run"], value, difference, row["verdict"]])
    return TextTable(f"compare-{category}", ["Metric %", "Run", "Value", "Difference", "Verdict"], rows)


def console_comparison(comparison: pd.DataFrame) -> Table:
    """Table for the console: all images together."""
    text = comparison_table(comparison, MIXED)
    table = Table(title="Runs compared with the first, all images together (95 % intervals)")
    for heading in text.headings:
        table.add_column(heading, overflow="fold", no_wrap=heading != "Run")
    for row in text.rows:
        table.add_row(*row)
    return table


def write_comparison(comparison: pd.DataFrame, images: int, page: Path) -> None:
    """Write a comparison as a page, and beside it as CSV.

    Args:
        comparison (pd.DataFrame): See :func:`~anomalib_unias.evaluation.comparison.compare_runs`.
        images (int): Number of images that were compared.
        page (Path): File ``*.html``; its folders are created.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    data = page.with_suffix(".csv")
    comparison.to_csv(data, index=False)
    categories = list(dict.fromkeys(comparison["category"]))
    verdicts = comparison.loc[comparison["verdict"] != "", "verdict"]
    text = template("comparison.html").render(
        runs=list(dict.fromkeys(comparison["run"])),
        images=images,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        tables={category: comparison_table(comparison, category) for category in [MIXED, *categories[:-1]]},
        comparisons=len(verdicts),
        different=int((verdicts != NO_DIFFERENCE).sum()),
        data=data.name,
    )
    page.write_text(text, encoding="utf-8")


def _interval(row: Mapping[str, float], value: str, low: str, high: str, style: str) -> str:
    if np.isnan(row[value]):
        return DASH
    ends = "" if np.isnan(row[low]) else f" ({format(100 * row[low], style)} to {format(100 * row[high], style)})"
    return format(100 * row[value], style) + ends
