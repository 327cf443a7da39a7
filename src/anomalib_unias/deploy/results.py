"""Writes and reads the results of an inspection: JSON lines, and pictures of the anomalies."""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from anomalib_unias.deploy.errors import InspectionError, UnreadableImageError
from anomalib_unias.deploy.folders import State
from anomalib_unias.deploy.overlays import draw_overlay, overlay_path
from anomalib_unias.deploy.regions import Region, find_regions
from anomalib_unias.deploy.sinks import Sink
from anomalib_unias.deploy.throughput_inferencer import Inspected

logger = logging.getLogger(__name__)


class ResultWriter:
    """Writes the results of an inspection, and counts what could not be written.

    Lines that cannot be written to the file are tried again with the next line and at the end. Lines are complete: if
    the process is killed, only the last one can be cut off.

    Args:
        source (Path): Inspected source.
        output (Path | None): File to append lines to; ``None`` for the standard output.
        overlays (Path | None): Folder for pictures; ``None`` for none.
        sinks (Sequence[Sink]): Also get each line, and are closed at the end. Defaults to none.

    Attributes:
        failed (set[str]): Images whose last result is an error.
        written (int): Number of lines so far.
        remark_count (int): Number of images with remarks.
        lost_overlays (int): Number of pictures that could not be written.
    """

    def __init__(self, source: Path, output: Path | None, overlays: Path | None, sinks: Sequence[Sink] = ()) -> None:
        self.failed: set[str] = set()
        self.written = 0
        self.remark_count = 0
        self.lost_overlays = 0
        self._folder = source if source.is_dir() else source.parent
        self._overlays = overlays
        self._sinks = sinks
        self._warned: set[str] = set()
        # Without a buffer, it is known which bytes have been written.
        self._file = output.open("ab", buffering=0) if output else None
        self._pending = b""

    def __enter__(self) -> "ResultWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Try to write the remaining lines, then close the file and the sinks."""
        self._flush()
        if self._file is not None:
            self._file.close()
        for sink in self._sinks:
            sink.close()

    @property
    def lost_lines(self) -> int:
        """Number of lines that could not be written so far."""
        return self._pending.count(b"\n")

    def write(self, result: Inspected) -> None:
        """Write the picture and the line of an image.

        Args:
            result (Inspected): Result or error.
        """
        result = with_finite_score(result)
        name = result.source.name
        # In this order: an image that has a line is not inspected again.
        if self._overlays is not None and result.pixels is not None:
            self._write_overlay(self._overlays / overlay_path(name, self._folder), result.pixels, result)
        entry = result_line(result)
        line = json.dumps(entry).encode()
        self._pending += line + b"\n"
        self._flush()
        for sink in self._sinks:
            sink.publish(line)
        if remarks := entry.get("remarks"):
            self.remark_count += 1
            self._warn_once("Remarks", f"{name!r} is {' and '.join(remarks)}: check camera and lighting.")
        self.written += 1
        if result.error is None:
            self.failed.discard(name)
        else:
            self.failed.add(name)

    def _flush(self) -> None:
        if self._file is None:
            lines, self._pending = self._pending, b""
            sys.stdout.write(lines.decode())
            sys.stdout.flush()
            return
        try:
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]
        except OSError as error:
            self._warn_once("Lines", f"Lines cannot be written; each new line is another attempt: {error}")

    def _write_overlay(self, path: Path, pixels: np.ndarray, result: Inspected) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not cv2.imwrite: it ends the process if the name is not UTF-8, and does not say why it failed.
            path.write_bytes(_png(draw_overlay(pixels, _plane(result, "anomaly_map"), _regions(result))))
        except (OSError, cv2.error) as error:
            _remove(path)
            self._warn_once("Pictures", f"The picture of {result.source.name!r} cannot be written: {error}")
            self.lost_overlays += 1

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%s", message)

    def summary(self) -> str:
        """Summarise the number of images and of problems.

        Returns:
            str: One line.
        """
        counts = {
            "without a result": len(self.failed),
            "with remarks": self.remark_count,
            "pictures that could not be written": self.lost_overlays,
            "lines that could not be written": self.lost_lines,
            **{f"results that did not arrive at {sink.name}": sink.undelivered for sink in self._sinks},
        }
        bad = "".join(f", {count} {what}" for what, count in counts.items() if count)
        return f"{self.written} images{bad}."

    @property
    def problems(self) -> int:
        """Number of images without a result, and of pictures and lines that could not be written or delivered."""
        undelivered = sum(sink.undelivered for sink in self._sinks)
        return len(self.failed) + self.lost_overlays + self.lost_lines + undelivered


