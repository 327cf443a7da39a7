"""The query that the decoder starts from."""

import torch
from torch import nn

from .local_block import LightMultiGranularityBlock, MultiGranularityBlock


class LearnedQuery(nn.Module):
    """One learned query per position, the same for every image.

    Args:
        dim (int): Length D of a query.
        grid (tuple[int, int]): Rows and columns of the token grid.
    """

    def __init__(self, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(grid[0] * grid[1], dim))

    def forward(self, deepest: torch.Tensor) -> torch.Tensor:
        """Repeat the queries for every image.

        Args:
            deepest (torch.Tensor): Deepest map of the pixel decoder ``(B, D, h, w)``; only B is used.

        Returns:
            torch.Tensor: ``(B, h * w, D)``.
        """
        return self.queries.expand(deepest.shape[0], -1, -1)


class SampleAwareQuery(nn.Module):
    """Sample-aware re-weighted (SAR) query: two learned banks weighted per channel and per position.

    The weights come from the image (CBAM); as in the published code the two re-weightings are added and
    the two banks merged by an MGG-CNN.

    Args:
        dim (int): Length D of a query.
        grid (tuple[int, int]): Rows and columns of the token grid.
        light (bool): Whether the banks are merged by a :class:`LightMultiGranularityBlock`. Defaults to ``False``.
    """

    NUM_BANKS = 2

    def __init__(self, dim: int, grid: tuple[int, int], light: bool = False) -> None:
        super().__init__()
        self.grid = grid
        self.queries = nn.Parameter(torch.randn(self.NUM_BANKS * grid[0] * grid[1], dim))
        self.projection = nn.Conv2d(dim, dim, 3, padding=1)
        self.channel_mlp = nn.Sequential(
            nn.Linear(dim, dim // 2),
            nn.ReLU(),
            nn.Linear(dim // 2, dim // 2),
            nn.ReLU(),
            nn.Linear(dim // 2, dim),
        )
        self.spatial_conv = nn.Conv2d(2, 1, 7, padding=3)
        merge_class = LightMultiGranularityBlock if light else MultiGranularityBlock
        self.merge = merge_class(self.NUM_BANKS * dim, dim)

    def forward(self, deepest: torch.Tensor) -> torch.Tensor:
        """Weight the banks by the image and merge them.

        Args:
            deepest (torch.Tensor): Deepest map of the pixel decoder ``(B, D, h, w)``.

        Returns:
            torch.Tensor: ``(B, h * w, D)``.
        """
        feature = self.projection(deepest)
        average, maximum = feature.mean(dim=(2, 3)), feature.amax(dim=(2, 3))
        channel_weight = (self.channel_mlp(average) + self.channel_mlp(maximum)).sigmoid()
        pooled = torch.stack((feature.mean(dim=1), feature.amax(dim=1)), dim=1)
        spatial_weight = self.spatial_conv(pooled).sigmoid().flatten(1).repeat(1, self.NUM_BANKS)

        queries = (channel_weight[:, None, :] + spatial_weight[:, :, None]) * self.queries
        # In memory order: channel 2h + r of this image is hidden unit h of bank r, as in published weights.
        image = queries.mT.reshape(deepest.shape[0], -1, *self.grid)
        return self.merge(image).flatten(2).mT
