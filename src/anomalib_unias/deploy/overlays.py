"""Pictures of the anomalies that were found in an image."""

import hashlib
import os
from pathlib import Path

import cv2
import numpy as np
from anomalib.visualization import visualize_anomaly_map

from anomalib_unias.deploy.regions import Region

_HEAT = 0.4
_BOX_COLOR = (255, 0, 0)

_SUFFIX = ".png"
# Maximum number of bytes that file systems allow for a name.
_LONGEST_NAME = 255
_BYTES_OF_LONG_NAMES = 200


def draw_overlay(pixels: np.ndarray, anomaly_map: np.ndarray | None, regions: list[Region] | None) -> np.ndarray:
    """Draw the anomaly map and the boxes of the regions over the image.

    Args:
        pixels (np.ndarray): RGB ``(H, W, 3)``, uint8.
        anomaly_map (np.ndarray | None): ``(h, w)``, shown from 0 to 1; ``None`` if the model has none.
        regions (list[Region] | None): Regions, in pixels of the image; ``None`` if the model has no mask.

    Returns:
        np.ndarray: RGB ``(H, W, 3)``, uint8.
    """
    picture = np.array(pixels)
    if anomaly_map is not None:
        heat = np.array(visualize_anomaly_map(np.clip(anomaly_map, 0, 1).astype(np.float32)))
        picture = cv2.addWeighted(picture, 1 - _HEAT, cv2.resize(heat, picture.shape[1::-1]), _HEAT, 0)
    for region in regions or ():
        corner = (region.left + region.width - 1, region.top + region.height - 1)
        cv2.rectangle(picture, (region.left, region.top), corner, _BOX_COLOR, 2)
    return picture


def overlay_path(image: str, folder: Path) -> Path:
    """Choose the path of an image's picture in the folder of pictures; it is different for every image.

    It is the path of the image in the inspected folder, with one more suffix. Images outside of that folder, which a
    list can contain, and images whose names would be too long get a name with a hash.

    Args:
        image (str): Path of the image, or video and number of the frame.
        folder (Path): The inspected folder, or the folder of the list or video.

    Returns:
        Path: Relative path, which does not leave the folder of pictures.

    Example:
        >>> overlay_path("line/a/1.png", Path("line")).as_posix()
        'a/1.png.png'
    """
    path = Path(image)
    inside = path.is_relative_to(folder) and ".." not in path.relative_to(folder).parts
    if not inside:
        return Path(_hashed(image.replace("/", "_").replace("\\", "_").replace(":", "_"), image))
    *folders, name = path.relative_to(folder).parts
    if len(os.fsencode(name + _SUFFIX)) > _LONGEST_NAME:
        return Path(*folders, _hashed(name, name))
    return Path(*folders, name + _SUFFIX)


def _hashed(readable: str, full_name: str) -> str:
    start = os.fsencode(readable)[:_BYTES_OF_LONG_NAMES].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(os.fsencode(full_name)).hexdigest()[:16]}{_SUFFIX}"
