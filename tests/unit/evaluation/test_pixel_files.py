"""Pixels of each image in the files of a report: intervals of pixel metrics, and comparisons of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from example_images import make_images

from anomalib_unias.evaluation.comparison import BETTER, NO_DIFFERENCE, Run, compare_runs
from anomalib_unias.evaluation.evaluation import Evaluation
from anomalib_unias.evaluation.metrics_file import write_results
from anomalib_unias.metrics import UnifiedResults, summarize

GOOD, DEFECTIVE, PIXELS, DEFECT = 30, 30, 1000, 50


def write_report(folder: Path, false_pixels: int, seed: int = 0) -> pd.DataFrame:
    """A run on 60 images. A third to all of a defect scores higher than all but ``false_pixels`` of the others."""
    rng = np.random.default_rng(seed)
    images = make_images(rng.normal(0, 1, GOOD), rng.normal(2, 1, DEFECTIVE), 1.0)
    found, alarms = rng.integers(DEFECT // 3, DEFECT, GOOD + DEFECTIVE), rng.poisson(false_pixels, GOOD + DEFECTIVE)
    counts = []
    for label, high, false in zip(images["label"], found, alarms, strict=True):
        normal = [false, PIXELS - DEFECT * label]
        counts.append(np.array([normal, [high * label, DEFECT * label], [1, 1]], np.float32))
    columns = ["category", "image_path", "label", "score", "normalized_score", "predicted"]
    summary = summarize(images[columns], {}, 0.3, None)
    ap, precision = pixel_ap(np.sum(counts, axis=0))
    metrics = summary.metrics.copy()
    metrics.loc[metrics["metric"] == "pixel_ap", "value"] = ap + 0.004  # as if the counts were not quite exact
    series = pd.Series(counts, dtype=object)
    both = pd.DataFrame({"pixel_counts": series, "mixed_pixel_counts": series})
    results = UnifiedResults(metrics, images, summary.curves, pixel_counts=both)
    folder.mkdir(parents=True, exist_ok=True)
    write_results(results, Evaluation.of(results, 1.0), 1.0, {}, folder)
    assert precision > ap
    return both


def pixel_ap(total: np.ndarray) -> tuple[float, float]:
    """Average precision of two values, and the precision of the higher one."""
    (false, normal), (true, defective), _ = total
    precision = true / (true + false)
    return (true * precision + (defective - true) * defective / (defective + normal)) / defective, precision


def test_pixel_metrics_have_intervals(tmp_path: Path) -> None:
    counts = write_report(tmp_path, false_pixels=10)
    metrics = pd.DataFrame(json.loads((tmp_path / "metrics.json").read_text())["metrics"])
    ap = metrics[(metrics["metric"] == "pixel_ap") & (metrics["category"] == "mixed")].iloc[0]
    assert ap["low"] < ap["value"] < ap["high"]
    # Against the same by hand.
    rng, blocks, drawn = np.random.default_rng(7), np.stack(list(counts["pixel_counts"])), []
    for _ in range(1000):
        rows = np.concatenate([rng.integers(0, GOOD, GOOD), GOOD + rng.integers(0, DEFECTIVE, DEFECTIVE)])
        drawn.append(pixel_ap(blocks[rows].sum(axis=0))[0])
    expected = np.percentile(drawn, [2.5, 97.5]) + 0.004
    assert (ap["low"], ap["high"]) == pytest.approx(tuple(expected), abs=0.1 * (expected[1] - expected[0]))


def test_runs_are_compared_by_their_pixels(tmp_path: Path) -> None:
    for name, false_pixels, seed in (("base", 20, 0), ("same", 20, 1), ("better", 5, 2)):
        write_report(tmp_path / name / "report", false_pixels, seed)
    comparison = compare_runs([Run.load(tmp_path / name) for name in ("base", "same", "better")], samples=300)
    rows = comparison[(comparison["metric"] == "pixel_ap") & (comparison["category"] == "mixed")]
    assert rows["verdict"].tolist() == ["", NO_DIFFERENCE, BETTER]
    assert rows["value"].between(rows["low"], rows["high"]).all()


def test_counts_stay_with_their_images(tmp_path: Path) -> None:
    """Also of runs whose images are in another order, or fewer."""
    write_report(tmp_path, 10)
    run = Run.load(tmp_path)
    moved = Run("moved", run.images.sample(frac=0.7, random_state=0))
    fewer = Run("fewer", run.images.loc[sorted(moved.images.index)])
    first, second = (compare_runs([one, run], samples=20) for one in (moved, fewer))
    same = first[first["verdict"] != ""]
    assert (same["difference"] == 0).all()
    assert first["value"].equals(second["value"])


def test_a_file_of_another_test_is_refused_and_an_old_one_removed(tmp_path: Path) -> None:
    write_report(tmp_path, 10)
    images = pd.read_csv(tmp_path / "images.csv")
    images.iloc[1:].to_csv(tmp_path / "images.csv", index=False)
    with pytest.raises(ValueError, match=r"pixel_counts.npz is of 60 images, images.csv beside it of 59"):
        Run.load(tmp_path)
    columns = ["category", "image_path", "label", "score", "normalized_score", "predicted"]
    summary = summarize(images[columns], {}, 0.3, None)
    results = UnifiedResults(summary.metrics, images, summary.curves)
    write_results(results, Evaluation.of(results, 1.0), 1.0, {}, tmp_path)
    assert not (tmp_path / "pixel_counts.npz").exists()
    assert "pixel_counts" not in Run.load(tmp_path).images
