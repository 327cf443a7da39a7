"""Chooses how far anomaly maps are calibrated, without labels and without real defects."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

logger = logging.getLogger(__name__)

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)

_SIDE = 112
# A power whose pixel AP is at least this share of the highest counts as equally good.
_GOOD_ENOUGH = 0.99
# A gain of this many standard errors is not by chance.
_CERTAIN = 2.0
# Number of bootstrap samples, and of groups of neighbouring scores from which their pixel AP is computed.
_SAMPLES = 200
_CELLS = 4096


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

    It is 0 unless the gain over power 0 is certain: more than twice its standard error over bootstrap samples of the
    images. Synthetic defects are not real ones, and a small gain on them can be a loss on others.

    Args:
        examples (Examples): Normal and defective examples.
        levels (Tensor): Level of the maps of each cluster, ``(K,)``.
        logarithm (bool): Whether maps are divided by ``exp(power * level)`` instead of shifted.

    Returns:
        float: One of ``POWERS``; 0 if there is no defect.
    """
    if not examples.masks.any():
        return 0.0
    weights, quality = _bootstrap_weights(len(examples.clusters)), {}
    for power in POWERS:
        shift = (power * levels[examples.clusters])[:, None, None]
        maps = examples.maps / shift.exp() if logarithm else examples.maps - shift
        quality[power] = pixel_ap(maps, examples.masks, weights)
    highest = max(float(values[0]) for values in quality.values())
    best = min(power for power in POWERS if quality[power][0] >= _GOOD_ENOUGH * highest)
    gain = quality[best] - quality[0.0]
    error = gain[1:].std()
    chosen = best if gain[0] > _CERTAIN * error else 0.0
    logger.info(
        "CADA: maps are calibrated with power %g. Best on synthetic defects is power %g: pixel AP %.3f, and %.3f with "
        "power 0; the difference has a standard error of %.3f.",
        chosen,
        best,
        quality[best][0],
        quality[0.0][0],
        error,
    )
    return chosen


def _bootstrap_weights(images: int) -> Tensor:
    """How often each image counts, ``(B, images)``: once in the first row, in the others as often as it was drawn."""
    drawn = torch.randint(images, (_SAMPLES, images), generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(_SAMPLES, images).scatter_add_(1, drawn, torch.ones(drawn.shape))
    return torch.cat([torch.ones(1, images), weights])


def pixel_ap(maps: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """Compute the pixel AP of images that each count a given number of times.

    Args:
        maps (Tensor): Anomaly maps ``(N, H, W)``.
        masks (Tensor): Ground-truth masks ``(N, H, W)``, bool.
        weights (Tensor): How often each image counts, ``(B, N)``.

    Returns:
        Tensor: ``(B,)``; from 4,096 groups of scores, which is lower by about .001.
    """
    images, pixels = len(maps), maps[0].numel()
    # Cells of equally many pixels each, those with the highest scores first.
    order = maps.flatten().argsort(descending=True, stable=True)
    cells = torch.empty_like(order)
    cells[order] = torch.arange(len(order)) * _CELLS // len(order)
    cells += torch.arange(images).repeat_interleave(pixels) * _CELLS
    counts, defective = (
        torch.bincount(part, minlength=images * _CELLS).view(images, _CELLS).float()
        for part in (cells, cells[masks.flatten()])
    )
    all_pixels, gain = weights @ counts, weights @ defective
    found = gain.cumsum(dim=1)
    precision = found / all_pixels.cumsum(dim=1).clamp(min=1)
    return (gain * precision).sum(dim=1) / found[:, -1].clamp(min=1)
