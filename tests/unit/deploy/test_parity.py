"""The comparison of answers, without a model."""

import numpy as np
import pytest

from anomalib_unias.deploy.parity import DEFAULT_PRECISION, REFERENCE, ParityReport, ParityRow, _compare
from anomalib_unias.deploy.predictions import Prediction

FILES = {"a.png": 0, "b.png": 0, "c.png": 1}


def answers(change=0.0, label=None, anomaly_map=True):
    """Scores 0.1, 0.2 and 0.9, maps from 0 to 10; the last of them changed."""
    found = {}
    for file, score in zip(FILES, (0.1, 0.2, 0.9), strict=True):
        pixels = np.linspace(0, 10, 12, dtype=np.float32).reshape(3, 4)
        found[file] = Prediction(score, score > 0.5, pixels if anomaly_map else None)
    last = found["c.png"]
    changed = None if last.anomaly_map is None else last.anomaly_map + np.float32(10 * change)
    found["c.png"] = Prediction(last.score + change, last.label if label is None else label, changed)
    return found


def report(*rows, tolerance=1e-3):
    reference = _compare(REFERENCE, answers(), answers(), FILES)
    return ParityReport("toy", "none", tolerance, [reference, *rows])


def test_equal_answers():
    row = _compare("onnx", answers(), answers(), FILES)
    assert (row.max_score_diff, row.max_map_diff, row.label_flips, row.image_auroc) == (0, 0, 0, 1)
    assert report(row).passed
    assert "the same answer" in str(report(row).table().title)


def test_differences_are_relative_to_the_range():
    """Of maps; of scores if their range exceeds 1."""
    row = _compare("onnx", answers(0.02), answers(), FILES)
    assert row.max_score_diff == pytest.approx(0.02)
    assert row.max_map_diff == pytest.approx(0.02)
    wide = {file: Prediction(100 * one.score, one.label, None) for file, one in answers(0.02).items()}
    expected = {file: Prediction(100 * one.score, one.label, None) for file, one in answers().items()}
    assert _compare("onnx", wide, expected, FILES).max_score_diff == pytest.approx(2 / 80)


@pytest.mark.parametrize(
    ("row", "differs"),
    [
        (ParityRow("x", 2e-3, 0.0, 0, 1.0), True),
        (ParityRow("x", 0.0, 2e-3, 0, 1.0), True),
        (ParityRow("x", 0.0, 0.0, 1, 1.0), True),
        (ParityRow("x", 0.0, 0.0, 0, 0.9), True),
        (ParityRow("x", float("nan"), 0.0, 0, 1.0), True),
        (ParityRow("x", 9e-4, 9e-4, 0, 1.0), False),
    ],
)
def test_each_kind_of_difference_counts(row, differs):
    assert report(row).differs(row) == differs
    assert report(row).passed != differs
    assert ("NOT the same answer" in str(report(row).table().title)) == differs


def test_a_label_that_changes_with_the_score_counts_once():
    row = _compare("onnx", answers(-0.75, label=False), answers(), FILES)
    assert row.label_flips == 1
    assert row.image_auroc == 0.5


def test_an_answer_that_is_no_number_differs_even_from_itself():
    """Of the score alone, and of one pixel alone."""
    score, pixel = answers(), answers()
    score["a.png"] = Prediction(float("nan"), False, score["a.png"].anomaly_map)
    pixel["a.png"].anomaly_map[1, 1] = np.nan
    for broken in (score, pixel):
        for reference in (answers(), broken):
            assert report().differs(_compare("onnx", broken, reference, FILES))


def test_a_difference_within_the_tolerance_does_not_count():
    row = _compare("onnx", answers(0.002), answers(), FILES)
    assert report(row, tolerance=0.01).passed


def test_without_maps_or_classes():
    row = _compare("onnx", answers(anomaly_map=False), answers(anomaly_map=False), {})
    assert np.isnan([row.max_map_diff, row.image_auroc]).all()
    reference = ParityRow(REFERENCE, 0, np.nan, 0, np.nan)
    assert ParityReport("toy", "none", 1e-3, [reference, row]).passed


def test_default_precision_is_shown_and_does_not_count():
    row = _compare(DEFAULT_PRECISION, answers(0.1), answers(), FILES)
    assert report(row).passed
    assert "INFERENCE_PRECISION_HINT" in str(report(row).table().caption)


def test_caption_names_the_stage_that_differs():
    rows = [
        _compare(f"onnx: {stage}", answers(change), answers(), FILES) for stage, change in (("network", 0.1), ("x", 0))
    ]
    assert "It begins to differ in onnx: network." in str(report(*rows).table().caption)


def test_rows_are_appended_to_a_file(tmp_path):
    path = tmp_path / "new" / "parity.csv"
    for _ in range(2):
        report().write(path)
    lines = path.read_text().splitlines()
    assert lines[0] == "model,calibration,stage,max_score_diff,max_map_diff,label_flips,image_auroc"
    assert lines[1:] == ["toy,none,lightning predict,0.0,0.0,0,1.0"] * 2
