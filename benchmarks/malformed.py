"""Malformed image files, as broken disks, cables and people make them."""

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

Writer = Callable[[Path, np.random.Generator], None]

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".webp": "WEBP"}


def image_bytes(rng: np.random.Generator, suffix: str, size: int = 48) -> bytes:
    """Make an image file of noise.

    Args:
        rng (np.random.Generator): Draws its pixels.
        suffix (str): Suffix that selects the file format.
        size (int): Side in pixels. Defaults to ``48``.

    Returns:
        bytes: Contents of the file.
    """
    data = BytesIO()
    Image.fromarray(rng.integers(0, 255, (size, size, 3), np.uint8)).save(data, _FORMATS[suffix])
    return data.getvalue()


def _of_any_format(rng: np.random.Generator) -> bytes:
    return image_bytes(rng, str(rng.choice(list(_FORMATS))))


def _cut_off(path: Path, rng: np.random.Generator) -> None:
    data = _of_any_format(rng)
    path.write_bytes(data[: int(rng.integers(1, len(data)))])


def _changed_bytes(path: Path, rng: np.random.Generator) -> None:
    data = np.frombuffer(_of_any_format(rng), np.uint8).copy()
    positions = rng.integers(0, len(data), int(rng.integers(1, 20)))
    data[positions] = rng.integers(0, 256, len(positions))
    path.write_bytes(data.tobytes())


def _changed_header(path: Path, rng: np.random.Generator) -> None:
    data = np.frombuffer(_of_any_format(rng), np.uint8).copy()
    positions = rng.integers(4, 64, 4)
    data[positions] = rng.integers(0, 256, len(positions))
    path.write_bytes(data.tobytes())


def _random_bytes(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(rng.bytes(int(rng.integers(1, 4000))))


def _empty(path: Path, rng: np.random.Generator) -> None:
    del rng
    path.touch()


def _deep(path: Path, rng: np.random.Generator) -> None:
    Image.fromarray(rng.integers(0, 65535, (48, 48)).astype(np.uint16)).save(path, "PNG")


def _odd_size(path: Path, rng: np.random.Generator) -> None:
    height, width = (int(side) for side in rng.choice([1, 2, 3, 5000], 2))
    Image.new("RGB", (width, height)).save(path, "PNG")


def _folder(path: Path, rng: np.random.Generator) -> None:
    del rng
    path.mkdir()


def _pipe(path: Path, rng: np.random.Generator) -> None:
    del rng
    os.mkfifo(path)


def _link(path: Path, rng: np.random.Generator) -> None:
    path.symlink_to(path if rng.random() < 0.5 else "/dev/zero")


MALFORMED: dict[str, Writer] = {
    "file cut off": _cut_off,
    "bytes changed": _changed_bytes,
    "header changed": _changed_header,
    "random bytes": _random_bytes,
    "empty file": _empty,
    "16 bits": _deep,
    "odd size": _odd_size,
    "folder called like an image": _folder,
    "pipe": _pipe,
    "link to itself or a device": _link,
}
"""What is wrong with a file -> function that writes such a file."""

NAMES: dict[str, Callable[[int], bytes]] = {
    "name that is not UTF-8": lambda number: b"\xff\xfe%d.png" % number,
    "name of 255 bytes": lambda number: b"%0251d.png" % number,
    "name with control characters": lambda number: b"a\nb\r\t\x1b[31m%d.png" % number,
}
"""Difficult file names for well-formed images."""
