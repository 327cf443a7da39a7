"""Where the images of an inspection come from, and how they are read."""

import mimetypes
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from anomalib.data.utils.image import is_image_file
from PIL import Image, UnidentifiedImageError

from anomalib_unias.deploy.errors import UnreadableImageError

_READ_ERRORS = (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError)


@dataclass(frozen=True)
class ImageSource:
    """An image to inspect.

    Args:
        name (str): Path, or video and number of the frame.
        pixels (np.ndarray | None): RGB ``(H, W, 3)``, grey ``(H, W)`` or ``(H, W, 1)``, uint8. ``None`` reads the
            file ``name``. Defaults to ``None``.
    """

    name: str
    pixels: np.ndarray | None = field(default=None, repr=False)

    def read(self) -> np.ndarray:
        """Get the pixels, those of a file as anomalib reads them in training.

        Returns:
            np.ndarray: RGB ``(H, W, 3)``, uint8.

        Raises:
            UnreadableImageError: If the file is missing or broken, or the pixels are of another kind.
        """
        return _read_file(self.name) if self.pixels is None else _as_rgb(self.pixels, self.name)


def _read_file(name: str) -> np.ndarray:
    try:
        with Image.open(name) as image:
            return np.array(image.convert("RGB"))
    except _READ_ERRORS as error:
        msg = f"{name} cannot be read: {type(error).__name__}: {error}"
        raise UnreadableImageError(msg) from error


def _as_rgb(pixels: np.ndarray, name: str) -> np.ndarray:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] not in {1, 3}:
        msg = f"{name}: expected uint8 pixels (H, W, 3) or (H, W), got {pixels.dtype} {pixels.shape}."
        raise UnreadableImageError(msg)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def find_images(path: Path) -> Iterator[ImageSource]:
    """List the images of a folder, a list, a video, or one image.

    Args:
        path (Path): Folder, which is searched with its sub-folders; text file ``*.txt`` with a path per line,
            relative to itself; video; or image.

    Yields:
        ImageSource: In the order of names, lines or frames. The images of a list need not exist.

    Raises:
        FileNotFoundError: If the path does not exist.
        UnreadableImageError: If it is none of these.
    """
    if not path.exists():
        msg = f"{path} does not exist: expected a folder, a *.txt list, a video or an image."
        raise FileNotFoundError(msg)
    if path.is_dir():
        yield from (ImageSource(str(file)) for file in sorted(path.rglob("*")) if is_image_file(file))
    elif path.suffix == ".txt":
        lines = (line.strip() for line in path.read_text().splitlines())
        yield from (ImageSource(str(path.parent / line)) for line in lines if line)
    elif is_image_file(path):
        yield ImageSource(str(path))
    elif (mimetypes.guess_type(path)[0] or "").startswith("video/"):
        yield from _frames(path)
    else:
        msg = f"{path} is no image, no video and no *.txt list of images."
        raise UnreadableImageError(msg)


def _frames(path: Path) -> Iterator[ImageSource]:
    video = cv2.VideoCapture(str(path))
    try:
        found, frame = video.read()
        if not found:
            msg = f"{path} cannot be read as a video."
            raise UnreadableImageError(msg)
        number = 0
        while found:
            yield ImageSource(f"{path}#{number}", cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            number += 1
            found, frame = video.read()
    finally:
        video.release()


def watch_folder(path: Path, interval: float = 0.5) -> Iterator[ImageSource | None]:
    """Report the images of a folder, and for ever those that are added.

    Args:
        path (Path): Folder, watched with its sub-folders.
        interval (float): Seconds between two looks. Defaults to ``0.5``.

    Yields:
        ImageSource | None: Each image once it is completely written, which is when its size and time did not change
        between two looks; ``None`` after each look.

    Raises:
        NotADirectoryError: If it is no folder.
    """
    if not path.is_dir():
        msg = f"{path} is not a folder: only a folder can be watched."
        raise NotADirectoryError(msg)
    seen: set[Path] = set()
    growing: dict[Path, tuple[int, int]] = {}
    while True:
        for file in sorted(path.rglob("*")):
            if file in seen or not is_image_file(file):
                continue
            state = _state(file)
            if state is not None and growing.get(file) == state:
                seen.add(file)
                del growing[file]
                yield ImageSource(str(file))
            elif state is not None:
                growing[file] = state
        yield None
        time.sleep(interval)


def _state(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns
