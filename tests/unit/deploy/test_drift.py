import json
from pathlib import Path

import numpy as np
import pytest

from anomalib_unias.deploy.drift import DriftWatch
from anomalib_unias.deploy.errors import InspectionError


def sentences_of(watch: DriftWatch, scores: np.ndarray) -> list[tuple[int, str]]:
    """Sentences, and after how many images they came."""
    answers = ((number, watch.add(score)) for number, score in enumerate(scores, start=1))
    return [(number, sentence) for number, sentence in answers if sentence]


def test_no_warning_while_nothing_changes() -> None:
    """10,000 images, among them two percent of defects: two hundred checks."""
    rng = np.random.default_rng(0)
    scores = np.where(rng.random(10_000) < 0.02, 1, rng.beta(2, 8, 10_000))
    assert sentences_of(DriftWatch(rng.beta(2, 8, 150)), scores) == []


@pytest.mark.parametrize(("change", "how"), [(0.1, "higher"), (-0.08, "lower")])
def test_drift_is_reported_once_and_its_end(change: float, how: str) -> None:
    rng = np.random.default_rng(0)
    reference, before, during, after = (rng.normal(0.3, 0.05, count) for count in (100, 300, 300, 300))
    (first, begin), (last, end) = sentences_of(
        DriftWatch(reference, window=80), np.concatenate([before, during + change, after])
    )
    assert 300 < first <= 380
    assert 600 < last <= 700
    assert f"The scores of the last 80 images are {how} than in validation (median" in begin
    assert "Check lighting, camera and material" in begin
    assert end == "The scores of the last 80 images are again like those of validation."


def test_drift_of_the_spread_alone() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(0.3, 0.05, 400).round(2)
    assert len(sentences_of(DriftWatch(reference), 0.3 + 3 * (rng.choice(reference, 200) - 0.3))) == 1


def test_reference_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "validation.jsonl"
    lines = [{"image": f"{number}.png", "score": number / 40} for number in range(40)]
    file.write_text("\n".join(json.dumps(line) for line in [*lines, {"image": "x.png", "error": "damaged"}]) + "\n")
    assert len(sentences_of(DriftWatch.read(file, window=30), np.full(30, 0.99))) == 1
    with file.open("a") as opened:
        opened.write("nonsense\n")
    with pytest.raises(
        InspectionError, match=r"Line 42 of .*validation.jsonl is no result of an inspection: b'nonsense'"
    ):
        DriftWatch.read(file)
    with pytest.raises(FileNotFoundError, match="wrote about normal validation images"):
        DriftWatch.read(tmp_path / "none.jsonl")


@pytest.mark.parametrize(("count", "window"), [(29, 200), (100, 29)])
def test_too_few_scores(count: int, window: int) -> None:
    with pytest.raises(InspectionError, match="30 scores or more"):
        DriftWatch(np.zeros(count), window)
