"""The page of a report and the files that it shows."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from anomalib_unias.evaluation.evaluation import Evaluation
from anomalib_unias.evaluation.metrics_file import write_results
from anomalib_unias.metrics.unified_results import GAP, MEAN, MIXED, UnifiedResults
from anomalib_unias.report.evaluation_figures import draw_aupimo, draw_recall_by_size
from anomalib_unias.report.evaluation_tables import (
    error_table,
    interval_table,
    kind_table,
    rows_by,
    size_table,
    smallest_table,
    suspect_table,
)
from anomalib_unias.report.figures import CURVE_KINDS, draw_curves, draw_levels, save_svg
from anomalib_unias.report.gallery import FALSE_ALARMS, GALLERIES, HITS, MISSES, GalleryPicture
from anomalib_unias.report.settings import Settings
from anomalib_unias.report.tables import DASH, metrics_table, number, threshold_table, write_metrics
from anomalib_unias.report.templates import template
from anomalib_unias.report.threshold_page import write_threshold_page

_TITLES = {
    MISSES: ("Worst misses", "Defective images called good, those with the lowest score first."),
    FALSE_ALARMS: ("Worst false alarms", "Good images called defective, those with the highest score first."),
    HITS: ("Typical hits", "Defective images called defective, drawn at random."),
}
_HEADLINES = (
    ("image_auroc", "Image AUROC", 100),
    ("pixel_ap", "Pixel AP", 100),
    ("aupro", "AUPRO", 100),
    ("false_alarms_per_1000", "False alarms per 1000 good", 1),
    ("missed_defect_rate", "Missed defects %", 100),
)


@dataclass(frozen=True)
class Report:
    """What a report shows.

    Args:
        results (UnifiedResults): Results of the test.
        threshold (float): Threshold of the raw image scores, NaN if there is none.
        galleries (dict[str, list[GalleryPicture]]): Pictures by gallery.
        settings (Settings): Settings of the run by section.
    """

    results: UnifiedResults
    threshold: float
    galleries: dict[str, list[GalleryPicture]]
    settings: Settings


class _Headline(NamedTuple):
    title: str
    mixed: str
    mean: str
    gap: str
    interval: str


class _Card(NamedTuple):
    file: str
    category: str
    image_path: str
    score: str
    normalized_score: str


def write_report(report: Report, folder: Path) -> Path:
    """Write a report; files of an earlier one in the same folder are replaced.

    Args:
        report (Report): What to show.
        folder (Path): Folder of the report, created if it does not exist.

    Returns:
        Path: The page, ``index.html``.
    """
    for name in ("figures", "gallery"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for old in [*(folder / name).glob("*.svg"), *(folder / name).glob("*.jpg")]:
            old.unlink()
    evaluation = Evaluation.of(report.results, report.threshold)
    write_metrics(report.results, folder)
    write_results(report.results, evaluation, report.threshold, report.settings, folder)
    cards = {name: list(_save_pictures(name, report.galleries.get(name, []), folder)) for name in GALLERIES}
    pictures = {(card.category, card.image_path): card.file for shown in cards.values() for card in shown}
    write_threshold_page(report.results, report.threshold, pictures, folder)
    page = folder / "index.html"
    page.write_text(_render(report, evaluation, cards, folder), encoding="utf-8")
    return page


def _render(report: Report, evaluation: Evaluation, cards: dict[str, list[_Card]], folder: Path) -> str:
    results = report.results
    return template("index.html").render(
        model=report.settings["model"]["class"].rpartition(".")[2],
        data=report.settings["data"].get("name"),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        good=int((results.images["label"] == 0).sum()),
        defective=int((results.images["label"] == 1).sum()),
        categories=results.categories,
        headlines=[_headline(results, evaluation, *headline) for headline in _HEADLINES],
        metrics=metrics_table(results),
        at_threshold=threshold_table(results),
        threshold=number(report.threshold),
        image_errors=error_table(evaluation, "image"),
        region_errors=error_table(evaluation, "region"),
        sizes=size_table(evaluation, "share"),
        areas=size_table(evaluation, "area"),
        smallest=smallest_table(evaluation),
        kinds=kind_table(evaluation),
        intervals=interval_table(evaluation),
        suspects=suspect_table(evaluation),
        size_figure=_save(draw_recall_by_size(evaluation), "figures/recall_by_size.svg", folder),
        aupimo_figure=_save(draw_aupimo(results.images), "figures/aupimo.svg", folder),
        levels=_save(draw_levels(results, report.threshold), "figures/levels.svg", folder),
        curves=list(_save_curves(results, folder)),
        galleries=[(name, *title, cards[name]) for name, title in _TITLES.items()],
        predicts_labels=not results.images["predicted"].isna().any(),
        settings={name: _shown_settings(section) for name, section in report.settings.items()},
    )


def _headline(results: UnifiedResults, evaluation: Evaluation, metric: str, title: str, factor: float) -> _Headline:
    values = {name: number(factor * results.value(name, metric), ".1f") for name in (MIXED, MEAN, GAP)}
    interval = rows_by(evaluation.metrics, "category", "metric")[MIXED, metric]
    low, high = factor * interval["low"], factor * interval["high"]
    return _Headline(title, **values, interval="" if np.isnan(low) else f"95 %: {low:.1f} to {high:.1f}")


def _save(figure: Figure | None, file: str, folder: Path) -> str:
    """Save a figure and return its file name, empty if there is nothing to draw."""
    if figure is None:
        return ""
    save_svg(figure, folder / file)
    return file


def _save_curves(results: UnifiedResults, folder: Path) -> Iterator[tuple[str, str]]:
    for kind in CURVE_KINDS:
        figure = draw_curves(results, kind)
        if figure is not None:
            file = f"figures/{kind.level}_{kind.curve}.svg"
            save_svg(figure, folder / file)
            yield file, kind.title


def _save_pictures(gallery: str, pictures: list[GalleryPicture], folder: Path) -> Iterator[_Card]:
    for index, picture in enumerate(pictures):
        file = f"gallery/{gallery}_{index:03}.jpg"
        (folder / file).write_bytes(picture.jpeg)
        scores = number(picture.score), number(picture.normalized_score, ".3f")
        yield _Card(file, picture.category, picture.image_path, *scores)


def _shown_settings(section: dict[str, Any]) -> dict[str, str]:
    def text(value: Any) -> str:
        if value is None:
            return DASH
        if isinstance(value, float):
            return number(value, ".6g")
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    return {key: text(value) for key, value in section.items()}
