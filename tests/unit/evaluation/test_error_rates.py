import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import PBn, PGn
from example_images import NAN, make_images, make_regions
from scipy.stats import beta

from anomalib_unias.evaluation.error_rates import ERROR_COLUMNS, error_rates, false_alarm_threshold, miss_threshold
from anomalib_unias.metrics.image_pixels import REGION_COLUMNS

NO_REGIONS = pd.DataFrame(columns=list(REGION_COLUMNS))


def one(table: pd.DataFrame, category: str, at: str, level: str = "image") -> pd.Series:
    (row,) = table[(table["category"] == category) & (table["at"] == at) & (table["level"] == level)].iloc
    return row


def test_at_the_threshold_of_the_model() -> None:
    images = make_images(good=[1, 2, 3, 6], defective=[4, 6, 7], threshold=5)
    row = one(error_rates(images, NO_REGIONS, 5.0), "a", "deployed")
    assert (row["good"], row["false_alarms"], row["false_alarm_rate"]) == (4, 1, 0.25)
    assert (row["defective"], row["misses"], row["miss_rate"]) == (3, 1, pytest.approx(1 / 3))
    assert row["threshold"] == 5
    # Clopper and Pearson as quantiles of beta distributions, which is how the paper has them.
    assert row["false_alarm_low"] == pytest.approx(beta.ppf(0.025, 1, 4))
    assert row["false_alarm_high"] == pytest.approx(beta.ppf(0.975, 2, 3))
    assert row["miss_high"] == pytest.approx(beta.ppf(0.975, 2, 2))


def test_at_given_rates() -> None:
    images = make_images(good=np.arange(100), defective=[50, 94.5, 98.5, *range(200, 297)])
    table = error_rates(images, NO_REGIONS, NAN)
    one_percent, five_percent = (one(table, "a", f"false_alarms_{rate}%") for rate in (1, 5))
    assert (one_percent["false_alarms"], one_percent["misses"]) == (1, 2)
    assert (five_percent["false_alarms"], five_percent["misses"]) == (5, 1)
    # One miss of a hundred: the second lowest, 94.5, has to be found, and so are the good ones above it.
    at_miss = one(table, "a", "misses_1%")
    assert (at_miss["misses"], at_miss["false_alarms"]) == (1, 5)
    assert at_miss["threshold"] == np.nextafter(94.5, -np.inf)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [5, 10**6])
def test_a_promised_rate_is_kept_and_no_better_threshold_exists(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, rng.integers(1, 300)).astype(float)
    for rate in (0.01, 0.05, 0.3):
        threshold = false_alarm_threshold(scores, rate)
        assert (scores > threshold).mean() <= rate
        lower = scores[scores < threshold]
        assert not len(lower) or (scores > lower.max()).mean() > rate
        threshold = miss_threshold(scores, rate)
        assert (scores <= threshold).mean() <= rate
        assert (scores <= scores[scores > threshold].min()).mean() > rate


def test_presorting_rates_of_anomalib() -> None:
    """PBn and PGn are these rates the other way round, where their interpolated quantile keeps the rate."""
    rng = np.random.default_rng(0)
    good, defective = rng.normal(0, 1, 200), rng.normal(2, 1, 100)
    table = error_rates(make_images(good, defective), NO_REGIONS, NAN)
    scores, labels = torch.from_numpy(np.append(good, defective)), torch.tensor([0] * 200 + [1] * 100)
    batch = ImageBatch(image=torch.zeros(300, 3, 1, 1), pred_score=scores.float(), gt_label=labels)
    bad, presorted = PBn(fpr=0.05), PGn(fnr=0.05)
    for metric in (bad, presorted):
        metric.update(batch)
    assert 1 - one(table, "a", "false_alarms_5%")["miss_rate"] == pytest.approx(float(bad.compute()))
    assert 1 - one(table, "a", "misses_5%")["false_alarm_rate"] == pytest.approx(float(presorted.compute()))


def test_mixed_has_one_threshold_for_all() -> None:
    images = pd.concat([make_images([0, 1], [2, 3], 5), make_images([10, 11], [12, 13], 5, "b")], ignore_index=True)
    table = error_rates(images, NO_REGIONS, 5.0)
    assert [one(table, name, "false_alarms_1%")["miss_rate"] for name in ("a", "b", "mixed")] == [0, 0, 0.5]
    assert [one(table, name, "deployed")["miss_rate"] for name in ("a", "b", "mixed")] == [1, 0, 0.5]
    assert [one(table, name, "deployed")["false_alarms"] for name in ("a", "b", "mixed")] == [0, 2, 2]


def test_regions_are_found_by_their_pixels() -> None:
    images = make_images(good=np.arange(100), defective=[40, 98, 99.5], threshold=97)
    table = error_rates(images, make_regions(images, [5, 5, 5]), 97.0)
    row = one(table, "a", "deployed", "region")
    assert (row["false_alarms"], row["misses"]) == (2, 1)
    assert one(table, "mixed", "false_alarms_1%", "region")["misses"] == 2


@pytest.mark.parametrize(
    ("good", "defective"), [([], [1.0]), ([1.0], []), ([1.0], [1.0])], ids=["no good", "no defects", "ties"]
)
def test_few_images(good: list[float], defective: list[float]) -> None:
    table = error_rates(make_images(good, defective, 0.5), NO_REGIONS, 0.5)
    assert list(table.columns) == list(ERROR_COLUMNS)
    row = one(table, "mixed", "deployed")
    assert np.isnan(row["false_alarm_rate"]) == (not good)
    assert np.isnan([row["miss_low"], row["miss_high"]]).all() == (not defective)
    at_rate = one(table, "a", "false_alarms_1%")
    assert np.isnan(at_rate["threshold"]) == (not good)
    if good and defective:
        assert at_rate["miss_rate"] == 1


def test_without_a_threshold_nothing_is_counted() -> None:
    row = one(error_rates(make_images([1, 2], [3]), NO_REGIONS, NAN), "mixed", "deployed")
    assert row[["threshold", "false_alarms", "false_alarm_rate", "misses", "miss_rate", "miss_low"]].isna().all()
    assert (row["good"], row["defective"]) == (2, 1)
