"""The file with the pixel counts of each image at some thresholds, ``pixel_counts.npz``."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomalib_unias.metrics.pixel_counts import COUNT_COLUMNS

FILE = "pixel_counts.npz"


def write_pixel_counts(counts: pd.DataFrame, folder: Path) -> None:
    """Write ``pixel_counts.npz``, or remove an old one if there are no pixels.

    Args:
        counts (pd.DataFrame): See :func:`~anomalib_unias.metrics.pixel_counts.count_pixels`.
        folder (Path): Existing folder.
    """
    if counts.empty:
        (folder / FILE).unlink(missing_ok=True)
        return
    blocks: dict[str, Any] = {name: np.stack(list(counts[name])) for name in COUNT_COLUMNS}
    np.savez_compressed(folder / FILE, **blocks)


def read_pixel_counts(folder: Path, images: int) -> pd.DataFrame:
    """Read ``pixel_counts.npz``.

    Args:
        folder (Path): Folder of a report.
        images (int): Number of images of the report.

    Returns:
        pd.DataFrame: The counts as they were written; no columns if there is no such file.

    Raises:
        ValueError: If the file has another number of images.
    """
    file = folder / FILE
    if not file.is_file():
        return pd.DataFrame(index=range(images))
    with np.load(file) as blocks:
        counts = {name: list(blocks[name]) for name in COUNT_COLUMNS}
    if any(len(column) != images for column in counts.values()):
        msg = f"{file} is of {len(counts[COUNT_COLUMNS[0]])} images, images.csv beside it of {images}: test again."
        raise ValueError(msg)
    return pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in counts.items()})
