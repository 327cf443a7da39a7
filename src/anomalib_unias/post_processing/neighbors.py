"""Statistics of similar normal images, corrected for images that the model has not been trained on."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .calibration import Calibration
from .feature_memory import FeatureMemory

# Images count as similar within a few times the usual squared distance between neighbours. Narrower, and predictions
# begin to follow defects; wider, and products run into each other.
_BANDWIDTH = 2.5
# A walk goes from an image to one of its nearest ones, which hardly ever leads to another product, until it has passed
# some known images. With fewer a value would say more of the single image, and follow defects; 3 to 12 make little
# difference, as do 5 to 10 neighbours.
_NEIGHBORS = 7
_PASSED = 6
_MOST_STEPS = 256
# Where a walk ends at known images in fewer cases than this, their mean takes the place of what is not known.
_RARE = 1e-3


class NeighborCalibration(Calibration):
    """Kernel regression of the logarithms of statistics that have been spread over the images.

    The statistics of training images are spread first: every image gets the mean of those that a random walk from
    neighbour to neighbour ends at (label propagation, Zhu and Ghahramani 2002). It stays within what hangs together,
    such as a product, without being told what that is. Since a model scores the images it was trained on lower than
    new ones, and not by the same factor everywhere, the errors on unseen images are spread in the same way, and added.
    There may be few of these: from image to image they would say little, but all that a walk meets say something
    together.

    Args:
        memory (FeatureMemory): Descriptors of the training images and of the unseen ones.
    """

    def __init__(self, memory: FeatureMemory) -> None:
        super().__init__(memory)
        # Logarithms for each image, 1 / (2 bandwidth).
        self.register_buffer("logarithms", torch.zeros(len(memory), 2))
        self.register_buffer("sharpness", torch.ones(()))
        self.logarithms: Tensor
        self.sharpness: Tensor

    @property
    def arguments(self) -> dict[str, Any]:
        """See the base class."""
        return {}

    @classmethod
    def fit(cls, memory: FeatureMemory, targets: Tensor, unseen: Tensor) -> "NeighborCalibration":
        """Spread statistics of training images, and the errors on unseen ones.

        Args:
            memory (FeatureMemory): Descriptors of N images.
            targets (Tensor): Their statistics ``(N, 2)``, not negative.
            unseen (Tensor): Which of them the model was not trained on, ``(N,)`` bool.

        Returns:
            NeighborCalibration: Fitted.
        """
        calibration = cls(memory)
        logarithms = targets.clamp(min=torch.finfo(torch.float32).tiny).log()
        distances = memory.between().fill_diagonal_(torch.inf)
        calibration.sharpness.fill_(1 / (2 * _BANDWIDTH * _usual_distance(distances)))
        step = _step(distances)
        for known in (~unseen, unseen):
            if known.any():
                errors = logarithms - calibration.logarithms
                calibration.logarithms += _spread(errors[known], known, step)
        return calibration

    def predict(self, maps: Sequence[Tensor], distances: Tensor, categories: Sequence[str] | None) -> Tensor:
        """Average over similar images."""
        del maps, categories
        return (torch.softmax(-self.sharpness * distances, dim=1) @ self.logarithms).exp()


def _step(distances: Tensor) -> Tensor:
    """Probabilities ``(N, N)`` of a step: alike for all images that one is among the nearest of, or the other way."""
    nearest = distances.topk(min(_NEIGHBORS, len(distances) - 1), largest=False).indices
    linked = torch.zeros_like(distances).scatter_(1, nearest, 1.0)
    linked = torch.maximum(linked, linked.T)
    return (linked / linked.sum(dim=1, keepdim=True)).nan_to_num(1.0)  # one image alone stays where it is


def _spread(values: Tensor, known: Tensor, step: Tensor) -> Tensor:
    """Give every image the mean of the known values that a random walk ends at.

    Args:
        values (Tensor): Of the K known images ``(K, 2)``.
        known (Tensor): Which images these are ``(N,)`` bool.
        step (Tensor): Probabilities ``(N, N)`` to go from one image to another.

    Returns:
        Tensor: ``(N, 2)``.
    """
    ends = torch.zeros(len(known), 3).to(values)
    ends[known] = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
    for _ in range(min(round(_PASSED * len(known) / len(values)), _MOST_STEPS)):
        ends = step @ ends
    met = ends[:, 2:]
    return (ends[:, :2] + _RARE * values.mean(dim=0)) / (met + _RARE)


def _usual_distance(distances: Tensor) -> float:
    """Median squared distance to the nearest other image, of distances ``(N, N)`` with an infinite diagonal."""
    return max(float(distances.amin(dim=1).median()), torch.finfo(torch.float32).eps) if len(distances) > 1 else 1.0
