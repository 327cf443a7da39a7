import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from anomalib_unias.metrics.functional import (
    ScoreCurve,
    aupro,
    auroc,
    average_precision,
    best_f1_index,
    f1_max,
    intersection_over_union,
    precision_plus_recall_index,
    thin_curve,
)

# Few different scores, so that ties are the rule.
labelled = st.lists(st.tuples(st.sampled_from([-3.0, 0.0, 0.5, 0.5000001, 1.0, 7.0]), st.booleans()), min_size=1)


def split(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = zip(*pairs, strict=True)
    return np.array(scores), np.array(labels)


@given(labelled)
def test_agrees_with_sklearn(pairs: list[tuple[float, bool]]) -> None:
    scores, labels = split(pairs)
    curve = ScoreCurve.from_scores(scores, labels)
    if not labels.any():
        assert np.isnan([auroc(curve), average_precision(curve), f1_max(curve)]).all()
        return
    assert average_precision(curve) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert f1_max(curve) == pytest.approx(f1.max(), abs=1e-12)
    assert curve.thresholds[best_f1_index(curve)] == thresholds[np.flatnonzero(f1[:-1] > f1.max() - 1e-9)[0]]
    total = (precision + recall)[:-1]
    best = np.flatnonzero(total > total.max() - 1e-9)[0]
    assert curve.thresholds[precision_plus_recall_index(curve)] == thresholds[best]
    if labels.all():
        assert np.isnan(auroc(curve))
    else:
        assert auroc(curve) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_intersection_over_union_counts_pixels() -> None:
    curve = ScoreCurve.from_scores(np.array([0.9, 0.8, 0.7, 0.1]), np.array([1, 0, 1, 1]))
    assert intersection_over_union(curve, 2) == 2 / 4


@pytest.mark.parametrize(
    ("false_positives", "overlap", "expected"),
    [
        ([0, 100], [1, 1], 1.0),  # everything found before the first false alarm
        ([100, 100], [0, 1], 0.0),  # nothing found before all is a false alarm
        ([100], [1], 0.15),  # a constant map: the diagonal up to 0.3
        ([30, 60, 100], [0.5, 1, 1], 0.25),  # a threshold exactly at the limit
        ([0, 0, 100], [0.5, 0.5, 0.5], 0.5),  # vertical steps
    ],
)
def test_aupro_of_simple_curves(false_positives: list[int], overlap: list[float], expected: float) -> None:
    thresholds = np.arange(len(overlap), 0, -1)
    curve = ScoreCurve(thresholds, np.arange(1, len(overlap) + 1), np.array(false_positives))
    assert aupro(curve, np.array(overlap), 0.3) == pytest.approx(expected)


def test_a_thinned_curve_keeps_its_shape() -> None:
    x = np.linspace(0, 1, 50_000)
    y = (x > 0.2) * 1.0
    kept = thin_curve(x, y, 1000)
    assert len(kept) <= 1000
    assert (np.diff(kept) > 0).all()
    assert (x[kept][[0, -1]] == [0, 1]).all()
    assert np.abs(np.interp(0.2, y[kept], x[kept]) - 0.2) < 0.01
    assert thin_curve(x[:10], y[:10]).tolist() == list(range(10))
