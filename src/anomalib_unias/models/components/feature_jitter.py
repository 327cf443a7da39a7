"""Noise on features during training."""

from collections.abc import Iterable

import torch
from torch import nn


class FeatureJitter(nn.Module):
    """Additive noise on features, so that their reconstruction is not a copy.

    As in UniAD, the noise of a pixel is scaled by the norm of its feature vector divided by the number of channels.

    Args:
        scale (float): Strength of the noise. Defaults to ``20.0``.
        probability (float): Probability that a level of a batch gets noise. Defaults to ``0.5``.
    """

    def __init__(self, scale: float = 20.0, probability: float = 0.5) -> None:
        super().__init__()
        self.scale = scale
        self.probability = probability

    def forward(self, inputs: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """Add noise in training mode.

        Args:
            inputs (Iterable[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for each level.

        Returns:
            list[torch.Tensor]: The same shapes.
        """
        if not self.training:
            return list(inputs)
        return [self._jitter(level) if torch.rand(()).item() < self.probability else level for level in inputs]

    def _jitter(self, level: torch.Tensor) -> torch.Tensor:
        # Not norm(), which is slow along a dimension that is not the last.
        amplitude = level.square().sum(dim=1, keepdim=True).sqrt() * (self.scale / level.shape[1])
        return torch.addcmul(level, torch.randn_like(level), amplitude)
