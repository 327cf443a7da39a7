"""From decoder tokens back to the features of a level."""

import torch
from torch import nn
from torch.nn.functional import interpolate


class ResizeHead(nn.Module):
    """Bilinear resize and three linear 3x3 convolutions, as in the published code.

    Args:
        dim (int): Channels D of the decoder state.
        channels (int): Channels C of the level.
        patch_size (int): Feature pixels of the level per token, along each side.
    """

    def __init__(self, dim: int, channels: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.convolutions = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1),
            nn.Conv2d(dim, dim, 3, padding=1),
            nn.Conv2d(dim, channels, 3, padding=1),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Reconstruct a level.

        Args:
            image (torch.Tensor): Normalised decoder state ``(B, D, h, w)``.

        Returns:
            torch.Tensor: ``(B, C, h * patch_size, w * patch_size)``.
        """
        if self.patch_size > 1:
            size = [side * self.patch_size for side in image.shape[-2:]]
            image = interpolate(image, size=size, mode="bilinear", align_corners=True)
        return self.convolutions(image)


class TransposedHead(nn.ConvTranspose2d):
    """One transposed convolution that unfolds every token into its patch, as in the text of the paper.

    Args:
        dim (int): Channels D of the decoder state.
        channels (int): Channels C of the level.
        patch_size (int): Feature pixels of the level per token, along each side.
    """

    def __init__(self, dim: int, channels: int, patch_size: int) -> None:
        super().__init__(dim, channels, kernel_size=patch_size, stride=patch_size)
