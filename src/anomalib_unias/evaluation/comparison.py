"""Compare runs on the same test images: is a difference more than chance?"""

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path

import numpy as np
import pandas as pd

from anomalib_unias.evaluation.image_statistics import STATISTICS, bootstrap_statistics, statistics_of_rows
from anomalib_unias.evaluation.intervals import percentile_interval
from anomalib_unias.evaluation.pixel_files import read_pixel_counts
from anomalib_unias.metrics.unified_results import MEAN, MIXED

COMPARISON_COLUMNS = (
    *("category", "metric", "run", "value", "low", "high"),
    *("difference", "difference_low", "difference_high", "verdict"),
)
NO_DIFFERENCE, BETTER, WORSE = "no difference beyond chance", "better", "worse"
_TEXT = {"category": str, "image_path": str}
_NUMBERS = ("score", "normalized_score", "predicted", "peak", "marked", "dice", "mixed_dice", "aupimo", "mixed_aupimo")


@dataclass(frozen=True)
class Run:
    """A run to compare.

    Args:
        name (str): Name to show.
        images (pd.DataFrame): Images as in :class:`~anomalib_unias.metrics.UnifiedResults`, and for pixel metrics the
            columns of its ``pixel_counts``.
    """

    name: str
    images: pd.DataFrame

    @classmethod
    def load(cls, path: Path) -> "Run":
        """Read the files of a report.

        Args:
            path (Path): Folder of a report, folder of a run with a folder ``report`` in it, or ``images.csv``.

        Returns:
            Run: Named like the path.

        Raises:
            FileNotFoundError: If there is no ``images.csv``.
            ValueError: If the ``pixel_counts.npz`` beside it belongs to other images.
        """
        files = [path, path / "images.csv", path / "report" / "images.csv"]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            msg = f"{path} has no images.csv. Give the folder that EvaluationReport wrote (with index.html in it)."
            raise FileNotFoundError(msg)
        images = pd.read_csv(file, dtype=_TEXT, keep_default_na=False, na_values={key: [""] for key in _NUMBERS})
        return cls(str(path), images.join(read_pixel_counts(file.parent, len(images))))


def compare_runs(runs: Sequence[Run], samples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Compare runs with the first of them, image by image (paired bootstrap).

    The same images are drawn for all runs, so what makes an image hard for all of them cancels out.

    Args:
        runs (Sequence[Run]): Two runs or more. Images that are not in all of them are left out.
        samples (int): Number of bootstrap samples. Defaults to ``2000``.
        seed (int): Seed of the samples. Defaults to ``0``.

    Returns:
        pd.DataFrame: Columns :data:`COMPARISON_COLUMNS`, for every category, ``mean`` and ``mixed``, each metric of
        :data:`~anomalib_unias.evaluation.image_statistics.STATISTICS` and each run: its value with a 95 % interval, its
        difference from the first run with a 95 % interval, and ``verdict``: ``better`` or ``worse`` if the interval of
        the difference excludes zero, else ``no difference beyond chance``; empty for the first run and where a metric
        is undefined.

    Raises:
        ValueError: If there are fewer than two runs, no common images, or labels that differ.
    """
    if len(runs) < 2:
        msg = f"A comparison needs two runs or more, got {len(runs)}."
        raise ValueError(msg)
    tables = common_images(runs)
    values = [statistics_of_rows(images, np.ones((1, len(images)))) for images in tables]
    drawn = [bootstrap_statistics(images, samples, seed) for images in tables]
    categories = sorted(tables[0]["category"].unique())
    rows = []
    for category in [*categories, MEAN, MIXED]:
        for metric in STATISTICS:
            key = (category, metric)
            for index, run in enumerate(runs):
                value, (low, high) = float(values[index][key][0]), percentile_interval(drawn[index][key])
                difference = value - float(values[0][key][0])
                interval = percentile_interval(drawn[index][key] - drawn[0][key])
                verdict = _verdict(metric, *interval) if index else ""
                rows.append((category, metric, run.name, value, low, high, difference, *interval, verdict))
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


def common_images(runs: Sequence[Run]) -> list[pd.DataFrame]:
    """Images that all runs have, in the same order.

    Images are matched by category and path. If the runs used different data folders, the path counts relative to the
    folder that all images of a run have in common.

    Args:
        runs (Sequence[Run]): Runs.

    Returns:
        list[pd.DataFrame]: Images of each run, rows numbered from 0.

    Raises:
        ValueError: If paths are missing or not unique, there are no common images, or their labels differ.
    """
    tables = [_by_path(run, full_path=True) for run in runs]
    if not all(tables[0].index.equals(table.index) for table in tables):
        tables = [_by_path(run, full_path=False) for run in runs]
    common = tables[0].index
    for table in tables[1:]:
        common = common.intersection(table.index)
    if not len(common):
        msg = f"The runs {', '.join(run.name for run in runs)} have no image in common. Compare tests of the same data."
        raise ValueError(msg)
    tables = [table.loc[common] for table in tables]
    for run, table in zip(runs, tables, strict=True):
        differing = table.index[table["label"] != tables[0]["label"]]
        if len(differing):
            msg = f"{run.name} and {runs[0].name} label {len(differing)} images differently, {differing[0][1]} for one."
            raise ValueError(msg)
    return [table.reset_index(drop=True) for table in tables]


def _by_path(run: Run, full_path: bool) -> pd.DataFrame:
    paths = run.images["image_path"]
    if not full_path and len(paths) > 1 and paths.str.startswith("/").nunique() == 1 and (paths != "").all():
        folder = commonpath(list(paths))
        paths = paths.str.slice(len(folder)).str.lstrip("/")
    keys = pd.MultiIndex.from_arrays([run.images["category"], paths])
    if (paths == "").any() or not keys.is_unique:
        msg = f"The images of {run.name} cannot be matched: each needs a unique path."
        raise ValueError(msg)
    return run.images.set_axis(keys).sort_index()


def _verdict(metric: str, low: float, high: float) -> str:
    if np.isnan(low):
        return ""
    if low <= 0 <= high:
        return NO_DIFFERENCE
    lower_is_better = "rate" in metric
    return BETTER if (high < 0) == lower_is_better else WORSE
