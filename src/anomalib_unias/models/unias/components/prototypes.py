"""Prototypes of normal patches, in the features of the frozen network."""

from collections.abc import Sequence
from hashlib import blake2b
from math import ceil
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, linear, normalize

from anomalib_unias.models.components import farthest_points
from anomalib_unias.post_processing.clusters import ImageClusters

_POOL = 60_000
_AT_ONCE = 500
# Fewer images are not a kind of their own.
_SMALLEST_KIND = 10
# Different products leave few images outside of all clusters; clusters within one product leave most of them.
_MOST_OUTLIERS = 0.25
# All kinds together have at most this many times the prototypes of one kind.
_MOST_FULL_KINDS = 16
# Number of patches from which the usual distance is estimated.
_FOR_USUAL = 4000
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
    alone and the deepest level alone. Not part of the UniAS paper.

    Every kind of image, such as a product, has its own prototypes: what is normal for one product can be a defect of
    another. The kinds are clusters of the training images, found without labels, see
    :class:`~anomalib_unias.post_processing.clusters.ImageClusters`. An image is compared with the prototypes of its
    kind only, so that the cost does not depend on the number of products.

    Args:
        channels (Sequence[int]): Channels of each level, shallow to deep.
        strides (Sequence[int]): Image pixels per feature pixel of each level.
        count (int): Prototypes per view and kind; fewer if there are more than 16 kinds. The ``finest`` view has
            fewer, so that it costs no more: ``count`` divided by the number of its pixels per pixel of the deepest
            level, along a side.

    Attributes:
        kinds: Clusters of the training images.
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
        self.kinds = ImageClusters(sum(channels), 1, 1)
        self.register_load_state_dict_pre_hook(_prepare)

    def forward(self, features: Sequence[torch.Tensor], left_out: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Compare with the prototypes.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for each level, shallow to deep.
            left_out (torch.Tensor | None): One number of :func:`image_numbers` for each image ``(B,)``, which is then
                not compared with the prototypes from this training image. Defaults to ``None``.

        Returns:
            list[torch.Tensor]: ``(B, 1, h, w)`` for each view, at least 0.01; 1 is the usual distance of a normal
            patch.
        """
        kind = self.kinds(features).cluster if len(self.kinds) > 1 else None
        return [view(features, kind, left_out) for view in self.list_views()]

    def fit_kinds(self, descriptors: torch.Tensor) -> None:
        """Find the kinds of images.

        Args:
            descriptors (torch.Tensor): ``(N, D)`` from :func:`~.post_processing.clusters.image_descriptors`.
        """
        new = torch.ones(len(descriptors), dtype=torch.bool)
        self.kinds = ImageClusters.fit(descriptors.cpu(), new, _SMALLEST_KIND, _MOST_OUTLIERS).to(descriptors.device)

    def sample(self, features: Sequence[torch.Tensor], images: int) -> list[torch.Tensor]:
        """Draw random patches from a batch of images.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for each level, shallow to deep.
            images (int): Total number of images that patches are drawn from.

        Returns:
            list[torch.Tensor]: Descriptors ``(n, C)`` for each view.
        """
        return [view.sample(features, images) for view in self.list_views()]

    @property
    def fitted(self) -> bool:
        """Whether prototypes have been chosen."""
        return all(bool(view.fitted) for view in self.list_views())

    @property
    def knows_images(self) -> bool:
        """Whether the training images of the prototypes are known."""
        return all(bool(view.source.any()) for view in self.list_views())

    def prepare_for(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Make room for the kinds of images of a saved model, whose number has been found in its training.

        Args:
            state_dict (dict[str, Any]): State dict that is going to be loaded. That of a version without kinds gets
                one kind.
            prefix (str): Prefix of the names of these prototypes.
        """
        centers = state_dict.get(f"{prefix}kinds.centers", torch.zeros(1, 1))
        self.kinds = ImageClusters(len(self.kinds.origin), centers.shape[1], len(centers)).to(self.kinds.origin)
        if f"{prefix}kinds.centers" not in state_dict:
            state_dict |= {f"{prefix}kinds.{name}": value for name, value in self.kinds.state_dict().items()}
            for name in self.views:
                for part, ndim in (("prototypes", 3), ("usual", 1)):
                    key = f"{prefix}views.{name}.{part}"
                    if key in state_dict and state_dict[key].ndim < ndim:
                        state_dict[key] = state_dict[key].unsqueeze(0)
        for name, view in zip(self.views, self.list_views(), strict=True):
            view.make_room(len(self.kinds))
            # Checkpoints of earlier versions do not have it.
            state_dict.setdefault(f"{prefix}views.{name}.source", view.source)

    def list_views(self) -> "list[PrototypeView]":
        """Get the views in their order."""
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
        count (int): Number of prototypes of each kind of image.
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
        self.count = count
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
        self.source: torch.Tensor
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("components", torch.eye(width, length))
        self.register_buffer("prototypes", torch.zeros(1, count, length))
        self.register_buffer("usual", torch.ones(1))
        # Number of the training image of each prototype.
        self.register_buffer("source", torch.zeros(1, count, dtype=torch.int64))

    def forward(
        self,
        features: Sequence[torch.Tensor],
        kind: torch.Tensor | None = None,
        left_out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compare with the prototypes.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for all levels, shallow to deep.
            kind (torch.Tensor | None): Kind of each image ``(B,)``, int64. Defaults to ``None``: there is only one.
            left_out (torch.Tensor | None): Number of a training image for each image ``(B,)``, int64, whose prototypes
                are left out, unless there are no others. Defaults to ``None``.

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
        # |b|^2 is computed for all kinds, because it is a constant in exports then.
        constants = (self.prototypes, self.prototypes.square().sum(dim=-1, keepdim=True).mT, self.usual.square())
        prototypes, squares, usual = constants if kind is None else (constant[kind] for constant in constants)
        if left_out is not None:
            own = (self.source if kind is None else self.source[kind]) == left_out.unsqueeze(1)
            own = own & ~own.all(dim=1, keepdim=True)
            squares = torch.where(own.unsqueeze(1), torch.inf, squares)
        points = reduced.flatten(1, 2)
        parts = zip(prototypes.split(_AT_ONCE, dim=1), squares.split(_AT_ONCE, dim=2), strict=True)
        nearest = [(-2 * points @ part.mT + square).amin(dim=-1) for part, square in parts]
        squared = points.square().sum(dim=-1) + torch.stack(nearest).amin(dim=0)
        distance = (squared / usual.unsqueeze(1)).clamp_min(_SMALLEST_DISTANCE**2).sqrt()
        return distance.unflatten(1, reduced.shape[1:3]).unsqueeze(1)

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
    def fit_components(self, descriptors: torch.Tensor) -> None:
        """Find the principal components, which all kinds share.

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

    def project(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute the principal components of all patches.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for all levels, shallow to deep.

        Returns:
            torch.Tensor: ``(B, n, L)``.
        """
        return (self.describe(features).flatten(1, 2) - self.mean) @ self.components

    @torch.no_grad()
    def fit(self, patches: "Patches", source: Sequence[int]) -> None:
        """Choose the prototypes of every kind so that none of its normal patches is far from all of them.

        Args:
            patches (Patches): Patches of normal images.
            source (Sequence[int]): Kind whose patches are used, for each kind.
        """
        self.make_room(len(source))
        for index, kind in enumerate(source):
            self._fit_kind(index, patches.of(kind))
        self.fitted.fill_(True)

    def make_room(self, kinds: int) -> None:
        """Set the number of kinds; all prototypes are zero then.

        Args:
            kinds (int): Number of kinds K.
        """
        count = max(1, min(self.count, _MOST_FULL_KINDS * self.count // kinds))
        self.prototypes = self.prototypes.new_zeros(kinds, count, self.prototypes.shape[2])
        self.usual = self.usual.new_ones(kinds)
        self.source = self.source.new_zeros(kinds, count)

    def _fit_kind(self, index: int, patches: "Patches") -> None:
        points, count = patches.points, self.prototypes.shape[1]
        if count < len(points):
            chosen, _ = farthest_points(points, count)
        else:
            chosen = torch.arange(count, device=points.device) % len(points)
        # A new image has no prototypes of its own, so neither may these images.
        some = torch.randperm(len(points))[:_FOR_USUAL].to(points.device)
        distances = torch.cdist(points[some], points[chosen])
        same_image = patches.image[some, None] == patches.image[chosen]
        nearest = distances.masked_fill(same_image, torch.inf).amin(dim=1)
        if nearest.isinf().any():  # all prototypes are from one image
            nearest = distances.amin(dim=1)
        self.prototypes[index], self.source[index] = points[chosen], patches.image[chosen]
        spread = points.square().sum(dim=1).mean().sqrt()
        if spread > 0:
            self.usual[index] = nearest.square().mean().sqrt().clamp_min(_SMALLEST_USUAL * spread)


class Patches(NamedTuple):
    """Some patches of normal images.

    Attributes:
        points: Their principal components ``(n, L)``.
        kind: Kind of their image ``(n,)``, int64.
        image: Number of their image ``(n,)``, int64.
    """

    points: torch.Tensor
    kind: torch.Tensor
    image: torch.Tensor

    @staticmethod
    def join(parts: "Sequence[Patches]") -> "Patches":
        """Concatenate several sets of patches."""
        return Patches(*(torch.cat(field) for field in zip(*parts, strict=True)))

    def of(self, kind: int) -> "Patches":
        """Select the patches of one kind."""
        chosen = self.kind == kind
        return Patches(*(part[chosen] for part in self))


def image_numbers(paths: Sequence[str]) -> torch.Tensor:
    """Number training images by their paths, equally in all processes.

    Args:
        paths (Sequence[str]): Paths of B images.

    Returns:
        torch.Tensor: ``(B,)``, int64; different for different paths.
    """
    digests = [blake2b(str(path).encode(), digest_size=8).digest() for path in paths]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests])


def _prepare(prototypes: NormalPrototypes, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    del args
    prototypes.prepare_for(state_dict, prefix)
