"""Statistics of the unseen normal images that an image hangs together with."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .calibration import Calibration
from .feature_memory import FeatureMemory

# A walk goes from an image to one of its nearest ones, which hardly ever leads to another product, until it has passed
# some known images. With fewer a value would say more of the single image, and follow defects.
_NEIGHBORS = 7
_PASSED = 12
_MOST_STEPS = 256
# Where a walk ends at known images in fewer cases than this, the nearest known one takes the place of the rest.
_RARE = 1e-3


class NeighborCalibration(Calibration):
    """Gives a new image the mean of the nearest ones, over which the statistics of unseen images have been spread.

    Every image gets the mean of the known statistics that a random walk from neighbour to neighbour ends at (label
    propagation, Zhu and Ghahramani 2002). It stays within what hangs together, such as a product, without being told
    what that is. There may be few unseen images: from image to image they would say little, but all that a walk meets
    say something together. The other images, on which a model is trained and which it therefore scores too low, are
    steps on the way.

    Args:
        memory (FeatureMemory): Descriptors of the training images and of the unseen ones.
    """

    def __init__(self, memory: FeatureMemory) -> None:
        super().__init__(memory)
        self.register_buffer("statistics", torch.zeros(len(memory), 2))
        self.statistics: Tensor

    @property
    def arguments(self) -> dict[str, Any]:
        """See the base class."""
        return {}

    @classmethod
    def fit(cls, memory: FeatureMemory, targets: Tensor, known: Tensor) -> "NeighborCalibration":
        """Spread what is known.

        Args:
            memory (FeatureMemory): Descriptors of N images.
            targets (Tensor): Their statistics ``(N, 2)``.
            known (Tensor): Whose statistics are to be spread, ``(N,)`` bool, at least one.

        Returns:
            NeighborCalibration: Fitted.
        """
        calibration = cls(memory)
        calibration.statistics.copy_(_spread(targets[known], known, memory.between()))
        return calibration

    def predict(self, maps: Sequence[Tensor], distances: Tensor, categories: Sequence[str] | None) -> Tensor:
        """Average over the nearest images."""
        del maps, categories
        nearest = distances.topk(min(_NEIGHBORS, len(self.memory)), dim=1, largest=False).indices
        return self.statistics[nearest].mean(dim=1)


def _spread(values: Tensor, known: Tensor, distances: Tensor) -> Tensor:
    """Give every image the mean of the known values that a random walk ends at.

    Args:
        values (Tensor): Of the K known images ``(K, 2)``.
        known (Tensor): Which of N images these are ``(N,)`` bool.
        distances (Tensor): Between all images ``(N, N)``.

    Returns:
        Tensor: ``(N, 2)``.
    """
    step = _step(distances)
    ends = torch.zeros(len(known), 3).to(values)
    ends[known] = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
    for _ in range(min(round(_PASSED * len(known) / len(values)), _MOST_STEPS)):
        ends = step @ ends
    total, met = ends[:, :2], ends[:, 2:]
    nearest = values[distances[:, known].argmin(dim=1)]
    return (total + _RARE * nearest) / (met + _RARE)


def _step(distances: Tensor) -> Tensor:
    """Probabilities ``(N, N)`` of a step: alike for all images that one is among the nearest of, or the other way."""
    others = distances.clone().fill_diagonal_(torch.inf)
    nearest = others.topk(min(_NEIGHBORS, len(others) - 1), largest=False).indices
    linked = torch.zeros_like(others).scatter_(1, nearest, 1.0)
    linked = torch.maximum(linked, linked.T)
    return (linked / linked.sum(dim=1, keepdim=True)).nan_to_num(1.0)  # one image alone stays where it is
