"""Descriptors of the training images, and how far an image is from them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# An image is unfamiliar beyond this multiple of the distance at which the loneliest training image has its neighbour.
_MARGIN = 1.5


def describe(maps: Sequence[Tensor]) -> Tensor:
    """Describe images by the means of their features: local defects hardly move them.

    Args:
        maps (Sequence[Tensor]): Features ``(B, C_l, H_l, W_l)`` of each level.

    Returns:
        Tensor: ``(B, D)``, D being the sum of all channels.
    """
    return torch.cat([level.mean(dim=(2, 3)) for level in maps], dim=1)


class FeatureMemory(nn.Module):
    """Keeps the descriptors of N images in P dimensions.

    Args:
        images (int): N.
        channels (int): D, the length of a descriptor.
        dimensions (int): P, at most N and D.
    """

    def __init__(self, images: int, channels: int, dimensions: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(channels))
        self.register_buffer("projection", torch.zeros(channels, dimensions))
        self.register_buffer("bank", torch.zeros(images, dimensions))
        self.register_buffer("limit", torch.zeros(()))
        self.center: Tensor
        self.projection: Tensor
        self.bank: Tensor
        self.limit: Tensor

    @classmethod
    def fit(cls, descriptors: Tensor, dimensions: int = 64) -> "FeatureMemory":
        """Remember images.

        Args:
            descriptors (Tensor): ``(N, D)``.
            dimensions (int): Principal axes that are kept, if there are as many. Defaults to ``64``.

        Returns:
            FeatureMemory: Distances are in units of the average spread of the descriptors.
        """
        descriptors = descriptors.double()
        spread = descriptors.std(dim=0, correction=0)
        scale = torch.where(spread > 0, 1 / spread, torch.zeros_like(spread)) / descriptors.shape[1] ** 0.5
        centred = (descriptors - descriptors.mean(dim=0)) * scale
        axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(dims=(1,))[:, :dimensions]
        memory = cls(descriptors.shape[0], descriptors.shape[1], axes.shape[1])
        memory.center.copy_(descriptors.mean(dim=0))
        memory.projection.copy_(scale[:, None] * axes)
        memory.bank.copy_(centred @ axes)
        if len(memory) > 1:
            apart = memory.between()
            apart.fill_diagonal_(torch.inf)
            memory.limit.copy_(_MARGIN**2 * apart.amin(dim=1).amax())
        return memory

    def __len__(self) -> int:
        return len(self.bank)

    @property
    def arguments(self) -> dict[str, int]:
        """Arguments of the constructor, plain data."""
        return {"images": len(self.bank), "channels": len(self.center), "dimensions": self.bank.shape[1]}

    def between(self) -> Tensor:
        """Squared distances ``(N, N)`` between the images."""
        return _squared_distances(self.bank, self.bank)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Compute squared distances.

        Args:
            maps (Sequence[Tensor]): Features ``(B, C_l, H_l, W_l)`` of each level.

        Returns:
            Tensor: ``(B, N)``.
        """
        return _squared_distances((describe(maps) - self.center) @ self.projection, self.bank)


def _squared_distances(ones: Tensor, others: Tensor) -> Tensor:
    squares = ones.square().sum(dim=1, keepdim=True) + others.square().sum(dim=1)
    return (squares - 2 * ones @ others.T).clamp(min=0)
