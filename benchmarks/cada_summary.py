"""Mean and spread over the seeds of ``cada.csv``, and histograms of image scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from benchmarks.quality_summary import SHOWN, heading, spread
from matplotlib.figure import Figure
from torch import Tensor


def summarize(table: pd.DataFrame, output: Path, name: str = "cada", metrics: Sequence[str] = SHOWN) -> None:
    """Write ``cada.md``.

    Args:
        table (pd.DataFrame): Rows of ``cada.csv``.
        output (Path): Folder.
        name (str): Name of the file without suffix. Defaults to ``"cada"``.
        metrics (Sequence[str]): Metrics to show. Defaults to those of ``quality.md``.
    """
    parts = [heading()]
    for group, rows in table.groupby("group", sort=False):
        parts.append(f"## Group {group}")
        for category in ("mixed", "mean"):
            for metric in metrics:
                part = rows[(rows["category"] == category) & (rows["metric"] == metric)]
                parts += [f"{metric}, {category}:", spread(part, "model", "calibration")]
    (output / f"{name}.md").write_text("\n\n".join(parts) + "\n")


def draw(name: str, scores: Mapping[str, Tensor], labels: Tensor, categories: Sequence[str], path: Path) -> None:
    """Draw histograms of image scores, with a column for each calibration and a row for each category.

    Args:
        name (str): Name of the model.
        scores (Mapping[str, Tensor]): Image scores ``(N,)`` by calibration.
        labels (Tensor): Whether an image is defective ``(N,)``.
        categories (Sequence[str]): Category of each image.
        path (Path): File of the figure.
    """
    names = sorted(set(categories))
    figure = Figure(figsize=(4 * len(scores), 1.2 * len(names) + 1))
    panels = figure.subplots(len(names), len(scores), sharex="col", squeeze=False)
    for row, category in zip(panels, names, strict=True):
        chosen = torch.tensor([each == category for each in categories])
        for panel, values in zip(row, scores.values(), strict=True):
            bins = torch.linspace(float(values.min()), float(values.quantile(0.98)), 40).tolist()
            for label, colour in ((False, "tab:blue"), (True, "tab:red")):
                panel.hist(values[chosen & (labels == label)].tolist(), bins, color=colour, alpha=0.6)
            panel.set_yticks([])
        row[0].set_ylabel(category)
    for panel, kind in zip(panels[0], scores, strict=True):
        panel.set_title(f"{name}: image score, {kind}")
    figure.legend(["normal", "defective"], loc="lower center", ncol=2)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=110)
