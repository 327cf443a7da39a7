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
# The factor for unseen images is believed as far as there are more similar ones than this.
_PRIOR_IMAGES = 16.0


class NeighborCalibration(Calibration):
    """Kernel regression of the logarithms of the statistics, in two stages.

    The first stage averages over training images. Since a model scores the images it was trained on lower than new
    ones, and not by the same factor everywhere, the second stage adds the mean error of the first one on unseen
    images: that of similar ones, shrunk towards that of all the fewer there are. Where the statistics of training
    images say less about unseen images than those of other unseen images do (memory banks), the first stage averages
    over unseen images and there is no second one.

    Args:
        memory (FeatureMemory): Descriptors of the training images and of the unseen ones.
    """

    def __init__(self, memory: FeatureMemory) -> None:
        super().__init__(memory)
        count = len(memory)
        # Logarithms and membership (0 or -inf) of the first stage; errors (beyond their mean) and membership
        # (1 or 0) of the second; their mean; 1 / (2 bandwidth).
        self.register_buffer("logarithms", torch.zeros(count, 2))
        self.register_buffer("averaged", torch.zeros(count))
        self.register_buffer("errors", torch.zeros(count, 2))
        self.register_buffer("corrected", torch.zeros(count))
        self.register_buffer("mean_error", torch.zeros(2))
        self.register_buffer("sharpness", torch.ones(()))
        self.logarithms: Tensor
        self.averaged: Tensor
        self.errors: Tensor
        self.corrected: Tensor
        self.mean_error: Tensor
        self.sharpness: Tensor

    @property
    def arguments(self) -> dict[str, Any]:
        """See the base class."""
        return {}

    @classmethod
    def fit(cls, memory: FeatureMemory, targets: Tensor, unseen: Tensor) -> "NeighborCalibration":
        """Remember statistics, and choose the images of the first stage.

        Args:
            memory (FeatureMemory): Descriptors of N images.
            targets (Tensor): Their statistics ``(N, 2)``, not negative.
            unseen (Tensor): Which of them the model was not trained on, ``(N,)`` bool. Without any there is no second
                stage.

        Returns:
            NeighborCalibration: Fitted.
        """
        calibration = cls(memory)
        calibration.logarithms.copy_(targets.clamp(min=torch.finfo(torch.float32).tiny).log())
        distances = memory.between()
        calibration.sharpness.fill_(1 / (2 * _BANDWIDTH * _usual_distance(distances)))
        trained = ~unseen
        if not unseen.any():
            return calibration
        if trained.any():
            calibration._average_over(trained)
            calibration._correct_by(unseen, distances)
            with_training = calibration._error_on(unseen, distances)
            if with_training <= calibration._error_without_training(unseen, distances):
                return calibration
        calibration._average_over(unseen)
        calibration.corrected.zero_()
        calibration.mean_error.zero_()
        return calibration

    def _average_over(self, members: Tensor) -> None:
        self.averaged.copy_(torch.where(members, 0.0, -torch.inf))

    def _correct_by(self, unseen: Tensor, distances: Tensor) -> None:
        errors = (self.logarithms - self._average(distances))[unseen]
        self.mean_error.copy_(errors.mean(dim=0))
        self.errors[unseen] = errors - self.mean_error
        self.corrected.copy_(unseen)

    def _error_on(self, unseen: Tensor, distances: Tensor) -> Tensor:
        """Mean squared error on each unseen image, corrected by the others."""
        others = distances.clone().fill_diagonal_(torch.inf)
        predicted = self._average(distances) + self._correction(others)
        return (predicted - self.logarithms)[unseen].square().mean()

    def _error_without_training(self, unseen: Tensor, distances: Tensor) -> Tensor:
        """Mean squared error on each unseen image, predicted from the others alone."""
        others = distances[unseen][:, unseen].clone()
        if len(others) < 2:
            return torch.tensor(torch.inf)
        weights = torch.softmax(-self.sharpness * others.fill_diagonal_(torch.inf), dim=1)
        return (weights @ self.logarithms[unseen] - self.logarithms[unseen]).square().mean()

    def predict(self, maps: Sequence[Tensor], distances: Tensor, categories: Sequence[str] | None) -> Tensor:
        """Add the two stages."""
        del maps, categories
        return (self._average(distances) + self._correction(distances)).exp()

    def _average(self, distances: Tensor) -> Tensor:
        return torch.softmax(self.averaged - self.sharpness * distances, dim=1) @ self.logarithms

    def _correction(self, distances: Tensor) -> Tensor:
        weights = self.corrected * torch.exp(-self.sharpness * distances)
        return self.mean_error + weights @ self.errors / (weights.sum(dim=1, keepdim=True) + _PRIOR_IMAGES)


def _usual_distance(distances: Tensor) -> float:
    """Median squared distance to the nearest other image."""
    if len(distances) < 2:
        return 1.0
    apart = distances.clone().fill_diagonal_(torch.inf)
    return max(float(apart.amin(dim=1).median()), torch.finfo(torch.float32).eps)
