"""From a feature map of any level to one token per cell of the common grid."""

from typing import cast

import torch
from torch import nn
from torch.nn.functional import conv2d

from .composition import ComposedModule


class PatchEmbedding(ComposedModule):
    """Patches of a map as tokens, plus the learned embedding of the level (Eq. 3).

    Two consecutive linear maps, computed as one.

    Args:
        in_channels (int): Channels of the map.
        dim (int): Length D of a token.
        patch_size (int): Side of a patch, a power of two; 1 takes the pixels themselves.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        # 256, 384 and 512 for patches of 2, 4 and 8 at D = 256.
        patch_dim = dim * patch_size.bit_length() // 2
        self.embedding: nn.Module = nn.Identity()
        if patch_size > 1:
            self.embedding = nn.Conv2d(in_channels, patch_dim, patch_size, stride=patch_size)
        self.projection = nn.Conv2d(patch_dim if patch_size > 1 else in_channels, dim, 1)
        self.level = nn.Parameter(torch.randn(dim))

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """Embed a map.

        Args:
            feature (torch.Tensor): ``(B, in_channels, h * patch_size, w * patch_size)``.

        Returns:
            torch.Tensor: ``(B, h * w, D)``.
        """
        kernel, bias = self.composed()
        return conv2d(feature, kernel, bias, stride=kernel.shape[-1]).flatten(2).mT

    def plain(self, feature: torch.Tensor) -> torch.Tensor:
        """Embed a map step by step, without composed kernels.

        Args:
            feature (torch.Tensor): ``(B, in_channels, h * patch_size, w * patch_size)``.

        Returns:
            torch.Tensor: ``(B, h * w, D)``.
        """
        return self.projection(self.embedding(feature)).flatten(2).mT + self.level

    def compose(self) -> tuple[torch.Tensor, ...]:
        """Compose patch embedding, projection and level embedding.

        Returns:
            tuple[torch.Tensor, ...]: Kernel ``(D, in_channels, patch_size, patch_size)`` and bias ``(D,)``.
        """
        bias = cast("nn.Parameter", self.projection.bias) + self.level
        if not isinstance(self.embedding, nn.Conv2d):
            return self.projection.weight, bias
        projection, embedding = self.projection.weight.flatten(1), self.embedding.weight
        kernel = (projection @ embedding.flatten(1)).unflatten(1, embedding.shape[1:])
        return kernel, bias + projection @ cast("nn.Parameter", self.embedding.bias)
