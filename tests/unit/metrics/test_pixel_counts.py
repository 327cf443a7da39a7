"""Pixels of each image at some thresholds: metrics of any selection of the images."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, roc_auc_score

from anomalib_unias.evaluation.image_statistics import statistics_of_rows
from anomalib_unias.metrics import PixelMetrics, UnifiedResults, summarize
from anomalib_unias.metrics.collection import Collection
from anomalib_unias.metrics.functional import ScoreCurve
from anomalib_unias.metrics.pixel_counts import CURVE_POINTS, curve_thresholds
from anomalib_unias.metrics.scored_image import ScoredImage

CATEGORIES = ("a", "b")
COUNT = 16  # of each


def make_maps(kind: str, seed: int = 0, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Maps ``(2 * COUNT, size, size)`` and masks; in every second image a defect that is more or less visible."""
    rng = np.random.default_rng(seed)
    levels = rng.standard_normal((2 * COUNT, size, size)) + gaussian_filter(rng.standard_normal((size, size)), 4) * 8
    masks = np.zeros(levels.shape, bool)
    for index in range(0, 2 * COUNT, 2):
        top, left, height = rng.integers(5, 40, 3)
        masks[index, top : top + height, left : left + 25] = True
        levels[index][masks[index]] += rng.uniform(1, 4)
    levels[COUNT:] += 2  # the second category scores higher
    maps = 1 / (1 + np.exp(-levels))
    if kind == "few values":
        maps = maps.round(1)
    if kind == "mostly zero":
        maps = np.where(maps < 0.7, 0, maps)
    return maps.astype(np.float32), masks


def results_of(maps: np.ndarray, masks: np.ndarray, exact: bool) -> UnifiedResults:
    collection = Collection(PixelMetrics, keep_pixels="all" if exact else "sketch")
    for index, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
        tensors = torch.from_numpy(anomaly_map), torch.from_numpy(mask)
        score, name = float(anomaly_map.max()), CATEGORIES[index // COUNT]
        collection.add(ScoredImage(name, f"{index:03}.png", int(mask.any()), score, score, 0.0, *tensors, None))
    return summarize(collection.images(), collection.pixel_tables(torch.device("cpu")), 0.3, None)


@pytest.mark.parametrize(
    ("kind", "exact", "tolerance"),
    [
        ("few values", True, 1e-6),
        ("all different", True, 1.5e-3),
        ("all different", False, 2e-3),
        ("mostly zero", False, 2e-3),
    ],
)
def test_metrics_of_drawn_images_are_those_of_sklearn(kind: str, exact: bool, tolerance: float) -> None:
    maps, masks = make_maps(kind)
    results = results_of(maps, masks, exact)
    weights = np.random.default_rng(1).integers(0, 3, (3, 2 * COUNT)).astype(float)
    weights[0] = 1
    values = statistics_of_rows(results.images.join(results.pixel_counts), weights)
    parts = {"a": slice(0, COUNT), "b": slice(COUNT, None), "mixed": slice(None)}
    for category, part in parts.items():
        labels, scores = masks[part].ravel(), maps[part].ravel()
        for sample, times in enumerate(weights):
            repeated = np.repeat(times[part], maps[0].size)
            ap = average_precision_score(labels, scores, sample_weight=repeated)
            auroc = roc_auc_score(labels, scores, sample_weight=repeated)
            assert values[category, "pixel_ap"][sample] == pytest.approx(ap, abs=tolerance)
            assert values[category, "pixel_auroc"][sample] == pytest.approx(auroc, abs=tolerance)
    assert values["mean", "pixel_ap"] == pytest.approx((values["a", "pixel_ap"] + values["b", "pixel_ap"]) / 2)


def test_thresholds_are_few_whatever_the_scores() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(50_000) < 0.1
    for scores in (rng.random(50_000), rng.integers(0, 300, 50_000), np.maximum(rng.random(50_000), 0.6)):
        thresholds, tied = curve_thresholds(ScoreCurve.from_scores(scores, labels))
        assert len(thresholds) == len(tied) <= 6 * CURVE_POINTS
        assert (np.diff(thresholds) < 0).all()
        assert (thresholds[0], thresholds[-1]) == (scores.max(), scores.min())
    assert tied[-1]  # of the score that most of the last have
    assert not tied.all()


def test_images_without_masks_and_categories_without_defects_count_nothing() -> None:
    maps, masks = make_maps("all different")
    masks[COUNT:] = False
    results = results_of(maps, masks, exact=False)
    values = statistics_of_rows(results.images.join(results.pixel_counts), np.ones((1, 2 * COUNT)))
    assert np.isnan(values["b", "pixel_ap"]).all()
    assert values["mean", "pixel_ap"] == pytest.approx(values["a", "pixel_ap"])
    unknown = Collection(PixelMetrics, keep_pixels="sketch")
    for index, mask in enumerate(masks[:4]):
        tensors = torch.from_numpy(maps[index]), torch.from_numpy(mask) if index < 2 else None
        unknown.add(ScoredImage("a", f"{index}.png", int(mask.any()), 0.0, 0.0, 0.0, *tensors, None))
    counts = summarize(unknown.images(), unknown.pixel_tables(torch.device("cpu")), 0.3, None).pixel_counts
    totals = np.stack(list(counts["pixel_counts"]))[:, :2, -1].sum(axis=1)
    assert totals.tolist() == [maps[0].size, maps[0].size, 0, 0]


def test_without_pixels_there_is_nothing_to_count() -> None:
    collection = Collection(PixelMetrics, keep_pixels="sketch")
    collection.add(ScoredImage("a", "0.png", 0, 0.0, 0.0, 0.0, None, None, None))
    results = summarize(collection.images(), {}, 0.3, None)
    assert results.pixel_counts.equals(pd.DataFrame(index=[0]))
