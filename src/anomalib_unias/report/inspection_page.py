"""The page about an inspection, whose images have no known true labels."""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from anomalib_unias.report.evaluation_tables import TextTable
from anomalib_unias.report.figures import draw_inspected, save_svg
from anomalib_unias.report.tables import DASH, number
from anomalib_unias.report.templates import template

_SHOWN_FOLDERS = 50


class _Card(NamedTuple):
    file: str
    image: str
    score: str
    label: str


def write_inspection(
    lines: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, bytes | None],
    folder: Path,
    *,
    model: str,
    source: str,
    threshold: float,
) -> Path:
    """Write ``index.html``, ``scores.svg`` and a folder of pictures; files of an earlier page are replaced.

    Args:
        lines (Sequence[Mapping[str, Any]]): Result line of the inspection for each image, at least one.
        pictures (Mapping[str, bytes | None]): JPEG of the worst images by name, in the order of the page; ``None``
            without a picture.
        folder (Path): Folder, created if it does not exist.
        model (str): Name of the model on the page.
        source (str): What was inspected.
        threshold (float): Threshold of the image scores; NaN if it is not known.

    Returns:
        Path: The page.
    """
    (folder / "gallery").mkdir(parents=True, exist_ok=True)
    for old in (folder / "gallery").glob("*.jpg"):
        old.unlink()
    table = _table(lines)
    save_svg(draw_inspected(table, threshold), folder / "scores.svg")
    text = template("inspection.html").render(
        model=model,
        source=_shown(source),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        headlines=_counts(table),
        folders=_folder_table(table),
        all_folders=table["folder"].nunique(),
        threshold="" if np.isnan(threshold) else number(threshold),
        cards=_save_pictures(pictures, table.set_index("image"), folder),
        errors=[_shown(str(error)) for error in table["error"].dropna().head(_SHOWN_FOLDERS)],
    )
    page = folder / "index.html"
    page.write_text(text, encoding="utf-8")
    return page


def _table(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    rows = [
        {
            "image": line["image"],
            "folder": os.path.dirname(line["image"].rpartition("#")[0] or line["image"]) or ".",  # noqa: PTH120
            "score": float(line.get("score", np.nan)),
            "label": np.nan if line.get("label") is None else float(line["label"]),
            "remarks": bool(line.get("remarks")),
            "out_of_range": bool(line.get("out_of_range")),
            "error": line.get("error"),
        }
        for line in lines
    ]
    return pd.DataFrame(rows)


def _counts(table: pd.DataFrame) -> dict[str, int]:
    """Numbers of images, by their headings on the page."""
    failed = table["error"].notna()
    return {
        "Images": len(table),
        "Good": int((table["label"] == 0).sum()),
        "Anomalous": int((table["label"] == 1).sum()),
        "Without a label": int((table["label"].isna() & ~failed).sum()),
        "Without a result": int(failed.sum()),
        "With remarks": int(table["remarks"].sum()),
        "Out of range": int(table["out_of_range"].sum()),
    }


def _folder_table(table: pd.DataFrame) -> TextTable:
    """Counts of the folders, those with the largest share of anomalous images first."""
    groups = {str(name): group for name, group in table.groupby("folder")}
    worst = sorted(groups, key=lambda name: -float(np.nan_to_num(groups[name]["label"].mean(), nan=-1)))
    rows = [
        [_shown(name), *map(str, _counts(groups[name]).values()), number(groups[name]["score"].max())]
        for name in worst[:_SHOWN_FOLDERS]
    ]
    return TextTable("folders", ["Folder", *_counts(table), "Highest score"], rows)


def _save_pictures(pictures: Mapping[str, bytes | None], table: pd.DataFrame, folder: Path) -> list[_Card]:
    labels = {0.0: "good", 1.0: "anomalous"}
    cards = []
    for index, (image, jpeg) in enumerate(pictures.items()):
        row: dict[Any, Any] = table.loc[image].to_dict()
        file = "" if jpeg is None else f"gallery/{index:03}.jpg"
        if jpeg is not None:
            (folder / file).write_bytes(jpeg)
        cards.append(_Card(file, _shown(image), number(row["score"]), labels.get(row["label"], DASH)))
    return cards


def _shown(name: str) -> str:
    """A name as text that can be written, because file names may have bytes that are not UTF-8."""
    return name.encode(errors="backslashreplace").decode()
