"""Figures of the report about defects: which sizes are found, and how well each image is segmented."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from anomalib_unias.evaluation.error_rates import DEPLOYED
from anomalib_unias.evaluation.evaluation import Evaluation
from anomalib_unias.metrics.unified_results import MIXED
from anomalib_unias.report.figures import DEFECTIVE, GOOD, INK, STYLE

_LINES = {
    DEPLOYED: ("threshold of the model", INK),
    "false_alarms_1%": ("1 % false alarms", GOOD),
    "false_alarms_5%": ("5 % false alarms", DEFECTIVE),
}


def draw_recall_by_size(evaluation: Evaluation) -> Figure | None:
    """Draw the share of defects found against their size (share of the image), with 95 % intervals.

    Args:
        evaluation (Evaluation): Evaluation of a test.

    Returns:
        Figure | None: ``None`` if there is no defective region whose detection is known.
    """
    table = evaluation.recall_by_size
    table = table[(table["category"] == MIXED) & (table["unit"] == "share") & table["recall"].notna()]
    if table.empty:
        return None
    ranges = table[["from", "below"]].drop_duplicates().sort_values("from")
    positions = {start: position for position, start in enumerate(ranges["from"])}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.4))
        axes = figure.add_subplot(xlabel="share of the image (%)", ylabel="found", ylim=(-0.02, 1.02))
        axes.axhline(0.9, color="#eceff1", linewidth=1)
        for offset, (at, (label, color)) in enumerate(_LINES.items()):
            part = table[table["at"] == at].sort_values("from")
            if len(part):
                x = part["from"].map(positions).to_numpy(float) + 0.12 * (offset - 1)
                recall = part["recall"].to_numpy(float)
                errors = np.array([recall - part["low"], part["high"] - recall], dtype=float).clip(0)
                axes.errorbar(x, recall, errors, color=color, marker="o", markersize=4, capsize=2, label=label)
        labels = [_label(*row) for row in ranges.itertuples(index=False)]
        axes.set_xticks(range(len(labels)), labels)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return figure


def draw_aupimo(images: pd.DataFrame) -> Figure | None:
    """Draw the AUPIMO of the images of each category as boxes.

    Args:
        images (pd.DataFrame): Images as in :class:`~anomalib_unias.metrics.UnifiedResults`.

    Returns:
        Figure | None: ``None`` if it is defined for no image.
    """
    defined = images[images["aupimo"].notna()]
    if defined.empty:
        return None
    groups = {str(name): part["aupimo"].to_numpy(float) for name, part in defined.groupby("category")}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 0.9 + 0.34 * len(groups)))
        axes = figure.add_subplot(xlabel="AUPIMO of an image", xlim=(-0.02, 1.02))
        axes.boxplot(list(groups.values()), orientation="horizontal", medianprops={"color": DEFECTIVE}, widths=0.6)
        axes.set_yticks(range(1, len(groups) + 1), list(groups))
        axes.invert_yaxis()
    return figure


def _label(start: float, below: float) -> str:
    return f"≥ {100 * start:g}" if np.isinf(below) else f"{100 * start:g}–{100 * below:g}"  # noqa: RUF001
