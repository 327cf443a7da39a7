import numpy as np
import pandas as pd
import pytest
from example_images import NAN, make_images
from scipy.stats import bootstrap
from sklearn.metrics import average_precision_score, roc_auc_score

from anomalib_unias.evaluation.error_rates import error_rates
from anomalib_unias.evaluation.image_statistics import bootstrap_statistics, image_statistics, statistics_of_rows
from anomalib_unias.evaluation.intervals import binomial_interval, bootstrap_weights, percentile_interval
from anomalib_unias.metrics.image_pixels import REGION_COLUMNS


def noisy(seed: int, count: int = 60, levels: int = 15, category: str = "a") -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, count) + np.repeat([0, 4], [count - 20, 20])
    return make_images(scores[:-20], scores[-20:], levels / 2, category)


@pytest.mark.parametrize("seed", range(3))
def test_weights_are_repetitions(seed: int) -> None:
    images = noisy(seed)
    weights = np.random.default_rng(seed).integers(0, 4, (5, len(images))).astype(float)
    values = image_statistics(images, weights)
    for sample in range(5):
        drawn = images.loc[np.repeat(np.arange(len(images)), weights[sample].astype(int))]
        drawn = drawn.assign(image_path=range(len(drawn)))
        assert values["image_auroc"][sample] == pytest.approx(roc_auc_score(drawn["label"], drawn["score"]))
        assert values["image_ap"][sample] == pytest.approx(average_precision_score(drawn["label"], drawn["score"]))
        assert values["dsc"][sample] == pytest.approx(drawn["dice"].mean())
        assert values["aupimo"][sample] == pytest.approx(0.25)
        rates = error_rates(drawn, pd.DataFrame(columns=list(REGION_COLUMNS)), 7.5)
        rates = rates[rates["category"] == "mixed"].set_index("at")
        assert values["miss_rate"][sample] == pytest.approx(rates.loc["deployed", "miss_rate"])
        assert values["false_alarm_rate"][sample] == pytest.approx(rates.loc["deployed", "false_alarm_rate"])
        for at in ("false_alarms_1%", "false_alarms_5%"):
            assert values[f"miss_rate_at_{at[13:]}_false_alarms"][sample] == rates.loc[at, "miss_rate"]


def test_intervals_are_those_of_scipy() -> None:
    images = noisy(0, count=200)
    ours = percentile_interval(bootstrap_statistics(images, samples=2000)["a", "image_auroc"])
    good, defective = (images.loc[images["label"] == label, "score"].to_numpy() for label in (0, 1))

    def auroc(good: np.ndarray, defective: np.ndarray) -> float:
        return (np.sign(defective[:, None] - good).mean() + 1) / 2

    drawn = bootstrap((good, defective), auroc, n_resamples=500, vectorized=False, method="percentile", rng=0)
    assert ours == pytest.approx(tuple(drawn.confidence_interval), abs=0.02)


def test_samples_keep_categories_and_labels() -> None:
    images = pd.concat([noisy(0), noisy(1, 40, category="b")], ignore_index=True)
    weights = np.concatenate(list(bootstrap_weights(images, 30, seed=1)))
    assert weights.shape == (30, 100)
    for _, index in images.groupby(["category", "label"]).indices.items():
        assert (weights[:, index].sum(axis=1) == len(index)).all()
    assert weights.std(axis=0).min() > 0
    again = np.concatenate(list(bootstrap_weights(images, 30, seed=1)))
    assert np.array_equal(weights, again)
    assert not np.array_equal(weights, np.concatenate(list(bootstrap_weights(images, 30, seed=2))))


def test_many_images_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomalib_unias.evaluation.intervals._WEIGHTS", 150)
    shapes = [weights.shape for weights in bootstrap_weights(noisy(0), 5, seed=0)]
    assert shapes == [(2, 60), (2, 60), (1, 60)]


def test_rows_of_the_summary() -> None:
    images = pd.concat([noisy(0), noisy(1, 40, category="b")], ignore_index=True)
    values = statistics_of_rows(images, np.ones((1, len(images))))
    parts = [values[name, "image_auroc"][0] for name in ("a", "b")]
    assert values["mean", "image_auroc"][0] == pytest.approx(np.mean(parts))
    assert values["mixed", "image_auroc"][0] == pytest.approx(roc_auc_score(images["label"], images["score"]))
    assert (values["mean", "aupimo"], values["mixed", "aupimo"]) == (0.25, 0.5)
    assert values["gap", "image_auroc"][0] == pytest.approx(np.mean(parts) - values["mixed", "image_auroc"][0])


def test_the_interval_covers_the_truth() -> None:
    """As often as it promises, within what 100 repetitions can show: AUROC of two normal distributions."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(100):
        images = make_images(rng.normal(0, 1, 60), rng.normal(1, 1, 60))
        low, high = percentile_interval(bootstrap_statistics(images, samples=200)["a", "image_auroc"])
        covered += low <= 0.7602 <= high
    assert 86 <= covered <= 100


@pytest.mark.parametrize(("good", "defective"), [([], [1.0, 2.0]), ([1.0, 2.0], []), ([1.0], [])])
def test_one_class_only_is_undefined(good: list[float], defective: list[float]) -> None:
    images = make_images(good, defective)
    values = bootstrap_statistics(images, samples=10)
    assert np.isnan(values["mixed", "image_auroc"]).all()
    assert np.isnan(values["mixed", "miss_rate"]).all()
    assert np.isnan(percentile_interval(values["a", "image_auroc"])).all()
    assert np.isnan(values["a", "miss_rate_at_5%_false_alarms"]).all()


def test_a_category_without_defects_is_left_out_of_the_mean() -> None:
    images = pd.concat([noisy(0), make_images([1, 2], [], category="b")], ignore_index=True)
    values = bootstrap_statistics(images, samples=10)
    assert values["mean", "image_auroc"] == pytest.approx(values["a", "image_auroc"])


def test_binomial_interval() -> None:
    assert binomial_interval(0, 10) == pytest.approx((0, 1 - 0.025 ** (1 / 10)))
    assert np.isnan(binomial_interval(0, 0)).all()
    assert percentile_interval(np.array([NAN, 1, 1])) == (1, 1)
