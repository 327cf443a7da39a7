"""Image score from the anomaly map."""

from typing import Literal, get_args

import torch
from torch.nn.functional import avg_pool2d

ImageScore = Literal["max", "mean", "pooled", "std", "top"]

_POOL = 16


def check_image_score(kind: str) -> None:
    """Raise an error for an unknown kind of image score.

    Args:
        kind (str): Requested kind.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind not in get_args(ImageScore):
        msg = f"image_score must be one of {list(get_args(ImageScore))}, got {kind!r}."
        raise ValueError(msg)


def score_of_map(anomaly_map: torch.Tensor, kind: ImageScore) -> torch.Tensor:
    """Reduce an anomaly map to an image score.

    Args:
        anomaly_map (torch.Tensor): ``(B, 1, H, W)``.
        kind (ImageScore): ``"max"``, ``"mean"``, ``"std"`` of all pixels, ``"top"`` for the mean of the highest 1 % of
            them, ``"pooled"`` for the highest mean of a window of 16x16 pixels.

    Returns:
        torch.Tensor: ``(B,)``.
    """
    height, width = anomaly_map.shape[-2:]
    pixels = anomaly_map.flatten(1)
    if kind == "max":
        return pixels.amax(dim=1)
    if kind == "mean":
        return pixels.mean(dim=1)
    if kind == "std":
        return pixels.std(dim=1)
    if kind == "pooled":
        window = (min(_POOL, height), min(_POOL, width))
        return avg_pool2d(anomaly_map, window, stride=1).flatten(1).amax(dim=1)
    # The size of the map is fixed, so k is a constant of the exported graph.
    return pixels.topk(max(1, height * width // 100), dim=1, sorted=False).values.mean(dim=1)
