"""Anomaly map of UniAS from the errors of the reconstruction (right half of Fig. 3, Eq. 6)."""

from collections.abc import Sequence
from functools import reduce
from operator import mul

import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from anomalib_unias.models.components import gaussian_blur, resize_map


class AnomalyMapGenerator(nn.Module):
    """Multiply the cosine distances of all levels.

    Each distance is resized to half the image size and smoothed, deeper levels less. The geometric mean of the
    distances to prototypes is one more factor; the product is then smoothed by a Gaussian.

    Args:
        patch_sizes (Sequence[int]): Feature pixels of each reconstructed level per token, shallow to deep.
        image_size (tuple[int, int]): Height and width of the map.
        blur (bool): Whether to smooth, as the published code does; the paper does not mention it.
            Defaults to ``True``.
        weights (Sequence[float] | None): Exponent of each level's map in the product, shallow to deep; ``None`` for 1
            as in the paper. Defaults to ``None``.
        smoothing (float): Standard deviation of the Gaussian, in pixels of half the image size, positive. Defaults to
            ``2.0``, as in PatchCore.

    Raises:
        ValueError: If the number of weights is not the number of levels, one is negative, or ``smoothing`` is not
            positive.
    """

    def __init__(
        self,
        patch_sizes: Sequence[int],
        image_size: tuple[int, int],
        blur: bool = True,
        weights: Sequence[float] | None = None,
        smoothing: float = 2.0,
    ) -> None:
        super().__init__()
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(patch_sizes)
        if len(self.weights) != len(patch_sizes) or min(self.weights) < 0:
            msg = f"level_weights must be {len(patch_sizes)} numbers >= 0, one for each level, got {self.weights}."
            raise ValueError(msg)
        self.image_size = image_size
        self.product_size = (image_size[0] // 2, image_size[1] // 2)
        # Patches of 1, 2, 4, 8 pixels get kernels of 3, 5, 7, 9; sigma is a third of the kernel size.
        kernels = [1 + 2 * patch_size.bit_length() for patch_size in patch_sizes]
        self.smoothers = nn.ModuleList(
            gaussian_blur(kernel / 3, kernel, channels=1) if blur else nn.Identity() for kernel in kernels
        )
        self.smooth_product(smoothing)

    def smooth_product(self, sigma: float) -> None:
        """Set the standard deviation of the Gaussian that smooths the product, see ``smoothing``."""
        if not sigma > 0:
            msg = f"prototype_smoothing is a standard deviation in pixels, larger than 0, got {sigma}."
            raise ValueError(msg)
        self.product_smoother = gaussian_blur(sigma, 2 * int(3 * sigma) + 1, channels=1)

    def forward(
        self,
        targets: Sequence[torch.Tensor],
        reconstructions: Sequence[torch.Tensor],
        distances: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Compute the anomaly map.

        Args:
            targets (Sequence[torch.Tensor]): Features ``(B, C_l, H_l, W_l)`` of each level, shallow to deep.
            reconstructions (Sequence[torch.Tensor]): The same shapes.
            distances (Sequence[torch.Tensor]): Distances to prototypes ``(B, 1, h, w)``, positive. Defaults to none.

        Returns:
            torch.Tensor: ``(B, 1, H, W)``, in [0, 2 ** sum of the weights], times the geometric mean of the distances
            if there are any.
        """
        maps = self.level_maps(targets, reconstructions)
        maps += [resize_map(distance, self.product_size) for distance in distances]
        weights = self.weights + (1 / max(1, len(distances)),) * len(distances)
        weighted = [
            one if weight == 1 else one.clamp_min(0) ** weight for one, weight in zip(maps, weights, strict=True)
        ]
        product = reduce(mul, weighted)
        if distances:
            product = self.product_smoother(product)
        return resize_map(product, self.image_size, align_corners=True)

    def level_maps(
        self, targets: Sequence[torch.Tensor], reconstructions: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Compute the smoothed cosine distance of every level.

        Args:
            targets (Sequence[torch.Tensor]): Features ``(B, C_l, H_l, W_l)`` of each level, shallow to deep.
            reconstructions (Sequence[torch.Tensor]): The same shapes.

        Returns:
            list[torch.Tensor]: ``(B, 1, H / 2, W / 2)``, in [0, 2].
        """
        maps = []
        for target, reconstruction, smooth in zip(targets, reconstructions, self.smoothers, strict=True):
            distance = 1 - cosine_similarity(target, reconstruction, dim=1).unsqueeze(1)
            maps.append(smooth(resize_map(distance, self.product_size)))
        return maps
