"""Anomalous regions of a predicted mask."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Region:
    """A connected anomalous region, in pixels of the original image.

    Args:
        left (int): First column of its bounding box.
        top (int): First row of its bounding box.
        width (int): Number of columns.
        height (int): Number of rows.
        area (int): Number of pixels of the region itself.
    """

    left: int
    top: int
    width: int
    height: int
    area: int


def find_regions(mask: np.ndarray, image_size: tuple[int, int]) -> list[Region]:
    """Find the connected regions of a mask.

    Args:
        mask (np.ndarray): ``(H, W)``, true where anomalous.
        image_size (tuple[int, int]): Height and width of the original image.

    Returns:
        list[Region]: Largest first; areas that touch at a corner are one region.
    """
    vertical, horizontal = image_size[0] / mask.shape[0], image_size[1] / mask.shape[1]
    _, _, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    regions = []
    # The first one is the background.
    for left, top, width, height, area in boxes[1:].tolist():
        first_column, last_column = round(left * horizontal), round((left + width) * horizontal)
        first_row, last_row = round(top * vertical), round((top + height) * vertical)
        regions.append(
            Region(
                left=first_column,
                top=first_row,
                width=max(1, last_column - first_column),
                height=max(1, last_row - first_row),
                area=max(1, round(area * vertical * horizontal)),
            )
        )
    return sorted(regions, key=lambda region: region.area, reverse=True)
