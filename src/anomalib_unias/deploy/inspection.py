"""An inspection: one JSON line for each image of a folder, a list or a video."""

import json
import logging
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
from anomalib.visualization import visualize_anomaly_map
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from anomalib_unias.deploy.regions import find_regions
from anomalib_unias.deploy.sources import ImageSource, find_images, watch_folder
from anomalib_unias.deploy.throughput_inferencer import Inspected, ThroughputInferencer

logger = logging.getLogger(__name__)

_HEAT = 0.4
_BOX_COLOR = (255, 0, 0)


class StopRequest:
    """Whether the process was asked to end, by SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self.received = False

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Note the first signal; a second one ends the process at once. Other threads cannot listen, and do not."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(*_: Any) -> None:
            self.received = True
            for number, handler in before.items():
                signal.signal(number, handler)

        for number in before:
            signal.signal(number, note)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def until(self, images: Iterable[ImageSource | None]) -> Iterator[ImageSource | None]:
        """Pass images on until then. Those that were passed on are still computed.

        Args:
            images (Iterable[ImageSource | None]): Images to inspect.

        Yields:
            ImageSource | None: The same.
        """
        for image in images:
            if self.received:
                return
            yield image


def run_inspection(
    line: ThroughputInferencer,
    source: Path,
    *,
    output: Path | None = None,
    overlays: Path | None = None,
    watch: bool = False,
    resume: bool = False,
) -> int:
    """Inspect images, and write one JSON line for each.

    Args:
        line (ThroughputInferencer): The model.
        source (Path): Folder, list, video or image, see :func:`find_images`.
        output (Path | None): File for the lines. Defaults to ``None``: the standard output.
        overlays (Path | None): Folder for pictures of the anomaly maps and regions. Defaults to ``None``: none.
        watch (bool): Go on with images that are added to the folder, until SIGINT or SIGTERM. Defaults to ``False``.
        resume (bool): Append to ``output``, leaving out the images that have a result there.
            Defaults to ``False``.

    Returns:
        int: Number of images that could not be inspected; each has a line with an ``error``.

    Raises:
        FileExistsError: If there is an output already and ``resume`` was not said.
        FileNotFoundError: If there is no such source.
    """
    done = _results_in(output, resume)
    errors = 0
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest().listening())
        lines = stack.enter_context(output.open("a")) if output else sys.stdout
        progress = stack.enter_context(_progress())
        images, count = _images(source, watch, done)
        task = progress.add_task("inspecting", total=count)
        for result in line.inspect(stop.until(images)):
            _write(lines, describe(result))
            if overlays and result.error is None:
                _write_overlay(overlays / f"{_file_name(result.source.name)}.png", result)
            errors += result.error is not None
            progress.advance(task)
    if stop.received:
        logger.warning("Stopped by a signal; all images that were begun are written.")
    return errors


def describe(result: Inspected) -> dict[str, Any]:
    """Get the JSON line of an image.

    Args:
        result (Inspected): Result or error.

    Returns:
        dict[str, Any]: ``image`` and ``error``; or ``image``, ``score``, ``label`` (whether anomalous), ``boxes``
        ``[left, top, width, height]`` and their ``area`` in pixels of the image, ``milliseconds``, and
        ``out_of_range``. ``None`` stands for what the model does not tell.
    """
    if result.error is not None or result.pixels is None:
        return {"image": result.source.name, "error": str(result.error)}
    mask = result.outputs.get("pred_mask")
    regions = None if mask is None else find_regions(_plane(mask), result.pixels.shape[:2])
    return {
        "image": result.source.name,
        "score": round(float(np.squeeze(result.outputs["pred_score"])), 6),
        "label": _flag(result, "pred_label"),
        "boxes": None if regions is None else [[r.left, r.top, r.width, r.height] for r in regions],
        "area": None if regions is None else sum(region.area for region in regions),
        "milliseconds": round(result.milliseconds, 3),
        "out_of_range": _flag(result, "out_of_range"),
    }


def draw_overlay(result: Inspected) -> np.ndarray:
    """Draw the anomaly map and the boxes of the regions over the image.

    Args:
        result (Inspected): Result without an error.

    Returns:
        np.ndarray: RGB ``(H, W, 3)``, uint8, of the size of the image.
    """
    picture = np.array(result.pixels)
    if (anomaly_map := result.outputs.get("anomaly_map")) is not None:
        heat = np.array(visualize_anomaly_map(np.clip(_plane(anomaly_map), 0, 1).astype(np.float32)))
        heat = cv2.resize(heat, picture.shape[1::-1])
        picture = cv2.addWeighted(picture, 1 - _HEAT, heat, _HEAT, 0)
    for left, top, width, height in describe(result)["boxes"] or ():
        cv2.rectangle(picture, (left, top), (left + width - 1, top + height - 1), _BOX_COLOR, 2)
    return picture


def _images(source: Path, watch: bool, done: set[str]) -> tuple[Iterator[ImageSource | None], int | None]:
    """The images without those that are done, and their number if it is known."""
    if watch:
        return (image for image in watch_folder(source) if image is None or image.name not in done), None
    found = find_images(source)
    if source.is_dir() or source.suffix == ".txt":
        listed = [image for image in found if image.name not in done]
        return iter(listed), len(listed)
    return (image for image in found if image.name not in done), None


def _results_in(output: Path | None, resume: bool) -> set[str]:
    """Names of the images that have a result. A line that was cut off is removed."""
    if output is None or not output.exists():
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
        return set()
    if not resume:
        msg = f"{output} exists: give --resume true to go on with it, or another file."
        raise FileExistsError(msg)
    complete, _, _ = output.read_bytes().rpartition(b"\n")
    output.write_bytes(complete + b"\n" if complete else b"")
    entries = (json.loads(line) for line in complete.splitlines())
    return {entry["image"] for entry in entries if "error" not in entry}


def _write(lines: TextIO, entry: dict[str, Any]) -> None:
    lines.write(json.dumps(entry) + "\n")
    lines.flush()


def _write_overlay(path: Path, result: Inspected) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(draw_overlay(result), cv2.COLOR_RGB2BGR))


def _file_name(name: str) -> str:
    """A path as one file name: images of different folders can have the same one."""
    return name.strip("/\\").replace("/", "_").replace("\\", "_").replace(":", "_").replace("#", "_")


def _plane(values: np.ndarray) -> np.ndarray:
    return values.reshape(values.shape[-2:])


def _flag(result: Inspected, name: str) -> bool | None:
    value = result.outputs.get(name)
    return None if value is None else bool(np.squeeze(value))


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
