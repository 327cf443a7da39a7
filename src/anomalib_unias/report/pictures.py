"""Pictures of a gallery: the image beside its anomaly map and ground truth."""

from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import Normalize

_HEIGHT = 224
_GAP = 6
_COLORS = mpl.colormaps["inferno"]
# Values of a map at which colours start to show and reach their full opacity, and that opacity; 0.5 is the threshold.
_CLEAR, _OPAQUE, _OPACITY = 0.3, 0.8, 0.7
_CONTOUR = (0, 229, 255)


def original_colors(image: Tensor, pre_processor: Any) -> Tensor:
    """Undo the normalisation of colours: anomalib's pre-processor replaces the images of a batch.

    Args:
        image (Tensor): Image ``(3, H, W)`` after the pre-processor.
        pre_processor (Any): Pre-processor of the model. Without it, or without a ``Normalize`` in it, an image with
            values outside ``[0, 1]`` is scaled to that range.

    Returns:
        Tensor: Image ``(3, H, W)`` in ``[0, 1]``.
    """
    image = image.detach().float().cpu()
    steps = _steps(getattr(pre_processor, "transform", None))
    normalize = next((step for step in steps if isinstance(step, Normalize)), None)
    if normalize is not None:
        mean, std = (torch.tensor(values).float().reshape(-1, 1, 1) for values in (normalize.mean, normalize.std))
        return (image * std + mean).clamp(0, 1)
    return image if image.min() >= 0 and image.max() <= 1 else _stretch(image)


def map_on_unit_scale(anomaly_map: Tensor, post_processor: Any) -> Tensor:
    """Anomaly map for colouring: normalised by the post-processor, otherwise scaled to its own range.

    Args:
        anomaly_map (Tensor): Anomaly map ``(H, W)`` or ``(1, H, W)`` after the post-processor.
        post_processor (Any): Post-processor of the model, or ``None``.

    Returns:
        Tensor: Map ``(H, W)`` in ``[0, 1]``.
    """
    anomaly_map = anomaly_map.detach().float().cpu().reshape(anomaly_map.shape[-2:])
    normalizes = getattr(post_processor, "enable_normalization", False)
    has_range = normalizes and not torch.isnan(getattr(post_processor, "pixel_max", torch.tensor(torch.nan)))
    return anomaly_map.clamp(0, 1) if has_range else _stretch(anomaly_map)


def draw_picture(image: Tensor, anomaly_map: Tensor | None, mask: Tensor | None) -> bytes:
    """Draw an image, and beside it the same image with its anomaly map as colours and the outlines of its defects.

    Args:
        image (Tensor): Image ``(3, H, W)`` in ``[0, 1]``.
        anomaly_map (Tensor | None): Anomaly map ``(H, W)`` in ``[0, 1]``; ``None`` for the image alone.
        mask (Tensor | None): Ground truth ``(H, W)``, defective where ``> 0``; ``None`` if it is not known.

    Returns:
        bytes: A small picture as JPEG.
    """
    height, width = image.shape[-2:]
    size = (max(1, round(_HEIGHT * width / height)), _HEIGHT)
    pixels = _resize((255 * image).permute(1, 2, 0).numpy(), size)
    panels = [pixels]
    if anomaly_map is not None:
        overlaid = _overlay(pixels, _resize(anomaly_map.numpy(), size))
        panels += [np.full((_HEIGHT, _GAP, 3), 255, np.float32), overlaid]
    picture = np.hstack(panels).clip(0, 255).astype(np.uint8)
    if mask is not None:
        outlined = np.ascontiguousarray(picture[:, -size[0] :])
        defects = cv2.resize((mask.cpu() > 0).numpy().astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(defects, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        picture[:, -size[0] :] = cv2.drawContours(outlined, outlines, -1, _CONTOUR, 1, cv2.LINE_AA)
    _, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return jpeg.tobytes()


def _steps(transform: Any) -> list[Any]:
    """Steps of a transform, which may be composed of others."""
    return [step for part in getattr(transform, "transforms", ()) for step in _steps(part)] or [transform]


def _overlay(pixels: NDArray, anomaly_map: NDArray) -> NDArray:
    """Blend colours over the image, with more opacity where the map is higher."""
    opacity = _OPACITY * np.interp(anomaly_map, (_CLEAR, _OPAQUE), (0, 1))[..., None]
    return (1 - opacity) * pixels + opacity * 255 * _COLORS(anomaly_map)[..., :3]


def _resize(pixels: NDArray, size: tuple[int, int]) -> NDArray:
    shrinks = size[1] < pixels.shape[0]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _stretch(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
