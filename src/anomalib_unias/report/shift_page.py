"""Figure and page about changed images."""

from datetime import datetime
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from anomalib_unias.evaluation.shift_test import NO_SHIFT, SHIFT_METRICS
from anomalib_unias.evaluation.shifts import SHIFTS
from anomalib_unias.metrics.unified_results import MIXED
from anomalib_unias.report.evaluation_tables import TextTable, percent, rows_by
from anomalib_unias.report.figures import STYLE, save_svg
from anomalib_unias.report.templates import template

_TITLES = dict(zip(SHIFT_METRICS, ("image AUROC", "false alarms", "missed"), strict=True))


def draw_shift(table: pd.DataFrame) -> Figure:
    """Draw the metrics against the strength of each change, a row per category and one for all images together.

    Args:
        table (pd.DataFrame): See :func:`~anomalib_unias.evaluation.shift_test.measure_shift`.

    Returns:
        Figure: Image AUROC, false alarms and misses as columns, with a line per change.
    """
    categories = shown_categories(table)
    names = [name for name in dict.fromkeys(table["shift"]) if name != NO_SHIFT]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 0.6 + 1.7 * len(categories)), layout="constrained")
        grid = figure.subplots(len(categories), len(_TITLES), squeeze=False, sharex=True)
        for row, category in zip(grid, categories, strict=True):
            for axes, metric in zip(row, SHIFT_METRICS, strict=True):
                part = table[(table["category"] == category) & (table["metric"] == metric)]
                for number, name in enumerate(names):
                    line = part[part["shift"].isin([NO_SHIFT, name])].sort_values("strength")
                    color = mpl.colormaps["tab10"](number)
                    axes.plot(line["strength"], line["value"].astype(float), marker="o", markersize=3, color=color)
                axes.set_ylim(-0.03, 1.03)
                axes.set_xticks(range(4), ["as is", "1", "2", "3"])
                if category == categories[0]:
                    axes.set_title(_TITLES[metric], loc="left", fontsize=10, fontweight="bold")
            row[0].set_ylabel(category)
        figure.legend(grid[0, 0].lines, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def shift_table(table: pd.DataFrame, category: str) -> TextTable:
    """Metrics of one category in percent, one row per change and strength."""
    part = table[table["category"] == category]
    units = {shift.name: shift.unit for shift in SHIFTS}
    cells = rows_by(part, "shift", "amount", "metric")
    rows = []
    for name, amount in dict.fromkeys((name, amount) for name, amount, _ in cells):
        described = "" if name == NO_SHIFT else f"{amount:g} ({units.get(name, '')})"
        rows.append([name, described, *(percent(cells[name, amount, metric], "value") for metric in SHIFT_METRICS)])
    return TextTable(f"shift-{category}", ["Change", "Amount", *(f"{title} %" for title in _TITLES.values())], rows)


def write_shift(table: pd.DataFrame, folder: Path) -> Path:
    """Write ``index.html``, ``shift.svg`` and ``shift.csv``.

    Args:
        table (pd.DataFrame): See :func:`~anomalib_unias.evaluation.shift_test.measure_shift`.
        folder (Path): Folder, created if it does not exist.

    Returns:
        Path: The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "shift.csv", index=False)
    save_svg(draw_shift(table), folder / "shift.svg")
    page = folder / "index.html"
    text = template("shift.html").render(
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        tables={category: shift_table(table, category) for category in shown_categories(table)[::-1]},
        deployed=bool(table.loc[table["metric"] != "image_auroc", "value"].notna().any()),
    )
    page.write_text(text, encoding="utf-8")
    return page


def shown_categories(table: pd.DataFrame) -> list[str]:
    """All categories, and ``mixed`` if there are several."""
    names = sorted(set(table["category"]) - {MIXED})
    return [*names, MIXED] if len(names) > 1 else names
