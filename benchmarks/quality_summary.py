"""Mean and standard deviation over the seeds of ``quality.csv``, as Markdown and as a figure."""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import torch
from anomalib import __version__ as anomalib_version
from benchmarks.harness import without_folders
from matplotlib.figure import Figure

REFERENCE = "patchcore"
SHOWN = ("image_auroc", "pixel_ap", "dsc_best_f1", "aupro")
_SETS = {"mean": "Mean of the products", "mixed": "All images together, one threshold"}
_COST = ("train_seconds", "train_steps", "loss_flat", "peak_mb", "size_mb", "latency_ms")
# Metrics that are compared by their difference; the others are compared by their ratio.
_DIFFERENCES = ("image_auroc",)


def heading() -> str:
    """Make a line with the command and the versions of the libraries."""
    command = f"python -m benchmarks.{Path(sys.argv[0]).stem} {without_folders(sys.argv[1:])}"
    return f"`{command}`, anomalib {anomalib_version}, torch {torch.__version__}. Mean ± standard deviation over seeds."


def spread(rows: pd.DataFrame, index: str, columns: str, order: Sequence[str] | None = None) -> str:
    """Make a Markdown table of ``mean ± standard deviation``.

    Args:
        rows (pd.DataFrame): Rows with the ``value`` of each seed.
        index (str): Column whose values become rows.
        columns (str): Column whose values become columns.
        order (Sequence[str] | None): Order of the columns. Defaults to ``None``: as they come.

    Returns:
        str: The table.
    """
    found = rows.groupby([index, columns], sort=False)["value"].agg(["mean", "std", "count"])
    texts = found.apply(_text, axis=1).unstack(columns)
    if order is not None:
        texts = texts[[name for name in order if name in texts]]
    return texts.fillna("").to_markdown()


def _text(row: pd.Series) -> str:
    deviation = f" ± {row['std']:.2g}" if row["count"] > 1 else ""
    return f"{row['mean']:.4g}{deviation}"


def against_reference(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare the means over the seeds with those of PatchCore.

    Args:
        rows (pd.DataFrame): Rows of one group.

    Returns:
        pd.DataFrame: One row for each model; columns such as ``pixel_ap, mean`` have the ratio to PatchCore, those of
        ``image_auroc`` the difference. Empty without PatchCore.
    """
    chosen = rows[rows["metric"].isin(SHOWN) & rows["category"].isin(list(_SETS))]
    values = chosen.groupby(["model", "metric", "category"], sort=False)["value"].mean().unstack("model")
    if REFERENCE not in values:
        return pd.DataFrame()
    compared = {}
    for metric in SHOWN:
        for category in _SETS:
            if (metric, category) in values.index:
                row = values.loc[(metric, category)]
                reference = row[REFERENCE]
                compared[f"{metric}, {category}"] = row - reference if metric in _DIFFERENCES else row / reference
    return pd.DataFrame(compared).drop(index=REFERENCE)


def summarize(table: pd.DataFrame, output: Path) -> None:
    """Write ``quality.md`` and ``quality.png``.

    Args:
        table (pd.DataFrame): Rows of ``quality.csv``.
        output (Path): Folder.
    """
    models = list(table["model"].unique())
    table = table.sort_values("model", key=lambda names: names.map(models.index), kind="stable")  # in every group
    parts = [heading()]
    for group, rows in table.groupby("group", sort=False):
        products = sorted(set(rows["category"]) - set(_SETS))
        parts.append(f"## Group {group}: {', '.join(products)}")
        metrics = [name for name in rows["metric"].unique() if name not in _COST]
        for category, title in _SETS.items():
            part = rows[(rows["category"] == category) & rows["metric"].isin(metrics)]
            seeds = part.groupby("model", sort=False)["seed"].nunique()
            parts += [f"{title}, {_count(seeds.min(), seeds.max())}:", spread(part, "model", "metric")]
        compared = against_reference(rows)
        if len(compared):
            title = (
                "image_auroc: difference to PatchCore (1 % coreset); others: ratio to it; of the means over the seeds."
            )
            parts += [title, compared.apply(_signed).to_markdown(disable_numparse=True)]
        cost = rows[rows["metric"].isin(_COST)]
        parts += ["Cost:", spread(cost, "model", "metric", _COST)]
    (output / "quality.md").write_text("\n\n".join(parts) + "\n")
    draw(table, output / "quality.png")


def _signed(column: pd.Series) -> pd.Series:
    """Format differences with a sign, ratios without."""
    style = "+.3f" if str(column.name).startswith(_DIFFERENCES) else ".2f"
    return column.map(lambda value: format(value, style))


def _count(least: int, most: int) -> str:
    number = str(most) if least == most else f"{least} to {most}"
    return f"{number} seed{'s' if most > 1 else ''}"


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw bars of the main metrics, with the standard deviation over the seeds, in a row of panels for each group."""
    mpl.use("Agg")
    groups = table["group"].unique()
    models = len(table["model"].unique())
    figure = Figure(figsize=(3.2 * len(SHOWN) + 1, len(groups) * (0.5 * models + 1) + 0.4))
    panels = figure.subplots(len(groups), len(SHOWN), squeeze=False, sharey="row")
    for row, group in zip(panels, groups, strict=True):
        for panel, metric in zip(row, SHOWN, strict=True):
            chosen = (table["group"] == group) & (table["metric"] == metric) & table["category"].isin(list(_SETS))
            found = table[chosen].groupby(["model", "category"], sort=False)["value"].agg(["mean", "std"])
            values = found.unstack("category")
            values["mean"].plot.barh(
                ax=panel, xerr=values["std"].fillna(0), legend=False, title=metric, xlabel="", ylabel=""
            )
        row[0].set_ylabel(f"group {group}")
        row[0].invert_yaxis()
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="lower center", ncol=2)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=110)
