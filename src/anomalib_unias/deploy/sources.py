"""Sources of the images of an inspection, and how they are read."""

import mimetypes
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from anomalib.data.utils.image import is_image_file
from PIL import Image

from anomalib_unias.data.reading import read_rgb, rgb_of, unreadable
from anomalib_unias.deploy.errors import UnreadableImageError
from anomalib_unias.deploy.folders import FolderScan, State, state_of

# Containers whose header has the number of frames. For others OpenCV estimates it from the duration, with a small
# error.
_COUNTED = {".avi", ".mp4", ".m4v", ".mov"}
_UNCERTAINTY = 0.05


@dataclass(frozen=True)
class ImageSource:
    """An image to inspect.

    Args:
        name (str): Path, or video and number of the frame.
        pixels (np.ndarray | Image.Image | None): RGB ``(H, W, 3)``, grey ``(H, W)`` or ``(H, W, 1)``, uint8; or a
            Pillow image. ``None`` reads the file ``name``. Defaults to ``None``.
        problem (str | None): Known reason why there are no pixels. Defaults to ``None``.
    """

    name: str
    pixels: np.ndarray | Image.Image | None = field(default=None, repr=False)
    problem: str | None = None

    def read(self) -> np.ndarray:
        """Get the pixels; a file is read as anomalib reads it in training.

        Returns:
            np.ndarray: RGB ``(H, W, 3)``, uint8.

        Raises:
            UnreadableImageError: If the file is missing or broken or has more than 8 bits per channel, or if the pixels
                have another type or shape.
        """
        if self.problem is not None:
            raise UnreadableImageError(self.problem)
        if self.pixels is None:
            return read_rgb(self.name)
        if isinstance(self.pixels, Image.Image):
            return _decoded(self.pixels, self.name)
        return _as_rgb(self.pixels, self.name)

    def state(self) -> State | None:
        """Get the state of the file without reading it.

        Returns:
            State | None: Its size and time; ``None`` if the image is not a file, or is not accessible.
        """
        if self.pixels is not None or self.problem is not None:
            return None
        try:
            return state_of(Path(self.name).stat())
        except (OSError, ValueError):  # no file can have a zero byte in its name
            return None


def _decoded(image: Image.Image, name: str) -> np.ndarray:
    try:
        return rgb_of(image, name)
    except UnreadableImageError:
        raise
    except Exception as error:  # Pillow decodes lazily, and its decoders raise all kinds of errors for damaged files
        raise unreadable(name, error) from error


def _as_rgb(pixels: np.ndarray, name: str) -> np.ndarray:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] not in {1, 3} or not pixels.size:
        msg = f"{name}: expected uint8 pixels (H, W, 3) or (H, W), got {pixels.dtype} {pixels.shape}."
        raise UnreadableImageError(msg)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def find_images(path: Path) -> Iterator[ImageSource]:
    """List the images of a folder, a list, a video, or one image.

    Args:
        path (Path): Folder, which is searched with its sub-folders; text file ``*.txt`` with a path per line,
            relative to the folder of the text file; video; or image.

    Yields:
        ImageSource: Images in the order of names, lines or frames. The images of a list need not exist. A video that
        ends too early has one more image, which cannot be read.

    Raises:
        FileNotFoundError: If the path does not exist.
        UnreadableImageError: If the path is none of these.
    """
    if not path.exists():
        msg = f"{path} does not exist: expected a folder, a *.txt list, a video or an image."
        raise FileNotFoundError(msg)
    if path.is_dir():
        yield from (ImageSource(str(file)) for file, _ in FolderScan(path).images())
    elif path.is_file() and path.suffix == ".txt":
        # File names are bytes: surrogateescape preserves those that are not UTF-8.
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        yield from (ImageSource(str(path.parent / line.strip())) for line in lines if line.strip())
    elif path.is_file() and is_image_file(path):
        yield ImageSource(str(path))
    elif path.is_file() and (mimetypes.guess_type(path)[0] or "").startswith("video/"):
        yield from _frames(path)
    else:
        msg = f"{path} is no image, no video and no *.txt list of images."
        raise UnreadableImageError(msg)


def _frames(path: Path) -> Iterator[ImageSource]:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        msg = f"{str(path)!r} cannot be read as a video: OpenCV takes names in UTF-8 only. Rename it."
        raise UnreadableImageError(msg) from error
    video = cv2.VideoCapture(str(path))
    try:
        announced = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
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
    missing = announced - number
    if missing > (0 if path.suffix.lower() in _COUNTED else _UNCERTAINTY * announced):
        problem = (
            f"{path} ends after {number} of {announced} frames: it is cut off or damaged. Record or copy it again."
        )
        yield ImageSource(f"{path}#{number}", problem=problem)


def watch_folder(
    path: Path, interval: float = 0.5, done: Mapping[str, State | None] | None = None
) -> Iterator[ImageSource | None]:
    """Yield the images of a folder, and then for ever those that are added or replaced.

    Args:
        path (Path): Folder, watched with its sub-folders.
        interval (float): Seconds between two scans. Defaults to ``0.5``.
        done (Mapping[str, State | None] | None): Images that are not reported as long as they have this state, or, if
            it is ``None``, the state that they have now. Defaults to ``None``: none.

    Yields:
        ImageSource | None: Each image when it is completely written, which means that its size and time did not change
        between two scans, and again when it has changed later; ``None`` after each scan.

    Raises:
        NotADirectoryError: If the path is not a folder.
    """
    if not path.is_dir():
        msg = f"{path} is not a folder: only a folder can be watched."
        raise NotADirectoryError(msg)
    scan = FolderScan(path)
    done = done or {}
    reported = {file: done[str(file)] or state for file, state in scan.images() if str(file) in done}
    previous: dict[Path, State] = {}
    while True:
        present = dict(scan.images())
        for file, state in present.items():
            if reported.get(file) != state and previous.get(file) == state:
                reported[file] = state
                yield ImageSource(str(file))
        previous = present
        yield None
        time.sleep(interval)