def result_line(result: Inspected) -> dict[str, Any]:
    """Get the JSON line of an image.

    Args:
        result (Inspected): Result or error.

    Returns:
        dict[str, Any]: ``image`` and ``error``; or ``image``, ``score``, ``label`` (whether anomalous), ``boxes``
        ``[left, top, width, height]`` and their ``area`` in pixels of the image, ``milliseconds``,
        ``out_of_range``, ``remarks`` on the image, and ``bytes`` and ``modified`` of its file. ``None`` means that the
        model does not predict it, or that there is no file.
    """
    if result.error is not None or result.pixels is None:
        return {"image": result.source.name, "error": str(result.error)}
    regions = _regions(result)
    return {
        "image": result.source.name,
        "score": round(result.score, 6),
        "label": _flag(result, "pred_label"),
        "boxes": None if regions is None else [[r.left, r.top, r.width, r.height] for r in regions],
        "area": None if regions is None else sum(region.area for region in regions),
        "milliseconds": round(result.milliseconds, 3),
        "out_of_range": _flag(result, "out_of_range"),
        "remarks": result.remarks,
        **dict(zip(("bytes", "modified"), result.state or (None, None), strict=True)),
    }


def with_finite_score(result: Inspected) -> Inspected:
    """Turn a result whose score is not finite into an error: NaN would count as good with any threshold.

    Args:
        result (Inspected): Result or error.

    Returns:
        Inspected: The same, or an error.
    """
    if result.error is not None or np.isfinite(result.score):
        return result
    error = UnreadableImageError(f"{result.source.name}: the score of the model is {result.score}, not a finite number")
    return replace(result, outputs={}, pixels=None, error=error)


def images_with_results(output: Path) -> dict[str, State | None]:
    """Read which images have a result already, to skip them. The last line of an image counts.

    If the last line of the file is cut off, because the process was killed, it is removed from the file.

    Args:
        output (Path): File of JSON lines, perhaps of an inspection that was killed.

    Returns:
        dict[str, State | None]: Name of the image -> size and time of the inspected file, ``None`` if the line does
        not contain them.

    Raises:
        InspectionError: If another line is not a result.
    """
    content = output.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if len(complete) < len(content):
        logger.warning("The last line of %s is cut off. It is removed, and its image inspected again.", output)
        # Truncated, not rewritten: the file must not be lost if this process is killed.
        with output.open("r+b") as file:
            file.truncate(len(complete))
    return {name: _state(entry) for name, entry in last_results(output).items()}


def last_results(output: Path) -> dict[str, dict[str, Any]]:
    """Read the results of an inspection. The last line of an image counts.

    Args:
        output (Path): File of JSON lines.

    Returns:
        dict[str, dict[str, Any]]: Name of the image -> line as in :func:`result_line`, without images whose last line
        is an error.
    """
    return {name: entry for name, entry in last_lines(output).items() if "error" not in entry}


def last_lines(output: Path) -> dict[str, dict[str, Any]]:
    """Read the last line of each image of an inspection.

    Args:
        output (Path): File of JSON lines.

    Returns:
        dict[str, dict[str, Any]]: Name of the image -> line as in :func:`result_line`.

    Raises:
        InspectionError: If a line is not a result.
    """
    lines = output.read_bytes().splitlines()
    entries = [_entry(output, number, line) for number, line in enumerate(lines, start=1)]
    return {entry["image"]: entry for entry in entries}


def _state(entry: dict[str, Any]) -> State | None:
    size, modified = entry.get("bytes"), entry.get("modified")
    return (size, modified) if isinstance(size, int) and isinstance(modified, int | float) else None


def _entry(output: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if isinstance(entry, dict) and isinstance(entry.get("image"), str) and entry.keys() & {"score", "error"}:
        return entry
    msg = (
        f"Line {number} of {output} is no result of an inspection: {line[:60]!r}. Remove this line, and its image is "
        "inspected again; or give another output file."
    )
    raise InspectionError(msg)


def _png(picture: np.ndarray) -> bytes:
    written, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not written:
        msg = f"no PNG can be made of {picture.shape[0]}x{picture.shape[1]} pixels"
        raise OSError(msg)
    return data.tobytes()


def _remove(path: Path) -> None:
    """Remove a partly written file, if there is one."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        logger.debug("%r cannot be removed.", str(path))


def _regions(result: Inspected) -> list[Region] | None:
    mask = _plane(result, "pred_mask")
    return None if mask is None or result.pixels is None else find_regions(mask, result.pixels.shape[:2])


def _plane(result: Inspected, name: str) -> np.ndarray | None:
    values = result.outputs.get(name)
    return None if values is None else values.reshape(values.shape[-2:])


def _flag(result: Inspected, name: str) -> bool | None:
    value = result.outputs.get(name)
    return None if value is None else bool(np.squeeze(value))
