"""Report of an inspection, made from its file of JSON lines."""

from collections.abc import Mapping
from heapq import nlargest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomalib_unias.deploy.errors import InspectionError
from anomalib_unias.deploy.results import last_lines
from anomalib_unias.deploy.throughput_inferencer import Inspected, ThroughputInferencer
from anomalib_unias.report.inspection_page import write_inspection
from anomalib_unias.report.pictures import draw_picture


def report_inspection(
    line: ThroughputInferencer, source: str | Path, output: Path, folder: Path, pictures: int = 12
) -> Path | None:
    """Write a page with the images of the highest scores, counts, and a histogram of the scores.

    For the pictures, the image files are inspected once more.

    Args:
        line (ThroughputInferencer): The model.
        source (str | Path): Inspected source, for the heading.
        output (Path): File of JSON lines.
        folder (Path): Folder of the page, created if it does not exist.
        pictures (int): Number of images that are shown. Defaults to ``12``.

    Returns:
        Path | None: The page; ``None`` if the file has no lines.

    Raises:
        InspectionError: If a line is not a result.
        OSError: If the page cannot be written.
    """
    lines = last_lines(output)
    if not lines:
        return None
    worst = _highest(lines, pictures)
    found = {result.source.name: _picture(result) for result in line.inspect(worst)}
    return write_inspection(
        list(lines.values()),
        found,
        folder,
        model=line.info.get("model_name", "the model"),
        source=str(source),
        threshold=float(line.info.get("image_threshold", "nan")),
    )


def require_apart(source: Path, folder: Path, output: Path | None) -> None:
    """Check before an inspection that a report can be made of it.

    Args:
        source (Path): Inspected source.
        folder (Path): Folder of the report.
        output (Path | None): File of JSON lines; ``None`` raises an error.

    Raises:
        InspectionError: If ``output`` is ``None``, or if the pictures of the report would be inspected.
    """
    if output is None:
        msg = "A report is made of the lines of the inspection: give a file for them, --output results.jsonl."
        raise InspectionError(msg)
    if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
        msg = f"{folder} lies in {source}, where its pictures would be inspected as well. Give a folder elsewhere."
        raise InspectionError(msg)


def _highest(lines: Mapping[str, dict[str, Any]], count: int) -> list[str]:
    results = [name for name, entry in lines.items() if "error" not in entry]
    return nlargest(count, results, key=lambda name: lines[name]["score"])


def _picture(result: Inspected) -> bytes | None:
    if result.pixels is None:
        return None
    image = torch.from_numpy(result.pixels).permute(2, 0, 1).float() / 255
    anomaly_map = result.outputs.get("anomaly_map")
    if anomaly_map is None:
        return draw_picture(image, None, None)
    plane = np.clip(anomaly_map.reshape(anomaly_map.shape[-2:]), 0, 1).astype(np.float32)
    return draw_picture(image, torch.from_numpy(plane), None)
