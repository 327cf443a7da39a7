"""Clusters of images, found from their features only: they replace the unknown category."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from sklearn.cluster import HDBSCAN
from torch import Tensor, nn

_SMALLEST_CLUSTER = 3
_DIMENSIONS = 64
# HDBSCAN compares all pairs of images, so it gets a random sample of at most this many: it misses rare clusters only.
_MOST_IMAGES = 4096
_MOST_CLUSTERS = 1024
_SHRINKAGE = 0.05


def image_descriptors(maps: Sequence[Tensor]) -> Tensor:
    """Describe images by the means of their features, which local defects hardly change.

    Args:
        maps (Sequence[Tensor]): Features ``(B, C_l, H_l, W_l)`` of each level.

    Returns:
        Tensor: ``(B, D)``, D being the sum of all channels.
    """
    return torch.cat([level.mean(dim=(2, 3)) for level in maps], dim=1)


class Assignment(NamedTuple):
    """Nearest clusters of images.

    Attributes:
        cluster: Index of the nearest cluster, ``(B,)``, int64.
        distance: Distance to its centre, ``(B,)``, in units of the mean distance of its unseen normal images (of a
            little more if there are few).
    """

    cluster: Tensor
    distance: Tensor


class ImageClusters(nn.Module):
    """Clusters of normal images, such as the products of a line.

    HDBSCAN (Campello et al. 2013) on the standardised means of the feature maps finds the clusters and their number. An
    image belongs to the cluster with the nearest centre, by the Mahalanobis distance with one covariance for all
    clusters (linear discriminant analysis).

    Args:
        channels (int): Length D of a descriptor.
        dimensions (int): Number P of principal axes that are kept.
        clusters (int): Number K of clusters.
    """

    def __init__(self, channels: int, dimensions: int, clusters: int) -> None:
        super().__init__()
        self.register_buffer("origin", torch.zeros(channels))
        self.register_buffer("projection", torch.zeros(channels, dimensions))
        self.register_buffer("centers", torch.zeros(clusters, dimensions))
        self.register_buffer("radii", torch.ones(clusters))
        self.origin: Tensor
        self.projection: Tensor
        self.centers: Tensor
        self.radii: Tensor

    @classmethod
    def fit(
        cls, descriptors: Tensor, unseen: Tensor, smallest: int = _SMALLEST_CLUSTER, most_outliers: float = 1.0
    ) -> "ImageClusters":
        """Find the clusters.

        Args:
            descriptors (Tensor): Descriptors of N normal images, ``(N, D)``.
            unseen (Tensor): Images that represent new images, ``(N,)`` bool; at least one.
            smallest (int): Smallest number of images in a cluster. Defaults to ``3``.
            most_outliers (float): Largest share of images outside of all clusters; if there are more, all images are
                one cluster. Defaults to ``1.0``: any share.

        Returns:
            ImageClusters: Fitted; the same descriptors give the same clusters.
        """
        descriptors = descriptors.double()
        origin, spread = descriptors.mean(dim=0), descriptors.std(dim=0, correction=0)
        scale = torch.where(spread > 0, 1 / spread, torch.zeros_like(spread)) / descriptors.shape[1] ** 0.5
        axes = _principal_axes((descriptors - origin) * scale)
        points = (descriptors - origin) * scale @ axes
        centers = _centers(points, smallest, most_outliers)
        nearest = torch.cdist(points, centers).argmin(dim=1)
        whitening = _whitening(points - centers[nearest])

        clusters = cls(descriptors.shape[1], axes.shape[1], len(centers))
        clusters.origin.copy_(origin)
        clusters.projection.copy_(scale[:, None] * axes @ whitening)
        clusters.centers.copy_(centers @ whitening)
        assignment = clusters.assign(descriptors[unseen].float())
        clusters.radii.copy_(_mean_by_cluster(assignment, len(centers)))
        return clusters

    @property
    def arguments(self) -> dict[str, int]:
        """Arguments of the constructor, as plain data."""
        return dict(zip(("channels", "dimensions"), self.projection.shape, strict=True)) | {"clusters": len(self)}

    def __len__(self) -> int:
        return len(self.centers)

    def forward(self, maps: Sequence[Tensor]) -> Assignment:
        """Find the cluster of images.

        Args:
            maps (Sequence[Tensor]): Features ``(B, C_l, H_l, W_l)`` of each level.

        Returns:
            Assignment: Cluster and distance of each image.
        """
        return self.assign(image_descriptors(maps))

    def assign(self, descriptors: Tensor) -> Assignment:
        """Find the cluster of descriptors ``(B, D)``."""
        points = (descriptors - self.origin) @ self.projection
        squares = points.square().sum(dim=1, keepdim=True) + self.centers.square().sum(dim=1)
        nearest = (squares - 2 * points @ self.centers.T).min(dim=1)
        return Assignment(nearest.indices, nearest.values.clamp(min=0).sqrt() / self.radii[nearest.indices])

    def nearest_among(self, candidates: Tensor) -> Tensor:
        """Find for each cluster the nearest ``(K,)`` of some clusters, which are given by their indices ``(k,)``."""
        return candidates[torch.cdist(self.centers, self.centers[candidates]).argmin(dim=1)]


def _principal_axes(points: Tensor) -> Tensor:
    return torch.linalg.eigh(points.T @ points).eigenvectors.flip(dims=(1,))[:, :_DIMENSIONS]


def _centers(points: Tensor, smallest: int, most_outliers: float) -> Tensor:
    """Find the cluster means ``(K, P)`` of points ``(N, P)``; one cluster if HDBSCAN leaves too many out."""
    if len(points) > _MOST_IMAGES:
        chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:_MOST_IMAGES]
        points = points[chosen.sort().values]
    if len(points) < 2 * smallest:
        return points.mean(dim=0, keepdim=True)
    labels = torch.from_numpy(HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(points.numpy()))
    if (labels < 0).double().mean() > most_outliers:
        return points.mean(dim=0, keepdim=True)
    sizes = torch.bincount(labels[labels >= 0])
    largest = sizes.argsort(descending=True, stable=True)[:_MOST_CLUSTERS].tolist()
    means = [points[labels == k].mean(dim=0) for k in sorted(largest)]
    return torch.stack(means or [points.mean(dim=0)])


def _whitening(residuals: Tensor) -> Tensor:
    """Compute the matrix ``(P, P)`` that gives residuals ``(N, P)`` the same variance along all axes."""
    covariance = residuals.T @ residuals / len(residuals)
    identity = torch.eye(len(covariance), dtype=covariance.dtype)
    average = covariance.trace() / len(covariance)
    if average <= 0:  # images that are all alike
        return identity
    shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * average * identity
    return torch.linalg.cholesky(torch.linalg.inv(shrunk))


def _mean_by_cluster(assignment: Assignment, clusters: int) -> Tensor:
    """Compute the mean distance in each cluster, with one more image at the overall mean, and a margin for few."""
    overall = assignment.distance.mean()
    sums = torch.zeros(clusters).index_add_(0, assignment.cluster, assignment.distance)
    means = (sums + overall) / (torch.bincount(assignment.cluster, minlength=clusters) + 1)
    means = means * (1 + 2 / len(assignment.distance))
    return torch.where(means > 0, means, torch.ones_like(means))
