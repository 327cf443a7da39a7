"""Figures of the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from anomalib_unias.metrics.functional import ScoreCurve, best_f1_index
from anomalib_unias.metrics.unified_results import MIXED, UnifiedResults
from anomalib_unias.report.tables import number

GOOD, DEFECTIVE, INK, SOFT, _BEST = "#4878a8", "#dd6b35", "#263238", "#90a4ae", "#455a64"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a category may be called "a$b"
    "svg.hashsalt": "anomalib-unias",
}
_BINS = 60
_LINE_STYLES = ("-", "--", ":")


class CurveKind(NamedTuple):
    """A kind of curve: where the results have its points, and its labels."""

    level: str
    curve: str
    metric: str
    title: str
    x: str
    y: str


CURVE_KINDS = (
    CurveKind("image", "roc", "image_auroc", "Images: ROC (AUROC %)", "false positive rate", "recall"),
    CurveKind("image", "precision_recall", "image_ap", "Images: precision-recall (AP %)", "recall", "precision"),
    CurveKind("pixel", "roc", "pixel_auroc", "Pixels: ROC (AUROC %)", "false positive rate", "recall"),
    CurveKind("pixel", "precision_recall", "pixel_ap", "Pixels: precision-recall (AP %)", "recall", "precision"),
    CurveKind("pixel", "pro", "aupro", "Pixels: region overlap (AUPRO %)", "false positive rate", "mean overlap"),
)


def draw_curves(results: UnifiedResults, kind: CurveKind) -> Figure | None:
    """Draw one kind of curve, a line per category and one for all images together.

    Args:
        results (UnifiedResults): Results.
        kind (CurveKind): Kind of the curve.

    Returns:
        Figure | None: ``None`` if the curve is undefined for all categories.
    """
    points = results.curves[(results.curves["level"] == kind.level) & (results.curves["curve"] == kind.curve)]
    if points.empty:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 3.7))
        axes = figure.add_subplot(xlabel=kind.x, ylabel=kind.y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        axes.set_title(kind.title, loc="left", fontsize=10, fontweight="bold")
        axes.grid(color="#eceff1", linewidth=0.8)
        for name in _shown(results):
            rows = points[points["category"] == name]
            if len(rows):
                _draw_curve(axes, rows, kind, results, name)
        columns = 1 + len(results.categories) // 18
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8, ncols=columns)
    return figure


def draw_levels(results: UnifiedResults, threshold: float) -> Figure:
    """Draw the distributions of the image scores of good and defective images, one row per category on one axis.

    Args:
        results (UnifiedResults): Results.
        threshold (float): Common threshold of the raw scores, NaN if there is none.

    Returns:
        Figure: One row per category, and one for all images together.
    """
    names = _shown(results)
    scores = results.images["score"].to_numpy(float)
    values = scores[np.isfinite(scores)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 0.75 + 0.72 * len(names)))
        rows = figure.subplots(len(names), sharex=True, squeeze=False, gridspec_kw={"hspace": 0.12})[:, 0]
        for axes, name in zip(rows, names, strict=True):
            images = results.images if name == MIXED else results.images[results.images["category"] == name]
            _draw_level(axes, images, edges, threshold)
            axes.set_ylabel(name, rotation=0, ha="right", va="center", fontweight="bold" if name == MIXED else "normal")
        for axes in rows[:-1]:
            axes.tick_params(axis="x", length=0)
        rows[-1].set_xlabel("raw image score")
        rows[0].legend(
            handles=_level_legend(threshold),
            loc="lower left",
            bbox_to_anchor=(0, 1.02),
            ncols=4,
            frameon=False,
            borderaxespad=0,
        )
    return figure


def draw_inspected(images: pd.DataFrame, threshold: float) -> Figure:
    """Draw the scores of images whose true labels are unknown, by predicted label.

    Args:
        images (pd.DataFrame): Columns ``score``, and ``label``: 0, 1, or NaN if the model gives none.
        threshold (float): Threshold of the scores, NaN if it is not known.

    Returns:
        Figure: Histogram with a logarithmic axis of counts.
    """
    scores, labels = images["score"].to_numpy(float), images["label"].to_numpy(float)
    ends = [*scores[np.isfinite(scores)], *([threshold] if np.isfinite(threshold) else [])] or [0.0]
    edges = np.linspace(min(ends), max(ends) if max(ends) > min(ends) else min(ends) + 1, _BINS + 1)
    kinds = {
        "good": (labels == 0, GOOD),
        "anomalous": (labels == 1, DEFECTIVE),
        "without a label": (np.isnan(labels), SOFT),
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 3))
        axes = figure.add_subplot(xlabel="image score", ylabel="images", yscale="log")
        for name, (chosen, color) in kinds.items():
            counts = np.histogram(scores[chosen & np.isfinite(scores)], edges)[0]
            if counts.any():
                axes.stairs(counts, edges, fill=True, color=color, alpha=0.6, label=name, baseline=0.5)
        if np.isfinite(threshold):
            axes.axvline(threshold, color=INK, linewidth=1.4, label=f"threshold {number(threshold)}")
        axes.set_ylim(bottom=0.5)
        # By default powers are written as formulas, which this style does not render.
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=4, frameon=False, borderaxespad=0)
    return figure


def save_svg(figure: Figure, path: Path) -> None:
    """Save a figure; the same figure gives the same file."""
    with mpl.rc_context(STYLE):
        figure.savefig(path, format="svg", bbox_inches="tight", pad_inches=0.05, metadata={"Date": None})


def _shown(results: UnifiedResults) -> list[str]:
    """All categories and ``mixed``; a single category alone."""
    return [*results.categories, MIXED] if len(results.categories) > 1 else results.categories


def _draw_curve(axes: Axes, rows: pd.DataFrame, kind: CurveKind, results: UnifiedResults, name: str) -> None:
    x, y = rows["x"].to_numpy(), rows["y"].to_numpy()
    # Average precision is the area under steps; its first step reaches back to recall 0.
    stepped = kind.curve == "precision_recall"
    x, y = np.append(0, x), np.append(y[0] if stepped else 0, y)
    axes.plot(
        x,
        y,
        drawstyle="steps-pre" if stepped else "default",
        label=f"{name}  {number(100 * results.value(name, kind.metric), '.1f')}",
        **_line_style(results.categories, name),
    )


def _line_style(categories: Sequence[str], name: str) -> dict:
    if name == MIXED:
        return {"color": INK, "linewidth": 2.4, "zorder": 3}
    index = categories.index(name)
    palette = mpl.colormaps["tab10"]
    return {"color": palette(index % palette.N), "linestyle": _LINE_STYLES[index // palette.N % len(_LINE_STYLES)]}


def _draw_level(axes: Axes, images: pd.DataFrame, edges: np.ndarray, threshold: float) -> None:
    scores, labels = images["score"].to_numpy(float), images["label"].to_numpy()
    for label, color in ((0, GOOD), (1, DEFECTIVE)):
        part = scores[labels == label]
        # Shares instead of counts, so that a few defects are visible beside many good images.
        heights = np.histogram(part, edges)[0] / max(1, len(part))
        axes.stairs(heights, edges, fill=True, color=color, alpha=0.45, linewidth=0)
        axes.stairs(heights, edges, color=color, linewidth=1)
    curve = ScoreCurve.from_scores(scores, labels)
    if curve.positives and curve.negatives:
        axes.axvline(_best_threshold(curve), color=_BEST, linestyle=":", linewidth=1.6)
    if np.isfinite(threshold):
        axes.axvline(threshold, color=INK, linewidth=1.4)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.text(1.01, 0.5, _outcome(images), transform=axes.transAxes, va="center", fontsize=8)


def _best_threshold(curve: ScoreCurve) -> float:
    """Middle of the gap in which the threshold with the best F1 score lies."""
    index = best_f1_index(curve)
    return float(curve.thresholds[index : index + 2].mean())


def _outcome(images: pd.DataFrame) -> str:
    if images["predicted"].isna().any():
        return ""
    good, defective = (images.loc[images["label"] == label, "predicted"] for label in (0, 1))
    return (
        f"{int(good.sum())} of {len(good)} good: false alarm\n{int((1 - defective).sum())} of {len(defective)} "
        "defective: missed"
    )


def _level_legend(threshold: float) -> list:
    handles = [
        Patch(color=GOOD, alpha=0.6, label="good"),
        Patch(color=DEFECTIVE, alpha=0.6, label="defective"),
        Line2D([], [], color=_BEST, linestyle=":", linewidth=1.6, label="best threshold of this row"),
    ]
    if np.isfinite(threshold):
        handles.append(Line2D([], [], color=INK, linewidth=1.4, label=f"common threshold {number(threshold)}"))
    return handles
