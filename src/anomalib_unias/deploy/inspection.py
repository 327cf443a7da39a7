"""Inspection: writes one JSON line for each image of a folder, a list, a video or a stream."""

import logging
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from anomalib_unias.deploy.drift import DriftWatch
from anomalib_unias.deploy.errors import InspectionError
from anomalib_unias.deploy.folders import State
from anomalib_unias.deploy.results import ResultWriter, images_with_results
from anomalib_unias.deploy.sinks import Sink
from anomalib_unias.deploy.sources import ImageSource, find_images, watch_folder
from anomalib_unias.deploy.streams import is_stream, watch_stream
from anomalib_unias.deploy.throughput_inferencer import ThroughputInferencer

logger = logging.getLogger(__name__)


class StopRequest:
    """Records whether the process was asked to end, by SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self.received = False

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Record the first signal; a second one ends the process at once. Only the main thread can receive signals."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def request_stop(*_: Any) -> None:
            self.received = True
            for number, handler in before.items():
                signal.signal(number, handler)

        for number in before:
            signal.signal(number, request_stop)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def until(self, images: Iterable[ImageSource | None]) -> Iterator[ImageSource | None]:
        """Pass images on until the signal. Images that were passed on before are still inspected.

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
    source: str | Path,
    *,
    output: Path | None = None,
    overlays: Path | None = None,
    watch: bool = False,
    resume: bool = False,
    drift: DriftWatch | None = None,
    sinks: Sequence[Sink] = (),
) -> int:
    """Inspect images, and write one JSON line for each.

    Args:
        line (ThroughputInferencer): The model.
        source (str | Path): Folder, list, video or image, see :func:`find_images`; camera or stream, see
            :func:`watch_stream`.
        output (Path | None): File for the lines. Defaults to ``None``: the standard output.
        overlays (Path | None): Folder for pictures of the anomaly maps and regions, see :func:`overlay_path`.
            Defaults to ``None``: none.
        watch (bool): Go on with images that are added to the folder or replaced in it, or reconnect for ever to a
            stream that is lost, until SIGINT or SIGTERM. Defaults to ``False``.
        resume (bool): Append to ``output``, and skip images that have a result there and whose file has not changed
            since. Defaults to ``False``.
        drift (DriftWatch | None): Warns when scores differ from those of validation. Defaults to ``None``.
        sinks (Sequence[Sink]): Also get each line, and are closed at the end. Defaults to none.

    Returns:
        int: Number of images whose last line has an ``error``, plus the number of lines and pictures that could not be
        written or delivered.

    Raises:
        FileExistsError: If ``output`` exists and ``resume`` is ``False``.
        FileNotFoundError: If there is no such source.
        ConnectionError: If a stream gives no frame.
        InspectionError: If the pictures would be inspected themselves, or a line of the output is not a result.
    """
    path = Path(source)
    _refuse_overlays_in_source(path, overlays)
    done = _results_in(output, resume)
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest().listening())
        results = stack.enter_context(ResultWriter(path, output, overlays, sinks))
        progress = stack.enter_context(_progress())
        images, count = _images(source, watch, done)
        task = progress.add_task("inspecting", total=count)
        for result in line.inspect(stop.until(images)):
            results.write(result)
            if drift is not None and np.isfinite(result.score) and (sentence := drift.add(result.score)):
                logger.warning("%s", sentence)
            progress.advance(task)
    if stop.received:
        logger.warning("Stopped by a signal; the results of all started images are written.")
    elif not results.written and not done:
        logger.warning("There is no image in %s.", source)
    if drift is not None and not drift.checked:
        logger.warning("There were fewer than %d images (--window): drift was not checked.", drift.window)
    if results.problems or results.remark_count:
        logger.warning("%s", results.summary())
    return results.problems


def _refuse_overlays_in_source(source: Path, overlays: Path | None) -> None:
    if overlays is not None and source.is_dir() and overlays.resolve().is_relative_to(source.resolve()):
        msg = f"{overlays} lies in {source}, where its pictures would be inspected as well. Give a folder elsewhere."
        raise InspectionError(msg)


def _images(
    source: str | Path, watch: bool, done: dict[str, State | None]
) -> tuple[Iterator[ImageSource | None], int | None]:
    """Get the images to inspect, without those that are done, and their number if it is known."""
    if is_stream(str(source)):
        return watch_stream(str(source), tries=None if watch else 5), None
    path = Path(source)
    if watch:
        return watch_folder(path, done=done), None
    found = find_images(path)
    if path.is_dir() or path.suffix == ".txt":
        listed = [image for image in found if not _is_done(image, done)]
        return iter(listed), len(listed)
    return (image for image in found if not _is_done(image, done)), None


def _is_done(image: ImageSource, done: dict[str, State | None]) -> bool:
    """Whether an image has a result and has not changed since. A file that is gone counts as unchanged."""
    if image.name not in done:
        return False
    before, now = done[image.name], image.state()
    return before is None or now is None or before == now


def _results_in(output: Path | None, resume: bool) -> dict[str, State | None]:
    """Get the images that have a result."""
    if output is None:
        return {}
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        return {}
    if not resume:
        msg = f"{output} exists: give --resume true to go on with it, or another file."
        raise FileExistsError(msg)
    return images_with_results(output)


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
