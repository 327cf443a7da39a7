"""Scaling and filtering of the frozen network's features, before the decoder."""

from collections.abc import Sequence

import torch
from torch import nn

from anomalib_unias.models.components import gaussian_blur


class FeatureScaler(nn.Module):
    """Scale every level to unit mean square over the training images.

    Without it, the shallow levels of some backbones are so large that the squared error dominates the cosine term of
    the loss. Not part of the paper. Does nothing until it is fitted.

    Args:
        channels (Sequence[int]): Channels of each level.
        equality (float): How far the channels of a level are equalised, in [0, 1]: 0 keeps their proportions, 1 makes
            them equal. Defaults to ``1.0``.
    """

    def __init__(self, channels: Sequence[int], equality: float = 1.0) -> None:
        super().__init__()
        self.num_levels = len(channels)
        self.equality = equality
        self.fitted: torch.Tensor
        self.register_buffer("fitted", torch.tensor(False))
        for index, count in enumerate(channels):
            self.register_buffer(f"scale_{index}", torch.ones(count))

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Scale the features.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for each level.

        Returns:
            list[torch.Tensor]: The same shapes.
        """
        return [feature * getattr(self, f"scale_{index}").view(1, -1, 1, 1) for index, feature in enumerate(features)]

    @torch.no_grad()
    def fit(self, mean_squares: Sequence[torch.Tensor]) -> None:
        """Compute the scales from the mean square of every channel.

        Args:
            mean_squares (Sequence[torch.Tensor]): ``(C_l,)`` for each level, mean over images and pixels.
        """
        for index, mean_square in enumerate(mean_squares):
            # A dead channel must not be amplified: its scale is bounded by that of its level.
            bounded = mean_square.clamp_min(1e-4 * mean_square.mean()).clamp_min(1e-12)
            scale = bounded ** (-self.equality / 2)
            getattr(self, f"scale_{index}").copy_(scale / (bounded * scale.square()).mean().sqrt())
        self.fitted.fill_(True)


class FeatureFilter(nn.Module):
    """Gaussian smoothing and its residual (Eq. 2).

    The residual has the sign of the published code, ``v - G(v)``.

    Args:
        channels (Sequence[int]): Channels of each level.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.blurs = nn.ModuleList(gaussian_blur(1.0, 3, count) for count in channels)

    def forward(self, features: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Compute decoder inputs and reconstruction targets of every level.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for each level.

        Returns:
            tuple[list[torch.Tensor], list[torch.Tensor]]: Decoder inputs ``(B, 2 C_l, H_l, W_l)`` and
            reconstruction targets ``(B, C_l, H_l, W_l)`` for each level.
        """
        targets = [blur(feature) for blur, feature in zip(self.blurs, features, strict=True)]
        inputs = [
            torch.cat((target, feature - target), dim=1) for target, feature in zip(targets, features, strict=True)
        ]
        return inputs, targets
