"""From decoder tokens back to the features of a level."""

from typing import cast

import torch
from torch import nn
from torch.nn.functional import conv2d, interpolate

from anomalib_unias.models.components import bilinear_matrix

from .composition import (
    ComposedModule,
    compose_kernels,
    convolve_resized,
    convolve_resized_rows,
    spread_border,
)

# In levels smaller than this, the borders reach every pixel.
_SMALLEST_COMPOSED = 8


class ResizeHead(ComposedModule):
    """Bilinear resize and three linear 3x3 convolutions, as in the published code.

    All of it is linear, so it is computed on the small grid of the tokens: the three kernels are composed into one of
    7x7, its 49 taps are applied to the tokens, and the results are resized, shifted and added, which is two matrix
    products. In the outer two rows and columns, the effect of the zero padding of the intermediate results is
    subtracted. This takes a tenth of the time of the plain chain; the result is the same.

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
        size = [side * self.patch_size for side in image.shape[-2:]]
        if self.patch_size == 1 or min(size) < _SMALLEST_COMPOSED:
            return self.plain(image)
        kernel, last_two, bias = self.composed()
        resize = [
            bilinear_matrix(small, large, image, align_corners=True)
            for small, large in zip(image.shape[-2:], size, strict=True)
        ]
        unbounded = convolve_resized(image, kernel, resize)
        return self._correct_borders(unbounded, image, last_two, resize) + spread_border(bias, unbounded)

    def plain(self, image: torch.Tensor) -> torch.Tensor:
        """Reconstruct a level step by step, without composed kernels.

        Args:
            image (torch.Tensor): Normalised decoder state ``(B, D, h, w)``.

        Returns:
            torch.Tensor: ``(B, C, h * patch_size, w * patch_size)``.
        """
        if self.patch_size > 1:
            size = [side * self.patch_size for side in image.shape[-2:]]
            image = interpolate(image, size=size, mode="bilinear", align_corners=True)
        return self.convolutions(image)

    def _kernels(self) -> list[torch.Tensor]:
        return [cast("nn.Conv2d", convolution).weight for convolution in self.convolutions]

    def compose(self) -> tuple[torch.Tensor, ...]:
        """Compose the three convolutions, the last two of them, and the contribution of the biases.

        Returns:
            tuple[torch.Tensor, ...]: Kernels ``(C, D, 7, 7)`` and ``(C, D, 5, 5)``, and an image ``(1, C, 5, 5)``.
        """
        first, second, third = self._kernels()
        last_two = compose_kernels(second, third)
        # Result of the biases for an empty image: 5 rows and columns are enough, two at each border and the interior.
        bias = self.convolutions(first.new_zeros(1, first.shape[1], 5, 5))
        return compose_kernels(first, last_two), last_two, bias

    def _correct_borders(
        self, unbounded: torch.Tensor, image: torch.Tensor, last_two: torch.Tensor, resize: list[torch.Tensor]
    ) -> torch.Tensor:
        """Subtract the contribution of the intermediate results outside of the image."""
        kernels = [*self._kernels(), last_two]
        rows, columns = resize
        # Two lines along each border, the outer one first; each border is transposed or flipped to the top.
        turned = [kernel.mT for kernel in kernels]
        upper = _outside(rows[:2] @ image, columns, kernels, corners=True)
        lower = _outside(rows[-2:].flip(0) @ image, columns, [kernel.flip(2) for kernel in kernels], corners=True)
        left = _outside(columns[:2] @ image.mT, rows, turned, corners=False)
        right = _outside(columns[-2:].flip(0) @ image.mT, rows, [kernel.flip(2) for kernel in turned], corners=False)

        inner = unbounded[:, :, 2:-2]
        image = torch.cat((unbounded[:, :, :2] - upper, inner, unbounded[:, :, -2:] - lower.flip(2)), dim=2)
        inner = image[..., 2:-2]
        return torch.cat((image[..., :2] - left.mT, inner, image[..., -2:] - right.flip(2).mT), dim=3)


class TransposedHead(nn.ConvTranspose2d):
    """One transposed convolution that unfolds every token into its patch, as in the text of the paper.

    Args:
        dim (int): Channels D of the decoder state.
        channels (int): Channels C of the level.
        patch_size (int): Feature pixels of the level per token, along each side.
    """

    def __init__(self, dim: int, channels: int, patch_size: int) -> None:
        super().__init__(dim, channels, kernel_size=patch_size, stride=patch_size)


def _outside(lines: torch.Tensor, resize: torch.Tensor, kernels: list[torch.Tensor], corners: bool) -> torch.Tensor:
    """Contribution of the values outside of one border, as if it were the upper border.

    Args:
        lines (torch.Tensor): First two rows of the resized image, not yet resized along their length
            ``(B, D, 2, small)``.
        resize (torch.Tensor): Matrix that resizes them along their length ``(n, small)``.
        kernels (list[torch.Tensor]): Kernels of the three convolutions, and the composed kernel of the last two.
        corners (bool): Whether the corners outside of the image count for this border.

    Returns:
        torch.Tensor: Contribution to the first two rows of the output ``(B, C, 2, n)``.
    """
    first, second, third, last_two = kernels
    # The row above the image runs from -1 to n, or from 0 to n - 1 without its corners.
    pad = 2 if corners else 1
    above_first = convolve_resized_rows(lines[:, :, :1], first[:, :, 2:], resize, beyond=pad - 1)
    top_first = convolve_resized_rows(lines, first[:, :, 1:], resize)
    above_second = conv2d(top_first, second[:, :, 2:], padding=(0, pad))

    both = torch.cat((last_two[:, :, 1:2], last_two[:, :, :1]))
    by_first = conv2d(above_first, both, padding=(0, 3 - pad)).unflatten(1, (2, -1)).squeeze(3).transpose(1, 2)
    by_second = conv2d(above_second, third[:, :, :1], padding=(0, 2 - pad))
    return by_first + nn.functional.pad(by_second, (0, 0, 0, 1))
