"""Prototypes of normal patches, in the features of the frozen network."""

from collections.abc import Sequence
from math import ceil
from typing import cast

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, linear, normalize

from anomalib_unias.models.components import farthest_points

_POOL = 60_000
_AT_ONCE = 500
# A level with more pixels than this per pixel of the deepest level, along a side, has no view of its own.
_FINEST = 4
# Square of the smallest length of a feature vector, as in torch.nn.functional.normalize.
_SMALLEST_SQUARE = 1e-24
# Smallest usual distance, as a share of the spread of all patches: if there are few, all are near a prototype.
_SMALLEST_USUAL = 1e-3
# Smallest distance, as a share of the usual one: a zero would cancel the distances of the other views.
_SMALLEST_DISTANCE = 1e-2


class NormalPrototypes(nn.Module):
    """Distance of every patch of an image to the nearest normal prototype, in several views.

    A decoder has to learn what is normal, which takes long; prototypes are chosen in seconds, and make different
    errors. The idea is from PatchCore (Roth et al., CVPR 2022), whose patches are the ``deep`` view here. Different
    defects show in different features, so there are three more views: the directions of all levels, the finest level
    alone and the deepest level alone. The number of prototypes does not depend on the number of images. Not part of
    the UniAS paper.

    Args:
        channels (Sequence[int]): Channels of each level, shallow to deep.
        strides (Sequence[int]): Image pixels per feature pixel of each level.
        count (int): Prototypes per view. The ``finest`` view has fewer, so that it costs no more: ``count`` divided by
            the number of its pixels per pixel of the deepest level, along a side.

    Attributes:
        views: :class:`PrototypeView` by name: ``all``, ``deep`` (the two deepest levels), ``finest`` (the first level
            with at most four pixels per pixel of the deepest, along a side) and ``deepest``. With fewer than three
            levels, views that would repeat another one are left out.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], count: int) -> None:
        super().__init__()
        last = len(channels) - 1
        finest = next(level for level, stride in enumerate(strides) if strides[-1] <= _FINEST * stride)
        levels = range(last + 1)
        views = {"all": PrototypeView(channels, strides, levels, strides[-2:][0], count, 64, by_direction=True)}
        if last > 1:
            views["deep"] = PrototypeView(channels, strides, (last - 1, last), strides[-2], count, 128)
        if finest < last:
            finest_count = max(1, count * strides[finest] // strides[-1])
            views["finest"] = PrototypeView(channels, strides, (finest,), strides[finest], finest_count, 64)
        views["deepest"] = PrototypeView(channels, strides, (last,), strides[-1], count, 64)
        self.views = nn.ModuleDict(views)

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Compare with the prototypes.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for each level, shallow to deep.

        Returns:
            list[torch.Tensor]: ``(B, 1, h, w)`` for each view, at least 0.01; 1 is the usual distance of a normal
            patch.
        """
        return [view(features) for view in self._views()]

    def sample(self, features: Sequence[torch.Tensor], images: int) -> list[torch.Tensor]:
        """Draw random patches from a batch of images.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for each level, shallow to deep.
            images (int): Total number of images that patches are drawn from.

        Returns:
            list[torch.Tensor]: Descriptors ``(n, C)`` for each view.
        """
        return [view.sample(features, images) for view in self._views()]

    def fit(self, descriptors: Sequence[torch.Tensor]) -> None:
        """Choose the prototypes so that no normal patch is far from all of them.

        Args:
            descriptors (Sequence[torch.Tensor]): Descriptors of normal patches ``(n, C)`` for each view.
        """
        for view, view_descriptors in zip(self._views(), descriptors, strict=True):
            view.fit(view_descriptors)

    @property
    def fitted(self) -> bool:
        """Whether prototypes have been chosen."""
        return all(bool(view.fitted) for view in self._views())

    def _views(self) -> "list[PrototypeView]":
        return cast("list[PrototypeView]", list(self.views.values()))


