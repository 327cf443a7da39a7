import io

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from sklearn.metrics import average_precision_score, roc_auc_score

from anomalib_unias.metrics import METRICS, PIXEL_METRICS, PixelMetrics, UnifiedResults, image_metrics, summarize


def images_of(category: str, scores: list[float], labels: list[int], predicted: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "category": category,
            "image_path": [f"{category}/{index}.png" for index in range(len(scores))],
            "label": labels,
            "score": scores,
            "normalized_score": scores,
            "predicted": predicted,
        }
    )


# Each category is perfect by itself, but the good "b" scores as high as the defective "a".
IMAGES = pd.concat(
    [
        images_of("a", [0.1, 0.2, 0.5, 0.6], [0, 0, 1, 1], [0, 0, 0, 1]),
        images_of("b", [0.5, 0.6, 0.9], [0, 0, 1], [0, 1, 1]),
    ],
    ignore_index=True,
)


def test_image_metrics() -> None:
    values = image_metrics(*(IMAGES[name].to_numpy(float) for name in ("score", "label", "predicted")))
    assert values == pytest.approx(
        {
            "image_auroc": roc_auc_score(IMAGES["label"], IMAGES["score"]),
            "image_ap": average_precision_score(IMAGES["label"], IMAGES["score"]),
            "image_f1max": 6 / 8,
            "false_alarms_per_1000": 250,
            "missed_defects": 1,
            "missed_defect_rate": 1 / 3,
        }
    )


def test_mean_mixed_and_gap() -> None:
    results = summarize(IMAGES, {}, 0.3, None)
    assert results.categories == ["a", "b"]
    assert results.value("a", "image_auroc") == results.value("b", "image_auroc") == 1
    assert results.value("mean", "image_auroc") == 1
    mixed = roc_auc_score(IMAGES["label"], IMAGES["score"])
    assert results.value("mixed", "image_auroc") == pytest.approx(mixed)
    assert results.value("gap", "image_auroc") == pytest.approx(1 - mixed)
    assert results.value("a", "missed_defects") == results.value("mixed", "missed_defects") == 1
    assert np.isnan(results.value("gap", "missed_defects"))
    assert list(results.metrics.columns) == ["category", "metric", "value"]
    assert set(results.metrics["category"]) == {"a", "b", "mean", "mixed", "gap"}
    assert len(results.metrics) == 5 * len(METRICS)


def test_the_mixed_threshold_of_pixels_is_one_for_all() -> None:
    maps = {"a": torch.tensor([[[0.1, 0.2], [0.4, 0.2]]]), "b": torch.tensor([[[0.5, 0.6], [0.9, 0.6]]])}
    mask = torch.tensor([[[0, 0], [1, 0]]])
    tables = {}
    for category, anomaly_map in maps.items():
        metric = PixelMetrics()
        metric.update(anomaly_map, mask)
        tables[category] = metric.table()
    results = summarize(IMAGES, tables, 0.3, None)
    assert [results.value(name, "dsc_best_f1") for name in ("a", "b", "mean")] == [1, 1, 1]
    assert results.value("mixed", "dsc_best_f1") == pytest.approx(0.5)  # at 0.9 the defect of "a" is lost
    assert results.value("gap", "dsc_best_f1") == pytest.approx(0.5)


def test_undefined_metrics_are_left_out_of_the_mean(caplog: pytest.LogCaptureFixture) -> None:
    good = images_of("c", [0.3, 0.4], [0, 0], [np.nan, np.nan])
    results = summarize(pd.concat([IMAGES, good], ignore_index=True), {}, 0.3, None)
    assert np.isnan(results.value("c", "image_auroc"))
    assert results.value("mean", "image_auroc") == 1
    assert results.value("mean", "false_alarms_per_1000") == 250
    assert np.isnan([results.value("mean", metric) for metric in PIXEL_METRICS]).all()
    assert np.isnan(results.value("mixed", "false_alarms_per_1000"))
    results.warn_of_undefined()
    assert "Category c has no image_auroc, image_ap" in caplog.text
    assert "Category mean" not in caplog.text


@pytest.mark.parametrize("name", ["mean", "mixed", "gap"])
def test_a_category_cannot_have_the_name_of_a_summary(name: str) -> None:
    with pytest.raises(ValueError, match=f"cannot be called {name}"):
        summarize(images_of(name, [0.1], [0], [0]), {}, 0.3, None)


def test_curves_are_thin_and_complete() -> None:
    rng = np.random.default_rng(0)
    metric = PixelMetrics()
    metric.update(torch.from_numpy(rng.random((2, 64, 64))), torch.from_numpy(rng.random((2, 64, 64)) < 0.1))
    curves = summarize(IMAGES, {"a": metric.table()}, 0.3, None).curves
    sizes = curves.groupby(["category", "level", "curve"]).size()
    assert sizes.max() <= 1000
    assert sizes["a", "pixel"].index.tolist() == ["precision_recall", "pro", "roc"]
    assert ("b", "pixel", "roc") not in sizes
    assert set(curves["category"]) == {"a", "b", "mixed"}
    for _, curve in curves.groupby(["category", "level", "curve"]):
        assert (curve["threshold"].diff().dropna() < 0).all()
        assert curve[["x", "y"]].stack().between(0, 1).all()


def test_console_table_shows_everything_in_percent() -> None:
    console = Console(width=150, file=io.StringIO())
    console.print(summarize(IMAGES, {}, 0.3, None).console_table())
    text = console.file.getvalue()
    lines = {line.split("│")[1].strip(): line for line in text.splitlines() if line.startswith("│")}
    assert list(lines) == ["a", "b", "mean", "mixed", "gap"]
    assert "│ 100.0 │" in lines["mean"]
    assert "│     - │" in lines["mean"]
    assert "250.0" in lines["mixed"]
    assert "…" not in text


def test_results_before_a_test_are_empty() -> None:
    results = UnifiedResults.empty()
    assert list(results.metrics.columns) == ["category", "metric", "value"]
    assert not len(results.images)
    assert results.categories == []
