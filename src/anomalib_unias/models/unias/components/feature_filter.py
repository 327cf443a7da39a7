"""What happens to the features of the frozen network before the decoder sees them."""

from collections.abc import Iterable, Sequence

import torch
from anomalib.models.components import GaussianBlur2d
from torch import nn


class FeatureScaler(nn.Module):
    """Bring every level to unit mean square over the training images.

    Without it the shallow levels of some backbones are so large that the squared error of the loss
    hides its cosine term. Not part of the paper. Does nothing until it is fitted.

    Args:
        channels (Sequence[int]): Channels of each level.
        equality (float): How far the channels of a level are brought to the same size: 0 keeps their
            proportions, 1 makes them equal. Defaults to ``1.0``.
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
        """Take the scales from the mean square of every channel.

        Args:
            mean_squares (Sequence[torch.Tensor]): ``(C_l,)`` for each level, mean over images and pixels.
        """
        for index, mean_square in enumerate(mean_squares):
            # A dead channel must not be blown up: its scale is bounded by that of its level.
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
        """Split every level into what is reconstructed and what the decoder sees.

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


class FeatureJitter(nn.Module):
    """Additive noise on the decoder inputs, so that reconstruction is not a copy.

    The noise of a pixel is scaled by the norm of its feature vector divided by its length (the UniAD recipe).

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
            inputs (Iterable[torch.Tensor]): ``(B, 2 C_l, H_l, W_l)`` for each level.

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


def gaussian_blur(sigma: float, kernel_size: int, channels: int) -> GaussianBlur2d:
    """Depthwise Gaussian blur with reflected border whose kernel is no part of the state dict.

    Args:
        sigma (float): Standard deviation in pixels.
        kernel_size (int): Side of the kernel, odd.
        channels (int): Number of channels.

    Returns:
        GaussianBlur2d: Maps ``(B, channels, H, W)`` to the same shape.
    """
    blur = GaussianBlur2d(sigma=sigma, channels=channels, kernel_size=kernel_size)
    blur.register_buffer("kernel", blur.kernel.contiguous(), persistent=False)
    return blur
