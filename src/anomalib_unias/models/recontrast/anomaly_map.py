"""Anomaly map of ReContrast."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import nn

from anomalib_unias.models.components import bilinear_matrix

from .loss import cosine_distance

_TRUNCATE = 4.0


class AnomalyMapGenerator(nn.Module):
    """Add the cosine distances of all levels and pairs, each resized to the image, and smooth the sum.

    Resizing and smoothing are linear along rows and along columns, so each level needs one matrix product per direction
    for both.

    Args:
        image_size (tuple[int, int]): Height and width of the map.
        sigma (float): Standard deviation of the Gaussian in pixels, which is cut off at four standard deviations and
            mirrors the border; 0 for none. Defaults to ``4.0``.
    """

    def __init__(self, image_size: tuple[int, int], sigma: float = 4.0) -> None:
        super().__init__()
        self.image_size = image_size
        self.sigma = sigma

    def forward(
        self, targets: Sequence[Sequence[torch.Tensor]], reconstructions: Sequence[Sequence[torch.Tensor]]
    ) -> torch.Tensor:
        """Compute the anomaly map.

        Args:
            targets (Sequence[Sequence[torch.Tensor]]): Features ``(B, C_l, H_l, W_l)`` for each pair and level.
            reconstructions (Sequence[Sequence[torch.Tensor]]): The same shapes.

        Returns:
            torch.Tensor: ``(B, 1, H, W)``, in [0, 2 * pairs * levels].
        """
        first, *rest = (
            self._upsampled(cosine_distance(target, reconstruction).unsqueeze(1))
            for pair in zip(targets, reconstructions, strict=True)
            for target, reconstruction in zip(*pair, strict=True)
        )
        return sum(rest, start=first)

    def _upsampled(self, distance: torch.Tensor) -> torch.Tensor:
        rows, columns = (
            self._matrix(small, large, distance)
            for small, large in zip(distance.shape[-2:], self.image_size, strict=True)
        )
        return rows @ distance @ columns.mT

    def _matrix(self, small: int, large: int, like: torch.Tensor) -> torch.Tensor:
        matrix = bilinear_matrix(small, large, like, align_corners=True)
        if not self.sigma:
            return matrix
        return torch.from_numpy(gaussian_coefficients(large, self.sigma)).to(like) @ matrix


@cache
def gaussian_coefficients(size: int, sigma: float) -> np.ndarray:
    """Matrix that smooths a line, as ``scipy.ndimage.gaussian_filter`` does.

    Args:
        size (int): Length of the line.
        sigma (float): Standard deviation in steps of the line.

    Returns:
        np.ndarray: ``(size, size)``.
    """
    radius = int(_TRUNCATE * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    # Index of the value that each tap reads at each position.
    indices = np.lib.stride_tricks.sliding_window_view(np.pad(np.arange(size), radius, mode="symmetric"), len(kernel))
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], indices), kernel)
    return matrix
