"""How image files are read, in training as on the line, and which ones are not."""

from pathlib import Path

import numpy as np
from PIL import Image

from .errors import UnreadableImageError

# anomalib 2.7.0 reads images by Pillow's conversion to RGB, which saturates these: all values above 255 become white.
_SATURATING_MODES = ("I", "F")


def read_rgb(path: str | Path) -> np.ndarray:
    """Read an image file as anomalib does, but not one that it would read wrongly.

    Args:
        path (str | Path): File.

    Returns:
        np.ndarray: RGB ``(H, W, 3)``, uint8.

    Raises:
        UnreadableImageError: If it is missing, is no regular file, is damaged, or has more than 8 bits per channel.
    """
    try:
        require_file(path)
        with Image.open(path) as image:
            return rgb_of(image, path)
    except UnreadableImageError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly everything
        raise unreadable(path, error) from error


def rgb_of(image: Image.Image, name: str | Path) -> np.ndarray:
    """Convert an image as anomalib does.

    Args:
        image (Image.Image): Opened by Pillow.
        name (str | Path): What an error calls it.

    Returns:
        np.ndarray: RGB ``(H, W, 3)``, uint8.

    Raises:
        UnreadableImageError: If it has more than 8 bits per channel.
    """
    _refuse_depth(image.mode, name)
    return np.array(image.convert("RGB"))


def check_header(path: str | Path) -> tuple[int, int]:
    """Look at the header of an image file for what would be read wrongly without an error.

    Args:
        path (str | Path): File.

    Returns:
        tuple[int, int]: Width and height.

    Raises:
        UnreadableImageError: If the file is no image, or has more than 8 bits per channel.
    """
    size, mode = read_header(path)
    _refuse_depth(mode, path)
    return size


def read_header(path: str | Path) -> tuple[tuple[int, int], str]:
    """Get size and kind of an image without decoding it.

    Args:
        path (str | Path): File.

    Returns:
        tuple[tuple[int, int], str]: Width and height, and the mode of Pillow.

    Raises:
        UnreadableImageError: If the file is no image.
    """
    try:
        require_file(path)
        with Image.open(path) as image:
            return image.size, image.mode
    except Exception as error:
        raise unreadable(path, error) from error


def require_file(path: str | Path) -> None:
    """Refuse what is no file before it is opened: a pipe or a device could wait for ever.

    Args:
        path (str | Path): Path; it need not exist.

    Raises:
        OSError: If it is something else than a file.
    """
    if not Path(path).is_file() and Path(path).exists():
        msg = f"{path} is no regular file"
        raise OSError(msg)


def unreadable(path: str | Path, error: Exception) -> UnreadableImageError:
    """Describe why a file cannot be read.

    Args:
        path (str | Path): File.
        error (Exception): What reading it raised.

    Returns:
        UnreadableImageError: To be raised.
    """
    reason = f"{type(error).__name__}: {error}"
    return UnreadableImageError(f"Cannot read image file {path}: {reason}. Replace it or remove it.")


def _refuse_depth(mode: str, name: str | Path) -> None:
    if mode.startswith(_SATURATING_MODES):
        msg = (
            f"Image {name} has more than 8 bits per channel (Pillow mode {mode!r}). anomalib would clip it to white. "
            "Convert it to 8-bit grey or RGB, by the same factor as all images of training and of the line."
        )
        raise UnreadableImageError(msg)
