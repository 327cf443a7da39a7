import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from example_results import make_results

from anomalib_unias.report.gallery import FALSE_ALARMS, HITS, MISSES, GalleryPicture
from anomalib_unias.report.page import Report, write_report

EVIL = '<script>alert("x")</script>&'
SETTINGS = {"model": {"class": "some.Model", "note": EVIL, "layers": ["a", "b"], "rate": 1e-4}, "data": {"name": EVIL}}


def make_report(categories: dict[str, float], pictures: int = 2) -> Report:
    shown = [GalleryPicture(1.0, f"{EVIL}/{index}.png", EVIL, 1.23456, 0.5, b"jpeg") for index in range(pictures)]
    galleries = {MISSES: shown, FALSE_ALARMS: [], HITS: shown[:1]}
    return Report(make_results(categories), 1.5, galleries, SETTINGS)


def test_names_are_text_not_markup(tmp_path: Path) -> None:
    page = write_report(make_report({EVIL: 0.0, "b": 1.0}), tmp_path / "new" / "folder")
    text = page.read_text(encoding="utf-8")
    assert page == tmp_path / "new" / "folder" / "index.html"
    assert EVIL not in text
    assert text.count("<script>") == 1
    cells = _cells(text)
    assert EVIL in cells
    assert "a, b" in cells
    assert "0.0001" in cells
    assert json.loads((page.parent / "metrics.json").read_text(encoding="utf-8"))["settings"] == SETTINGS


def test_an_earlier_report_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    write_report(make_report({"a": 0.0, "b": 1.0}), tmp_path)
    assert len(list((tmp_path / "gallery").iterdir())) == 3
    write_report(make_report({"a": 0.0, "b": 1.0}, pictures=0), tmp_path)
    assert list((tmp_path / "gallery").iterdir()) == []
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_single_category_is_not_compared_with_itself(tmp_path: Path, names: str) -> None:
    text = write_report(make_report(dict.fromkeys(names, 0.0)), tmp_path).read_text(encoding="utf-8")
    several = len(names) > 1
    assert ("<tfoot>" in text) == several
    assert ('id="category"' in text) == several
    assert ("Mixed:" in text) == several


def test_without_predicted_labels(tmp_path: Path) -> None:
    report = make_report({"a": 0.0})
    report.results.images["predicted"] = float("nan")
    report = replace(report, galleries={MISSES: [], FALSE_ALARMS: [], HITS: []})
    text = write_report(report, tmp_path).read_text(encoding="utf-8")
    assert text.count("Unknown: the model predicts no labels.") == 3


def _cells(page: str) -> list[str]:
    texts: list[str] = []
    parser = HTMLParser()
    parser.handle_data = texts.append  # type: ignore[method-assign]
    parser.feed(page)
    return [text.strip() for text in texts]
