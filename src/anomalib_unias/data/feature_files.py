"""Feature files: written completely or not at all, reused only if nothing has changed, listed and removed."""

import contextlib
import hashlib
import io
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from .reading import require_file

logger = logging.getLogger(__name__)

_SAMPLE_BYTES = 4096
"""Number of bytes at the start and at the end of an image file that help to identify it."""
_STALE_SECONDS = 600
"""Seconds without a change after which an unfinished file counts as left by a killed run."""
_CHUNK = 2**24
_CHECKSUM_BYTES = 4
_KEY_BYTES = 32
_FREE_SHARE = 0.9


class FeatureCacheError(RuntimeError):
    """Features cannot be stored: no space, no permission, or values that half precision cannot hold."""


def feature_folder() -> Path:
    """Get the folder of the feature files, below the cache folder of the user.

    Returns:
        Path: The folder; it may not exist yet.
    """
    return user_cache_path("anomalib_unias") / "features"


def image_identity(path: Path) -> bytes:
    """Digest of path, size, times and some bytes of an image file, to notice when the file changes.

    No single one is enough: some tools change a file but keep its size and modification time, Windows has no time of
    the last status change, and reading all bytes would take as long as reading the images.

    Args:
        path (Path): Image file.

    Returns:
        bytes: Digest.

    Raises:
        OSError: If it is not a regular file, or cannot be read.
    """
    require_file(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        digest.update(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|".encode())
        digest.update(file.read(_SAMPLE_BYTES))
        file.seek(max(0, stat.st_size - _SAMPLE_BYTES))
        digest.update(file.read(_SAMPLE_BYTES))
    return digest.digest()


def open_features(path: Path, rows: int) -> np.ndarray | None:
    """Open a file that :func:`write_features` has written.

    Args:
        path (Path): File.
        rows (int): Expected number of rows.

    Returns:
        np.ndarray | None: ``(rows, N)``, half precision, memory-mapped; ``None`` if the file is missing or damaged. A
            warning names a damaged file.
    """
    if not path.is_file():
        return None
    try:
        array = _read(path)
        if len(array) == rows:
            return array
    except Exception:  # numpy can raise nearly anything for a damaged header
        pass
    logger.warning("%s is damaged; its features are computed again.", path)
    return None


def find_rows(folder: Path, wanted: Collection[bytes]) -> dict[bytes, np.ndarray]:
    """Find rows in all files of a folder.

    Args:
        folder (Path): Folder of the files; it need not exist.
        wanted (Collection[bytes]): Keys of the rows to find.

    Returns:
        dict[bytes, np.ndarray]: Rows that were found, by key: ``(N,)`` each, half precision, memory-mapped.
    """
    found: dict[bytes, np.ndarray] = {}
    remaining = set(wanted)
    for path in sorted(folder.glob("*.npy")):
        with contextlib.suppress(Exception):  # a damaged file matters only to the run that opens it by name
            array = _map(path)
            keys = _keys(array, path)
            row_of_key = {keys[row * _KEY_BYTES : (row + 1) * _KEY_BYTES]: row for row in range(len(array))}
            if matching := remaining & row_of_key.keys():
                rows = np.asarray(_read(path))
                found.update({key: rows[row_of_key[key]] for key in matching})
                remaining -= matching
    return found


def write_features(path: Path, keys: Sequence[bytes], length: int, parts: Iterable[np.ndarray]) -> None:
    """Write features to a file that appears only when it is complete.

    Keys and checksum are in the same file, after the array. If several processes write the file at the same time, the
    last one replaces it as a whole.

    Args:
        path (Path): File; its folder is created.
        keys (Sequence[bytes]): 32 bytes per image, by which :func:`find_rows` finds its row.
        length (int): Number of values per image, ``N``.
        parts (Iterable[np.ndarray]): Rows in order, some at a time, ``(B, N)``, half precision.

    Raises:
        FeatureCacheError: If there is not enough space, or the folder cannot be written.
    """
    folder, shape = path.parent, (len(keys), length)
    with _write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder, 2 * shape[0] * shape[1])
        descriptor, name = tempfile.mkstemp(".tmp", f"{path.stem}.", folder)
    unfinished = Path(name)
    try:
        try:
            checksum = 0
            with _write_errors(folder):
                header = _header(shape)
                _reserve(descriptor, len(header) + 2 * shape[0] * shape[1] + len(keys) * _KEY_BYTES + _CHECKSUM_BYTES)
                _write(descriptor, header)
            for rows in parts:
                content = np.ascontiguousarray(rows, np.float16).tobytes()
                checksum = zlib.crc32(content, checksum)
                with _write_errors(folder):
                    _write(descriptor, content)
            with _write_errors(folder):
                joined = b"".join(keys)
                _write(descriptor, joined)
                checksum = zlib.crc32(joined, checksum)
                _write(descriptor, checksum.to_bytes(_CHECKSUM_BYTES, "little"))
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with _write_errors(folder):
            unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files of killed runs.

    Args:
        folder (Path): Folder of the files; it need not exist.
    """
    with contextlib.suppress(OSError):
        for path in folder.glob("*.tmp"):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink(missing_ok=True)


def cache_files(folder: Path) -> list[tuple[Path, int]]:
    """List all files of the cache, finished or not.

    Args:
        folder (Path): Folder of the files; it need not exist.

    Returns:
        list[tuple[Path, int]]: Files and their sizes in bytes, sorted by name.
    """
    return [(path, path.stat().st_size) for path in sorted(folder.glob("*")) if path.is_file()]


@contextlib.contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into one that names the folder."""
    try:
        yield
    except OSError as error:
        msg = f"Features cannot be stored in {folder}: {error}."
        raise FeatureCacheError(msg) from error


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > _FREE_SHARE * free:
        msg = f"The features need {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free."
        raise FeatureCacheError(msg)


def _reserve(descriptor: int, size: int) -> None:
    """Reserve the space now, so that a full disk fails before the features are computed."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)


def _header(shape: tuple[int, int]) -> bytes:
    header = io.BytesIO()
    kind = np.lib.format.dtype_to_descr(np.dtype(np.float16))
    np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _write(descriptor: int, content: bytes) -> None:
    """Write without a buffer: closing a file after an error would still write its buffer."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read(path: Path) -> np.memmap:
    """The array of a file; a damaged file is an error."""
    array = _map(path)
    with path.open("rb") as file:
        file.seek(-_CHECKSUM_BYTES, os.SEEK_END)
        expected = file.read()
    if zlib.crc32(_keys(array, path), _checksum(array)).to_bytes(_CHECKSUM_BYTES, "little") != expected:
        msg = f"{path} is damaged."
        raise ValueError(msg)
    return array


def _map(path: Path) -> np.memmap:
    """The array of a file; its type and size are checked, its content is not."""
    array = np.load(path, mmap_mode="r")
    size = array.offset + array.nbytes + len(array) * _KEY_BYTES + _CHECKSUM_BYTES
    if array.ndim != 2 or array.dtype != np.float16 or path.stat().st_size != size:
        msg = f"{path} is damaged."
        raise ValueError(msg)
    return array


def _keys(array: np.memmap, path: Path) -> bytes:
    """The keys that follow the array in the file, joined."""
    with path.open("rb") as file:
        file.seek(array.offset + array.nbytes)
        return file.read(len(array) * _KEY_BYTES)


def _checksum(array: np.ndarray) -> int:
    value = 0
    for rows in np.array_split(array, max(1, array.nbytes // _CHUNK)):
        value = zlib.crc32(rows.tobytes(), value)
    return value
