"""Positions of tokens: grid, position encoding and the mask of the neighbourhood."""

import math
from collections.abc import Sequence

import torch


def token_grid(image_size: Sequence[int], stride: int) -> tuple[int, int]:
    """Compute the rows and columns of the token grid, one token per pixel of the deepest level.

    Args:
        image_size (Sequence[int]): Height and width of the input.
        stride (int): Input pixels per token.

    Returns:
        tuple[int, int]: Rows and columns.

    Raises:
        ValueError: If the size is not divisible by the stride.
    """
    height, width = image_size
    if height % stride or width % stride or min(height, width) < stride:
        nearest = tuple(max(stride, round(side / stride) * stride) for side in image_size)
        msg = f"image_size must be divisible by {stride}, the largest stride used; got {height}x{width}, try {nearest}."
        raise ValueError(msg)
    return height // stride, width // stride


def sine_position_encoding(height: int, width: int, dim: int) -> torch.Tensor:
    """Normalised sine position encoding of a grid.

    The first half of the channels encodes the row, the second half the column; sine and cosine interleaved.

    Args:
        height (int): Rows of the grid.
        width (int): Columns of the grid.
        dim (int): Length of the encoding, divisible by 4.

    Returns:
        torch.Tensor: ``(height * width, dim)`` in row-major order, float32.
    """
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32)
    period = 10000 ** (2 * torch.div(index, 2, rounding_mode="floor") / half)

    def encode(count: int) -> torch.Tensor:
        angle = torch.arange(1, count + 1, dtype=torch.float32) / (count + 1e-6) * 2 * math.pi
        phase = angle[:, None] / period
        return torch.stack((phase[:, 0::2].sin(), phase[:, 1::2].cos()), dim=2).flatten(1)

    rows = encode(height)[:, None].expand(height, width, half)
    columns = encode(width)[None].expand(height, width, half)
    return torch.cat((rows, columns), dim=2).flatten(0, 1)


def neighbor_mask(height: int, width: int, size: int) -> torch.Tensor | None:
    """Mask attention to the neighbourhood of a query, which would make it easy to copy the input.

    Args:
        height (int): Rows of the grid.
        width (int): Columns of the grid.
        size (int): Side of the forbidden square window, odd; 0 forbids nothing.

    Returns:
        torch.Tensor | None: Boolean ``(height * width, height * width)``, ``True`` = forbidden, or ``None``.

    Raises:
        ValueError: If the size is even or negative, or if some position could attend to nothing at all.
    """
    if size == 0:
        return None
    if size < 0 or size % 2 == 0:
        msg = f"neighbor_mask_size must be 0 or an odd number, got {size}."
        raise ValueError(msg)
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    distance = torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs())
    mask = distance <= size // 2
    if mask.all(dim=1).any():
        msg = (
            f"A neighbour mask of size {size} leaves nothing to attend to on a grid of {height}x{width} tokens. "
            "Use a larger image_size or a smaller neighbor_mask_size (0 switches it off)."
        )
        raise ValueError(msg)
    return mask
