"""Cameras and streams: endless sources whose connection can be lost."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from urllib.parse import urlsplit, urlunsplit

import cv2
import numpy as np

from anomalib_unias.deploy.outages import Outage
from anomalib_unias.deploy.sources import ImageSource

_CAMERA = re.compile(r"camera:(\d+)")
_STREAM = re.compile(r"(rtsps?|rtmps?|https?|udp|tcp|rtp)://.")
_TIMEOUT_MS = 10_000
_SHORTEST_DELAY, _LONGEST_DELAY = 0.5, 30.0
# Seconds without a frame after which the results of the last frames are returned.
_SLOW = 0.2


def is_stream(source: str) -> bool:
    """Tell whether a source is a camera or a stream, not a path.

    Args:
        source (str): ``camera:0`` or a URL, such as ``rtsp://camera/line``.

    Returns:
        bool: Whether :func:`watch_stream` takes it.

    Example:
        >>> is_stream("camera:0"), is_stream("rtsp://camera/line"), is_stream("images/camera:0")
        (True, True, False)
    """
    return bool(_CAMERA.fullmatch(source) or _STREAM.match(source))


def watch_stream(source: str, tries: int | None = 5) -> Iterator[ImageSource | None]:
    """Yield the frames of a camera or a stream as they arrive, and reconnect when the connection is lost.

    A thread reads all frames. Only the newest one is yielded: frames that arrive while the line is busy are dropped.

    Args:
        source (str): ``camera:0`` for the first camera of this machine, or a URL that OpenCV opens: RTSP, RTMP, MJPEG
            over HTTP.
        tries (int | None): Attempts to connect in a row, 0.5 to 30 seconds apart, before giving up. Defaults to ``5``;
            ``None`` tries for ever.

    Yields:
        ImageSource | None: A frame. Its name is the source without user and password, and its time in UTC:
        ``rtsp://camera/line#20250131T120000.123456Z``. ``None`` while there is no new frame. After giving up, the last
        image is one that cannot be read.

    Raises:
        ValueError: If the source is neither a camera nor a stream.
        ConnectionError: If there was not a single frame.
    """
    if not is_stream(source):
        msg = f"{source} is no stream: expected camera:0 or a URL such as rtsp://camera/line."
        raise ValueError(msg)
    name = _without_password(source)
    outage = Outage(name, "It is tried again, with ever longer pauses up to 30 s.")
    failed, connected = 0, False
    while tries is None or failed < tries:
        if failed:
            yield from _pause(min(_SHORTEST_DELAY * 2 ** (failed - 1), _LONGEST_DELAY))
        with _Frames(lambda: _open(source)) as frames:
            for frame in frames:
                if frame is not None:
                    failed, connected = 0, True
                    outage.end()
                yield None if frame is None else ImageSource(f"{name}#{_now()}", frame)
        failed += 1
        outage.begin("there are no frames" if failed == 1 and connected else "it cannot be opened")
    problem = f"{name} gives no frames, after {failed} attempts: check the camera, the network, and the name."
    if not connected:
        raise ConnectionError(problem)
    yield ImageSource(f"{name}#{_now()}", problem=problem)


class _Frames:
    """Reads the frames of a connection in a thread, and yields the newest one.

    Args:
        connect (Callable[[], cv2.VideoCapture]): Opens the connection, which may take a while.
    """

    def __init__(self, connect: Callable[[], cv2.VideoCapture]) -> None:
        self._connect = connect
        self._changed = threading.Condition()
        self._newest: np.ndarray | None = None
        self._ended = False
        self._stopped = False

    def __enter__(self) -> "_Frames":
        # A daemon: a camera that does not answer must not keep the process alive.
        threading.Thread(target=self._read, name="frames", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True

    def __iter__(self) -> Iterator[np.ndarray | None]:
        """Yield frames, RGB ``(H, W, 3)``, uint8, until the connection ends; ``None`` if there is no new frame."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._ended, _SLOW)
                frame, self._newest = self._newest, None
                if frame is None and self._ended:
                    return
            yield frame if frame is None else cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def _read(self) -> None:
        capture = self._connect()
        try:
            while not self._stopped:
                found, frame = capture.read()
                if not found:
                    break
                with self._changed:
                    self._newest = frame
                    self._changed.notify_all()
        finally:
            capture.release()
            with self._changed:
                self._ended = True
                self._changed.notify_all()


def _open(source: str) -> cv2.VideoCapture:
    if camera := _CAMERA.fullmatch(source):
        return cv2.VideoCapture(int(camera[1]))
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
    return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)


def _pause(seconds: float) -> Iterator[None]:
    """Wait, and yield ``None`` from time to time."""
    end = time.monotonic() + seconds
    while (remaining := end - time.monotonic()) > 0:
        yield None
        time.sleep(min(remaining, _SLOW))


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")


def _without_password(source: str) -> str:
    if _CAMERA.fullmatch(source):
        return source
    parts = urlsplit(source)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
