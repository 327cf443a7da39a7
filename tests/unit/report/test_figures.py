from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from example_results import make_results
from sklearn.metrics import auc

from anomalib_unias.report.figures import CURVE_KINDS, draw_curves, draw_levels, save_svg

LEVELS = {"a": 0.0, "b$x": 1.0}


@pytest.mark.parametrize("kind", CURVE_KINDS, ids=lambda kind: f"{kind.level}_{kind.curve}")
def test_a_line_per_category_and_one_for_all(kind) -> None:
    results = make_results(LEVELS)
    (axes,) = draw_curves(results, kind).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [f"{name}  {100 * results.value(name, kind.metric):.1f}" for name in ("a", "b$x", "mixed")]
    for line, name in zip(axes.lines, ("a", "b$x", "mixed"), strict=True):
        x, y = line.get_data()
        assert (x[0], x[-1]) == (0, 1)
        if kind.curve == "roc":
            assert auc(x, y) == pytest.approx(results.value(name, kind.metric), abs=1e-6)
        if kind.curve == "precision_recall":
            assert np.sum(np.diff(x) * y[1:]) == pytest.approx(results.value(name, kind.metric), abs=1e-6)


def test_undefined_curves_are_left_out() -> None:
    results = make_results(LEVELS, defects=False)
    assert [draw_curves(results, kind) for kind in CURVE_KINDS] == [None] * len(CURVE_KINDS)


def test_levels_share_one_axis_and_the_threshold() -> None:
    results = make_results(LEVELS)
    rows = draw_levels(results, 1.55).axes
    assert [axes.get_ylabel() for axes in rows] == ["a", "b$x", "mixed"]
    assert len({axes.get_xlim() for axes in rows}) == 1
    assert rows[0].get_xlim()[0] <= 0
    assert rows[0].get_xlim()[1] >= 2.7
    for axes in rows:
        _, common = (line.get_xdata()[0] for line in axes.lines)
        assert common == 1.55
    assert [axes.lines[0].get_xdata()[0] for axes in rows] == pytest.approx([0.85, 1.85, 1.35])
    assert rows[1].texts[0].get_text() == "0 of 4 good: false alarm\n0 of 4 defective: missed"
    assert rows[0].texts[0].get_text().endswith("2 of 4 defective: missed")


def test_levels_without_threshold_defects_or_labels() -> None:
    results = make_results({"a": 0.0}, defects=False)
    results.images["predicted"] = np.nan
    results.images["score"] = 3.0
    (axes,) = draw_levels(results, np.nan).axes
    assert list(axes.lines) == []
    assert axes.texts[0].get_text() == ""


def test_files_are_reproducible(tmp_path: Path) -> None:
    results = make_results({f"{index:02}": index for index in range(3)})
    for name in ("first.svg", "second.svg"):
        save_svg(draw_levels(results, 1.55), tmp_path / name)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
    assert ElementTree.parse(tmp_path / "first.svg").getroot().tag.endswith("svg")
