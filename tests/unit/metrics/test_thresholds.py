import logging

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from anomalib_unias.metrics import F1Threshold, FalseAlarmThreshold

FIELDS = ["pred_score", "gt_label"]


def batch_of(scores: np.ndarray, labels: np.ndarray) -> ImageBatch:
    return ImageBatch(
        image=torch.zeros(len(scores), 3, 2, 2),
        pred_score=torch.from_numpy(np.float32(scores)),
        gt_label=torch.from_numpy(np.asarray(labels, dtype=bool)),
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 1e-40, 0.3, 0.30000001, 2.0]), st.booleans()), min_size=2))
def test_no_threshold_has_a_better_f1_score(pairs: list[tuple[float, bool]]) -> None:
    scores, labels = map(np.array, zip(*pairs, strict=True))
    if labels.all() or not labels.any():
        return
    metric = F1Threshold(fields=FIELDS)
    metric.update(batch_of(scores, labels))
    threshold = float(metric.compute())
    best = max(f1_score(labels, np.float32(scores) >= np.float32(score)) for score in scores)
    assert f1_score(labels, np.float32(scores) > threshold) == pytest.approx(best)


def test_lies_between_two_scores_where_anomalib_misses_the_lower_defect() -> None:
    batch = batch_of([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1])
    metric = F1Threshold(fields=FIELDS)
    metric.update(batch)
    assert metric.compute() == pytest.approx(0.4)


@pytest.mark.parametrize(("labels", "expected"), [([0, 0, 0], 0.908), ([1, 1, 1], 0.092)])
def test_with_one_class_all_scores_are_on_its_side_of_the_threshold(
    labels: list[int], expected: float, caplog: pytest.LogCaptureFixture
) -> None:
    metric = F1Threshold(fields=FIELDS)
    metric.update(batch_of([0.1, 0.5, 0.9], labels))
    assert float(metric.compute()) == pytest.approx(expected)
    assert "score to validate on" in caplog.text


@pytest.mark.parametrize("scores", [[0.1, 0.2, 0.9], [-5.0, -5.0, -5.0], [0.0, 0.0, 0.0], [3e30, 3e30, 3e38]])
def test_rounding_of_a_runtime_does_not_change_a_label(scores: list[float]) -> None:
    rounded = np.float32(scores) * (1 + np.array([-1, 1])[:, None] * 1e-5)
    for labels in ([1, 1, 0], [0, 0, 0], [1, 1, 1]):
        for metric in (F1Threshold(fields=FIELDS), FalseAlarmThreshold(fields=FIELDS)):
            metric.update(batch_of(scores, labels))
            threshold = metric.compute().numpy()
            if not np.isnan(threshold):
                assert ((rounded > threshold) == (np.float32(scores) > threshold)).all()


def test_pixels_without_a_known_mask_do_not_count() -> None:
    maps = torch.tensor([0.1, 0.2, 0.8, 0.9]).view(4, 1, 1).expand(4, 2, 2)
    masks = torch.tensor([0, 0, 1, 0], dtype=torch.bool).view(4, 1, 1).expand(4, 2, 2)
    batch = ImageBatch(image=torch.zeros(4, 3, 2, 2), anomaly_map=maps, gt_mask=masks)
    batch.mask_valid = torch.tensor([True, True, True, False])
    metric = F1Threshold(fields=["anomaly_map", "gt_mask"])
    metric.update(batch)
    assert float(metric.compute()) == pytest.approx(0.5)


def test_missing_fields_are_left_out_unless_strict() -> None:
    batch = ImageBatch(image=torch.zeros(1, 3, 2, 2))
    metric = F1Threshold(fields=["anomaly_map", "gt_mask"], strict=False)
    metric.update(batch)
    assert not metric.update_called
    with pytest.raises(ValueError, match="does not have a value for field with name anomaly_map"):
        F1Threshold(fields=["anomaly_map", "gt_mask"]).update(batch)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.1, 0.5])
def test_false_alarms_stay_at_the_chosen_rate(rate: float) -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.standard_normal(2000), rng.random(2000) < 0.3
    scores[labels] += 100
    metric = FalseAlarmThreshold(fields=FIELDS, false_alarm_rate=rate)
    metric.update(batch_of(scores[:77], labels[:77]))
    metric.update(batch_of(scores[77:], labels[77:]))
    normal = np.sort(np.float32(scores[~labels]))
    threshold = float(metric.compute())
    assert (normal > threshold).sum() == max(0, int(rate * (len(normal) + 1)) - 1)


def test_new_images_exceed_the_threshold_no_more_often_than_promised() -> None:
    rng, rate = np.random.default_rng(0), 0.05
    alarms = []
    for _ in range(400):
        scores = rng.exponential(size=60)
        metric = FalseAlarmThreshold(fields=FIELDS, false_alarm_rate=rate)
        metric.update(batch_of(scores[:39], np.zeros(39)))
        alarms.append((np.float32(scores[39:]) > float(metric.compute())).mean())
    # 39 scores can guarantee 2 / 40; halfway between two of them it is a little less.
    assert 0.6 * rate < np.mean(alarms) <= rate


def test_f1_says_that_it_is_no_good_where_good_images_are_a_minority(caplog: pytest.LogCaptureFixture) -> None:
    metric = F1Threshold(fields=FIELDS)
    metric.update(batch_of([0.1, 0.5, 0.6], [0, 1, 0]))
    metric.compute()
    assert not caplog.text
    metric.update(batch_of([0.1, 0.4, 0.2], [0, 1, 1]))
    metric.update(batch_of([0.7], [1]))
    metric.compute()
    assert "from 3 good and 4 defective images" in caplog.text


def test_false_alarm_rate_of_pixels_in_bounded_memory() -> None:
    rng = np.random.default_rng(1)
    maps = rng.standard_normal((20, 64, 64)).astype(np.float32)
    metric = FalseAlarmThreshold(fields=["anomaly_map", "gt_label"], false_alarm_rate=0.05, max_rows=2048)
    labels = torch.arange(20) % 4 == 3
    metric.update(ImageBatch(image=torch.zeros(20, 3, 2, 2), anomaly_map=torch.from_numpy(maps), gt_label=labels))
    normal = maps[~labels.numpy()]
    alarms = (normal > float(metric.compute())).mean()
    assert 0.045 < alarms <= 0.05
    assert sum(map(len, metric.rows)) <= 2 * 2048 + 64 * 64


def test_too_few_normal_images_for_a_rate_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    metric = FalseAlarmThreshold(fields=FIELDS, false_alarm_rate=0.001)
    metric.update(batch_of([0.1, 0.4, 0.2], [0, 0, 0]))
    with caplog.at_level(logging.WARNING):
        assert float(metric.compute()) == pytest.approx(0.403)
    assert (
        "3 normal scores can guarantee a false alarm rate of 0.25 at best, 0.001 was asked for (it needs 999)"
        in caplog.text
    )
    metric.reset()
    for nothing_normal in (batch_of([0.1], [1]), batch_of([], [])):
        metric.update(nothing_normal)
        assert torch.isnan(metric.compute())


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\), got 1"):
        FalseAlarmThreshold(fields=FIELDS, false_alarm_rate=1)
    for metric in (F1Threshold(fields=FIELDS), FalseAlarmThreshold(fields=FIELDS)):
        with pytest.raises(ValueError, match="NaN for image number 1"):
            metric.update(batch_of([0.1, np.nan], [0, 0]))
