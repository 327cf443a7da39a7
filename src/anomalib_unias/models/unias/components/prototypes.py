"""What normal places look like: prototypes of the features of the frozen network."""

from collections.abc import Sequence
from math import ceil

import torch
from anomalib.models.components import KCenterGreedy
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, linear, normalize

_LENGTH = 64
_POOL = 60_000
_AT_ONCE = 500
# Square of the smallest length of a feature vector, that of torch.nn.functional.normalize.
_SMALLEST_SQUARE = 1e-24


class NormalPrototypes(nn.Module):
    """Distance of every place of an image to the nearest prototype of normal places.

    A decoder has to learn what is normal, which takes long; prototypes are chosen in seconds, and err in other places.
    The idea is that of PatchCore (Roth et al., CVPR 2022). Here all levels count the same, each by the direction of
    its feature vector alone, as in the anomaly map of UniAS, so that distances of different products compare; and
    their number is fixed, whatever the number of images. Not part of the UniAS paper.

    Until it is fitted there is one prototype, zero.

    Args:
        channels (Sequence[int]): Channels of each level, shallow to deep.
        strides (Sequence[int]): Image pixels per feature pixel of each level. Prototypes are compared on the grid of
            the last level but one.
        count (int): Number of prototypes.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], count: int) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.grid_stride = self.strides[-2:][0]
        width = sum(channels)
        self.fitted: torch.Tensor
        self.mean: torch.Tensor
        self.components: torch.Tensor
        self.prototypes: torch.Tensor
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("components", torch.eye(width, min(_LENGTH, width)))
        self.register_buffer("prototypes", torch.zeros(count, min(_LENGTH, width)))

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compare with the prototypes.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for each level, shallow to deep.

        Returns:
            torch.Tensor: ``(B, 1, h, w)``, the mean cosine distance of the levels to the nearest prototype, in
            [0, 2], as far as the principal components tell.
        """
        places = [place.movedim(1, -1) for place in self._on_common_grid(features)]
        components = self.components.mT.split([place.shape[-1] for place in places], dim=1)
        # As describe() and a projection of its result, but the many channels are neither scaled nor put side by side.
        projected = [
            linear(place, axes) * place.square().sum(dim=-1, keepdim=True).clamp_min(_SMALLEST_SQUARE).rsqrt()
            for place, axes in zip(places, components, strict=True)
        ]
        reduced = torch.stack(projected).sum(dim=0) / len(places) ** 0.5 - self.mean @ self.components
        # |a - b|^2 = |a|^2 + (|b|^2 - 2 ab), for a few prototypes at a time, whose products stay in the cache.
        nearest = [
            linear(reduced, -2 * part, part.square().sum(dim=1)).amin(dim=-1)
            for part in self.prototypes.split(_AT_ONCE)
        ]
        squared = reduced.square().sum(dim=-1) + torch.stack(nearest).amin(dim=0)
        return squared.clamp_min(0).unsqueeze(1) / 2

    def describe(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Average neighbours, bring all levels to the common grid and keep the directions.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for each level, shallow to deep.

        Returns:
            torch.Tensor: ``(B, h, w, C)``, the levels side by side; half the squared distance of two descriptors is
            the mean of the cosine distances of their levels.
        """
        levels = [normalize(place, dim=1) for place in self._on_common_grid(features)]
        return torch.cat(levels, dim=1).movedim(1, -1) / len(levels) ** 0.5

    def _on_common_grid(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Averages over neighbours: ``(B, C_l, h, w)`` for each level."""
        size = [side * self.strides[-1] // self.grid_stride for side in features[-1].shape[-2:]]
        levels = []
        for feature, stride in zip(features, self.strides, strict=True):
            feature = avg_pool2d(feature, 3, stride=1, padding=1)
            if stride < self.grid_stride:
                feature = avg_pool2d(feature, self.grid_stride // stride)
            elif stride > self.grid_stride:
                feature = interpolate(feature, size=size, mode="bilinear", align_corners=False)
            levels.append(feature)
        return levels

    def sample(self, features: Sequence[torch.Tensor], images: int) -> torch.Tensor:
        """Draw some places of some images.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for each level, shallow to deep.
            images (int): Number of images that are drawn from in all.

        Returns:
            torch.Tensor: Descriptors ``(n, C)``.
        """
        places = self.describe(features).flatten(0, 2)
        count = min(len(places), ceil(_POOL * len(features[0]) / images))
        return places[torch.randperm(len(places))[:count].to(places.device)]

    @torch.no_grad()
    def fit(self, places: torch.Tensor) -> None:
        """Choose the prototypes so that no normal place is far from all of them.

        Args:
            places (torch.Tensor): Descriptors of normal places ``(n, C)``.
        """
        self.mean.copy_(places.mean(dim=0))
        _, axes = torch.linalg.eigh(torch.cov(places.mT))
        self.components.copy_(axes[:, -self.components.shape[1] :])
        reduced = (places - self.mean) @ self.components
        count = len(self.prototypes)
        if count < len(reduced):
            reduced = BoundedKCenterGreedy(reduced, count).sample_coreset()
        self.prototypes.copy_(reduced.flatten(1)[torch.arange(count) % len(reduced)])
        self.fitted.fill_(True)


class BoundedKCenterGreedy(KCenterGreedy):
    """The selection of anomalib's ``KCenterGreedy`` without a copy of all places for every prototype.

    Those copies, of anomalib 2.7.0, took all 24 GB of a machine that kept them for later use.

    Args:
        places (torch.Tensor): Descriptors ``(n, C)``.
        count (int): Number of places to choose, less than n.
    """

    def __init__(self, places: torch.Tensor, count: int) -> None:
        # Three dimensions: two are projected, to more dimensions than there are.
        super().__init__(places[:, None], (count + 0.5) / len(places))
        self.squares = places.square().sum(dim=1)
        self._distances = torch.empty_like(self.squares)

    def update_distances(self, cluster_center: int | torch.Tensor | None) -> None:
        """Take another place into account.

        Args:
            cluster_center (int | torch.Tensor | None): Index of the place.
        """
        center = self.features[cluster_center]
        if self.min_distances is None:
            self.min_distances = torch.full_like(self.squares, torch.inf).unsqueeze(1)
        # |a - b|^2 = |a|^2 + (|b|^2 - 2 ab), in memory that is there: of new blocks the allocator kept one for every
        # place that was chosen, 2 MB each where 350 MB of places were chosen from.
        torch.addmv(self.squares, self.features, center, alpha=-2, out=self._distances)
        self._distances += center @ center
        torch.minimum(self.min_distances.squeeze(1), self._distances, out=self.min_distances.squeeze(1))
