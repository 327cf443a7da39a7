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
# Smaller differences between powers are chance.
_GOOD_ENOUGH = 0.99


@dataclass(frozen=True)
class Examples:
    """Normal images that the model has not seen, and images with synthetic defects.

    Attributes:
        maps: Anomaly maps ``(N, H, W)``.
        masks: True masks ``(N, H, W)``, bool.
        clusters: Kind of each image ``(N,)``, int64.
    """

    maps: Tensor
    masks: Tensor
    clusters: Tensor

    def __add__(self, other: "Examples") -> "Examples":
        """Join two sets."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Examples(*(torch.cat(pair) for pair in pairs))


def small(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Maps and masks ``(B, H, W)`` at no more than 112 positions a side, which is enough to compare powers."""
    size = (min(_SIDE, maps.shape[-2]), min(_SIDE, maps.shape[-1]))
    return adaptive_avg_pool2d(maps, size), adaptive_max_pool2d(masks.float(), size) > 0


def choose_map_power(examples: Examples, levels: Tensor, logarithm: bool) -> float:
    """Lowest power that has the highest pixel AP of all examples together, up to a hundredth.

    Args:
        examples (Examples): With defects.
        levels (Tensor): Level of the maps of each kind, ``(K,)``.
        logarithm (bool): Whether maps are divided by ``exp(power * level)``, not shifted.

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
