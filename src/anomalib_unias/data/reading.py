"""Read image files, in the same way for training and inspection, and refuse those that would be read wrongly."""

from pathlib import Path

import numpy as np
from PIL import Image

from .errors import UnreadableImageError

# anomalib 2.7.0 reads images by Pillow's conversion to RGB, which saturates these: all values above 255 become white.
_SATURATING_MODES = ("I", "F")


def read_rgb(path: str | Path) -> np.ndarray:
    """Read an image file as anomalib does, and refuse one that anomalib would read wrongly.

    Args:
        path (str | Path): Image file.

    Returns:
        np.ndarray: RGB ``(H, W, 3)``, uint8.

    Raises:
        UnreadableImageError: If the file is missing, not a regular file, damaged, or has more than 8 bits per channel.
    """
    try:
        require_file(path)
        with Image.open(path) as image:
            return rgb_of(image, path)
    except UnreadableImageError:
        raise
    except Exception as error:  # decoders can raise nearly anything for a damaged file
        raise unreadable(path, error) from error


def rgb_of(image: Image.Image, name: str | Path) -> np.ndarray:
    """Convert an image as anomalib does.

    Args:
        image (Image.Image): Image opened by Pillow.
        name (str | Path): Name of the image in error messages.

    Returns:
        np.ndarray: RGB ``(H, W, 3)``, uint8.

    Raises:
        UnreadableImageError: If the image has more than 8 bits per channel.
    """
    _refuse_depth(image.mode, name)
    return np.array(image.convert("RGB"))


def check_header(path: str | Path) -> tuple[int, int]:
    """Check the header of an image file, and refuse a file that would be read wrongly without an error.

    Args:
        path (str | Path): Image file.

    Returns:
        tuple[int, int]: Width and height.

    Raises:
        UnreadableImageError: If the file is not an image, or has more than 8 bits per channel.
    """
    size, mode = read_header(path)
    _refuse_depth(mode, path)
    return size


def read_header(path: str | Path) -> tuple[tuple[int, int], str]:
    """Read size and mode of an image without decoding it.

    Args:
        path (str | Path): Image file.

    Returns:
        tuple[tuple[int, int], str]: Width and height, and the mode in Pillow, such as ``"RGB"``.

    Raises:
        UnreadableImageError: If the file is not an image.
    """
    try:
        require_file(path)
        with Image.open(path) as image:
            return image.size, image.mode
    except Exception as error:
        raise unreadable(path, error) from error


def require_file(path: str | Path) -> None:
    """Refuse anything but a regular file before it is opened: reading a pipe or a device could wait forever.

    Args:
        path (str | Path): Path; it need not exist.

    Raises:
        OSError: If the path exists and is not a regular file.
    """
    if not Path(path).is_file() and Path(path).exists():
        msg = f"{path} is no regular file"
        raise OSError(msg)


def unreadable(path: str | Path, error: Exception) -> UnreadableImageError:
    """Build the error for a file that cannot be read.

    Args:
        path (str | Path): File.
        error (Exception): Error that was raised when reading it.

    Returns:
        UnreadableImageError: The error to raise, with the reason.
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