class PrototypeView(nn.Module):
    """Distance of every patch to the nearest prototype, in the features of some levels.

    The descriptor of a patch concatenates the features of these levels, averaged over neighbours, and is projected to
    principal components. By direction, all levels have the same weight, as in the anomaly map of UniAS. Otherwise the
    components are whitened halfway, so that the largest do not hide the others.

    Until it is fitted, all prototypes are zero.

    Args:
        channels (Sequence[int]): Channels of each level, shallow to deep.
        strides (Sequence[int]): Image pixels per feature pixel of each level.
        levels (Sequence[int]): Indices of the levels that are used.
        grid_stride (int): Image pixels per patch, along each side.
        count (int): Number of prototypes.
        length (int): Maximum number of principal components.
        by_direction (bool): Whether feature vectors are normalised to the same length, level by level. Defaults to
            ``False``.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        levels: Sequence[int],
        grid_stride: int,
        count: int,
        length: int,
        by_direction: bool = False,
    ) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.strides = tuple(strides[level] for level in levels)
        self.grid_stride = grid_stride
        self.by_direction = by_direction
        # Relative to the deepest level, whose size follows from the size of the image.
        self.patches_per_deepest = strides[-1] // grid_stride
        width = sum(channels[level] for level in levels)
        length = min(length, width)
        self.fitted: torch.Tensor
        self.mean: torch.Tensor
        self.components: torch.Tensor
        self.prototypes: torch.Tensor
        self.usual: torch.Tensor
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("components", torch.eye(width, length))
        self.register_buffer("prototypes", torch.zeros(count, length))
        self.register_buffer("usual", torch.tensor(1.0))

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compare with the prototypes.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for all levels, shallow to deep.

        Returns:
            torch.Tensor: ``(B, 1, h, w)``, the distance to the nearest prototype in the space of the principal
            components, at least 0.01; 1 is the usual distance of a normal patch.
        """
        patches = [one.movedim(1, -1) for one in self._on_grid(features)]
        components = self.components.mT.split([one.shape[-1] for one in patches], dim=1)
        # The same as projecting the result of describe(), but the many channels are neither scaled nor concatenated.
        projected = [linear(one, axes) for one, axes in zip(patches, components, strict=True)]
        if self.by_direction:
            lengths = [one.square().sum(dim=-1, keepdim=True).clamp_min(_SMALLEST_SQUARE).rsqrt() for one in patches]
            projected = [part * length / len(patches) ** 0.5 for part, length in zip(projected, lengths, strict=True)]
        reduced = torch.stack(projected).sum(dim=0) - self.mean @ self.components
        # |a - b|^2 = |a|^2 + (|b|^2 - 2 ab), for a few prototypes at a time so that the products fit in the CPU cache.
        nearest = [
            linear(reduced, -2 * part, part.square().sum(dim=1)).amin(dim=-1)
            for part in self.prototypes.split(_AT_ONCE)
        ]
        squared = reduced.square().sum(dim=-1) + torch.stack(nearest).amin(dim=0)
        return (squared / self.usual**2).clamp_min(_SMALLEST_DISTANCE**2).sqrt().unsqueeze(1)

    def describe(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Average neighbours and bring the levels to the grid.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for all levels, shallow to deep.

        Returns:
            torch.Tensor: ``(B, h, w, C)``, the levels concatenated. By direction, half the squared distance of two
            descriptors is the mean of the cosine distances of their levels.
        """
        levels = self._on_grid(features)
        if self.by_direction:
            levels = [normalize(level, dim=1) / len(levels) ** 0.5 for level in levels]
        return torch.cat(levels, dim=1).movedim(1, -1)

    def _on_grid(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Averages over neighbours: ``(B, C_l, h, w)`` for each level that is used."""
        size = [side * self.patches_per_deepest for side in features[-1].shape[-2:]]
        levels = []
        for index, stride in zip(self.levels, self.strides, strict=True):
            feature = avg_pool2d(features[index], 3, stride=1, padding=1)
            if stride < self.grid_stride:
                feature = avg_pool2d(feature, self.grid_stride // stride)
            elif stride > self.grid_stride:
                feature = interpolate(feature, size=size, mode="bilinear", align_corners=False)
            levels.append(feature)
        return levels

    def sample(self, features: Sequence[torch.Tensor], images: int) -> torch.Tensor:
        """Draw random patches from a batch of images.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for all levels, shallow to deep.
            images (int): Total number of images that patches are drawn from.

        Returns:
            torch.Tensor: Descriptors ``(n, C)``.
        """
        patches = self.describe(features).flatten(0, 2)
        count = min(len(patches), ceil(_POOL * len(features[0]) / images))
        return patches[torch.randperm(len(patches))[:count].to(patches.device)]

    @torch.no_grad()
    def fit(self, descriptors: torch.Tensor) -> None:
        """Choose the prototypes so that no normal patch is far from all of them.

        Args:
            descriptors (torch.Tensor): Descriptors of normal patches ``(n, C)``.
        """
        self.mean.copy_(descriptors.mean(dim=0))
        variances, axes = torch.linalg.eigh(torch.cov(descriptors.mT))
        variances, axes = (part[..., -self.components.shape[1] :] for part in (variances, axes))
        if not self.by_direction:
            limits = torch.finfo(descriptors.dtype)
            axes = axes * (variances / variances[-1].clamp_min(limits.tiny)).clamp_min(limits.eps) ** -0.25
        self.components.copy_(axes)
        reduced = (descriptors - self.mean) @ self.components
        count = len(self.prototypes)
        if count < len(reduced):
            chosen, squared = farthest_points(reduced, count)
            self.prototypes.copy_(reduced[chosen])
            usual = (squared.sum() / (len(reduced) - count)).sqrt()  # chosen patches do not count
            spread = reduced.square().sum(dim=1).mean()
            if spread > 0:
                self.usual.copy_(usual.clamp_min(_SMALLEST_USUAL * spread.sqrt()))
        else:
            self.prototypes.copy_(reduced[torch.arange(count) % len(reduced)])
        self.fitted.fill_(True)
