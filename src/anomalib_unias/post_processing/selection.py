"""Chooses how far anomaly maps are calibrated, without labels and without real defects."""

import logging
from dataclasses import dataclass

import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

logger = logging.getLogger(__name__)

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)

_SIDE = 112
# A power whose pixel AP is at least this share of the highest counts as equally good.
_GOOD_ENOUGH = 0.99


@dataclass(frozen=True)
class Examples:
    """Unseen normal images, and images with synthetic defects.

    Attributes:
        maps: Anomaly maps ``(N, H, W)``.
        masks: Ground-truth masks ``(N, H, W)``, bool.
        clusters: Cluster of each image ``(N,)``, int64.
    """

    maps: Tensor
    masks: Tensor
    clusters: Tensor

    def __add__(self, other: "Examples") -> "Examples":
        """Concatenate two sets."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Examples(*(torch.cat(pair) for pair in pairs))


def small(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Shrink maps and masks ``(B, H, W)`` to at most 112 positions per side, which is enough to compare powers."""
    size = (min(_SIDE, maps.shape[-2]), min(_SIDE, maps.shape[-1]))
    return adaptive_avg_pool2d(maps, size), adaptive_max_pool2d(masks.float(), size) > 0


def choose_map_power(examples: Examples, levels: Tensor, logarithm: bool) -> float:
    """Choose the lowest power whose joint pixel AP over all examples is within 1 % of the highest.

    Args:
        examples (Examples): Normal and defective examples.
        levels (Tensor): Level of the maps of each cluster, ``(K,)``.
        logarithm (bool): Whether maps are divided by ``exp(power * level)`` instead of shifted.

    Returns:
        float: One of ``POWERS``; 0 if there is no defect.
    """
    if not examples.masks.any():
        return 0.0
    truth, quality = examples.masks.flatten().numpy(), {}
    for power in POWERS:
        shift = (power * levels[examples.clusters])[:, None, None]
        maps = examples.maps / shift.exp() if logarithm else examples.maps - shift
        quality[power] = float(average_precision_score(truth, maps.flatten().numpy()))
    highest = max(quality.values())
    best = min(power for power in POWERS if quality[power] >= _GOOD_ENOUGH * highest)
    logger.info(
        "CADA: maps are calibrated with power %g: pixel AP %.3f on synthetic defects, %.3f without.",
        best,
        quality[best],
        quality[0.0],
    )
    return best
