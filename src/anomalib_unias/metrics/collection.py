"""The data that an evaluator keeps during a run: a table of pixels per category and a record per image."""

import pickle
from collections.abc import Callable
from io import BytesIO
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist

from anomalib_unias.metrics.image_pixels import ImagePixels
from anomalib_unias.metrics.pixel_metrics import PixelMetrics, PixelTable
from anomalib_unias.metrics.scored_image import ScoredImage
from anomalib_unias.metrics.table_metric import require_numbers
from anomalib_unias.metrics.unified_results import IMAGE_COLUMNS


class Collection:
    """Collects images in memory that hardly grows with their number.

    Pixels take at most about 15 MB per category, see :class:`~anomalib_unias.metrics.PixelMetrics`. An image takes two
    strings and four numbers, about 2 kB if its pixels are kept separately, and about 3 kB more at the end of a test for
    :func:`~anomalib_unias.metrics.pixel_counts.count_pixels`.

    Args:
        new_pixel_metrics (Callable[[], PixelMetrics]): Creates the pixel metrics of a category.
        keep_pixels (Literal["none", "sketch", "all"]): What to keep of the pixels and regions of each single image, see
            :class:`~anomalib_unias.metrics.image_pixels.ImagePixels`. Defaults to ``"none"``.
    """

    def __init__(
        self,
        new_pixel_metrics: Callable[[], PixelMetrics],
        keep_pixels: Literal["none", "sketch", "all"] = "none",
    ) -> None:
        self._new_pixel_metrics = new_pixel_metrics
        self._keep_pixels = keep_pixels
        self._records: list[tuple] = []
        # One growing block: thousands of small arrays between the large ones of each image would fragment the heap.
        self._image_pixels = BytesIO()
        self._pixels: dict[str, PixelMetrics] = {}
        self._mask_counts = np.zeros(3)  # true positives, false positives, false negatives

    def add(self, image: ScoredImage) -> None:
        """Add an image.

        Args:
            image (ScoredImage): Image; without map or mask it counts at image level only.

        Raises:
            ValueError: If a score is NaN (the message names the image), or map and mask differ in size.
        """
        require_numbers(np.array([image.score]), [image.image_path])
        record = tuple(getattr(image, column) for column in IMAGE_COLUMNS)
        if image.anomaly_map is None or image.mask is None:
            self._append(record, None)
            return
        require_numbers(image.anomaly_map[None].detach().cpu().float().numpy(), [image.image_path])
        if image.category not in self._pixels:
            self._pixels[image.category] = self._new_pixel_metrics()
        self._pixels[image.category].update(image.anomaly_map[None], image.mask[None])
        kept = None if self._keep_pixels == "none" else ImagePixels.of(image, exact=self._keep_pixels == "all")
        self._append(record, kept)
        if image.predicted_mask is not None:
            predicted, mask = image.predicted_mask > 0, image.mask > 0
            counts = (predicted & mask).sum(), (predicted & ~mask).sum(), (~predicted & mask).sum()
            self._mask_counts += [int(count) for count in counts]

    def _append(self, record: tuple, pixels: ImagePixels | None) -> None:
        self._records.append(record)
        pickle.dump(pixels, self._image_pixels)

    def images(self) -> pd.DataFrame:
        """Records of the images of all processes, by category and path; ``pixels`` has what is kept of the pixels."""
        records: list[tuple] = []
        pixels: list[ImagePixels | None] = []
        for part, packed in of_all_processes((self._records, self._image_pixels.getvalue())):
            records += part
            pixels += _unpacked(packed, len(part))
        frame = pd.DataFrame(records, columns=list(IMAGE_COLUMNS)).assign(pixels=pd.Series(pixels, dtype=object))
        return frame.sort_values(["category", "image_path"], kind="stable", ignore_index=True)

    def pixel_tables(self, device: torch.device) -> dict[str, PixelTable]:
        """Pixels of all processes, by category.

        Args:
            device (torch.device): Device from which processes exchange tensors.
        """
        tables = {}
        # Every process takes part in the exchange of every category, even if it has seen no image of it.
        for category in sorted({name for part in of_all_processes(list(self._pixels)) for name in part}):
            metric = self._pixels.get(category) or self._new_pixel_metrics()
            if dist.is_initialized():
                metric.to(device)
            with metric.sync_context():
                tables[category] = metric.table()
        return tables

    def mask_f1(self) -> float:
        """F1 score of the predicted masks, over the pixels of all processes; NaN without predicted masks."""
        true_positives, false_positives, false_negatives = sum(of_all_processes(self._mask_counts))
        pixels = 2 * true_positives + false_positives + false_negatives
        return float(2 * true_positives / pixels) if pixels else float("nan")


def _unpacked(packed: bytes, count: int) -> list[ImagePixels | None]:
    stream = BytesIO(packed)
    return [pickle.load(stream) for _ in range(count)]


def of_all_processes(value: Any) -> list[Any]:
    """Gather a value from every process.

    Args:
        value (Any): Value of this process; picklable.

    Returns:
        list[Any]: One value per process.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
