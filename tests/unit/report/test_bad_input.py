"""Test sets that lack something: a report is written, and what does not exist is null."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from anomalib_unias.evaluation.metrics_file import check_metrics
from anomalib_unias.metrics import PixelMetrics, summarize
from anomalib_unias.metrics.collection import Collection
from anomalib_unias.metrics.scored_image import ScoredImage
from anomalib_unias.report.page import Report, write_report


def image(index: int, label: int, category: str = "a", maps: bool = True, mask: bool = True) -> ScoredImage:
    rng = np.random.default_rng(index)
    truth = torch.zeros(8, 8, dtype=torch.bool)
    truth[2:4, 2:5] = bool(label)
    anomaly_map = torch.from_numpy(rng.random((8, 8))) + truth
    score = float(anomaly_map.max())
    return ScoredImage(
        category=category,
        image_path=f"{category}/{['good', 'hole'][label]}/{index}.png",
        label=label,
        score=score,
        normalized_score=score / 2,
        predicted=float(score > 1),
        anomaly_map=anomaly_map if maps else None,
        mask=truth if mask and maps else None,
        predicted_mask=anomaly_map > 1 if maps else None,
    )


SETS = {
    "no defects": [image(index, 0) for index in range(4)],
    "no good images": [image(index, 1) for index in range(4)],
    "one good image": [image(0, 0)],
    "one defective image": [image(0, 1)],
    "masks missing in part": [image(index, index % 2, mask=index > 3) for index in range(8)],
    "no masks of defects": [image(index, index % 2, mask=index % 2 == 0) for index in range(8)],
    "no maps": [image(index, index % 2, maps=False) for index in range(4)],
    "categories of one class": [image(index, index % 2, "ab"[index % 2]) for index in range(8)],
}


CASES = [*((name, 1.0) for name in SETS), ("masks missing in part", float("nan"))]


@pytest.mark.parametrize(("name", "threshold"), CASES)
def test_a_report_is_written(name: str, threshold: float, tmp_path: Path) -> None:
    images = SETS[name]
    collection = Collection(PixelMetrics, keep_pixels="sketch")
    for each in images:
        known = each if threshold == 1 else each._replace(predicted=float("nan"), predicted_mask=None)
        collection.add(known)
    results = summarize(collection.images(), collection.pixel_tables(torch.device("cpu")), 0.3, 2**17)
    settings = {"model": {"class": "some.Model"}, "data": {}}
    page = write_report(Report(results, threshold, {}, settings), tmp_path)
    assert not re.search(r"\bnan\b", page.read_text(encoding="utf-8"), re.IGNORECASE)

    content = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    check_metrics(content)
    labels = np.array([each.label for each in images])
    deployed = {
        row["level"]: row for row in content["error_rates"] if (row["category"], row["at"]) == ("mixed", "deployed")
    }
    row = deployed["image"]
    assert (row["good"], row["defective"]) == (int((labels == 0).sum()), int(labels.sum()))
    assert (row["miss_rate"] is None) == (not labels.any() or threshold != 1)
    assert (row["false_alarm_rate"] is None) == (bool(labels.all()) or threshold != 1)
    known = [each for each in images if each.label and each.mask is not None]
    assert len(pd.read_csv(tmp_path / "regions.csv")) == len(known)
    assert ("region" in deployed) == bool(known)
    if known:
        assert (deployed["region"]["misses"] is None) == (threshold != 1)
        assert deployed["region"]["good"] == sum(each.label == 0 and each.mask is not None for each in images)


def test_a_score_that_is_no_number_is_refused() -> None:
    collection = Collection(PixelMetrics, keep_pixels="sketch")
    with pytest.raises(ValueError, match=r"NaN for image a/good/0\.png"):
        collection.add(image(0, 0)._replace(score=float("nan")))
