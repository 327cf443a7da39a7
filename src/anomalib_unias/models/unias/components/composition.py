"""Consecutive linear convolutions, composed into one."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn
from torch.nn.functional import conv2d, fold


def compose_kernels(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Compose two consecutive convolutions of stride 1 into one kernel; exact on an unbounded image.

    Args:
        first (torch.Tensor): Kernel that is applied first, ``(M, I, a, a)``.
        second (torch.Tensor): Kernel that is applied to its result, ``(O, M, b, b)``.

    Returns:
        torch.Tensor: ``(O, I, a + b - 1, a + b - 1)``.
    """
    size = second.shape[-1]
    # All products of two taps, then those at the same position are added: no products with the zeros of the padding.
    products = second.permute(0, 2, 3, 1).flatten(0, 2) @ first.flatten(1)
    products = products.unflatten(0, (-1, size * size)).mT
    return fold(products, output_size=first.shape[-1] + size - 1, kernel_size=first.shape[-1])


class ComposedModule(nn.Module, ABC):
    """A module that computes with kernels composed from its parameters.

    In training, every forward pass composes the kernels. In eval mode without gradients they are composed once and
    kept until a parameter changes; compiled or exported graphs contain the kernels of the last ``eval()`` as
    constants. The kernels are neither saved nor copied.
    """

    def __init__(self) -> None:
        super().__init__()
        self._composed_from: list[tuple[int, int]] | None = None
        self._composed_names: list[str] = []

    @abstractmethod
    def compose(self) -> tuple[torch.Tensor, ...]:
        """Compose the kernels.

        Returns:
            tuple[torch.Tensor, ...]: The kernels.
        """

    def composed(self) -> tuple[torch.Tensor, ...]:
        """Compose the kernels, or return the kept ones.

        Returns:
            tuple[torch.Tensor, ...]: The kernels.
        """
        compiling = torch.compiler.is_compiling()
        if self.training or (torch.is_grad_enabled() and not compiling):
            return self.compose()
        if not compiling:
            self._store()
        return tuple(self._buffers[name] for name in self._composed_names)  # type: ignore[misc]

    def train(self, mode: bool = True) -> "ComposedModule":
        """Set the mode; eval mode composes the kernels."""
        super().train(mode)
        if not mode:
            self._store()
        return self

    # Lightning calls eval() in inference mode; a model with inference tensors could not be exported afterwards.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _store(self) -> None:
        composed_from = [(parameter.data_ptr(), parameter._version) for parameter in self.parameters()]
        if self._composed_from == composed_from:
            return
        kernels = self.compose()
        self._composed_names = [f"composed_{index}" for index in range(len(kernels))]
        for name, kernel in zip(self._composed_names, kernels, strict=True):
            self.register_buffer(name, kernel.detach().clone(), persistent=False)
        self._composed_from = composed_from

    def __getstate__(self) -> dict[str, Any]:
        """Leave the kernels out of pickles and copies."""
        buffers = {name: buffer for name, buffer in self._buffers.items() if name not in self._composed_names}
        return {**self.__dict__, "_buffers": buffers, "_composed_from": None, "_composed_names": []}


def convolve_resized(image: torch.Tensor, kernel: torch.Tensor, resize: list[torch.Tensor]) -> torch.Tensor:
    """Convolve a resized image with zero padding, without computing the resized image.

    All taps of the kernel are applied to the small image; the results are resized, shifted and added, which is
    one matrix product for the rows and one for the columns.

    Args:
        image (torch.Tensor): ``(B, D, h, w)``.
        kernel (torch.Tensor): ``(C, D, k, k)``, k odd.
        resize (list[torch.Tensor]): Matrices ``(H, h)`` and ``(W, w)``, see ``bilinear_matrix``.

    Returns:
        torch.Tensor: ``(B, C, H, W)``.
    """
    taps = kernel.shape[-1]
    weight = kernel.permute(0, 2, 3, 1).reshape(-1, kernel.shape[1], 1, 1)
    # (B, C, tap y, h, tap x, w)
    tapped = conv2d(image, weight).unflatten(1, (-1, taps, taps)).transpose(3, 4)
    rows, columns = (_shifted(matrix, taps) for matrix in resize)
    return rows @ (tapped.flatten(4) @ columns.mT).flatten(2, 3)


def spread_border(image: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Enlarge an image by repeating its middle row and its middle column.

    Args:
        image (torch.Tensor): ``(B, C, n, n)``, n odd.
        like (torch.Tensor): ``(B, D, H, W)`` of the size to reach.

    Returns:
        torch.Tensor: ``(B, C, H, W)``.
    """
    border = image.shape[-1] // 2
    for dim, size in ((2, like.shape[2]), (3, like.shape[3])):
        index = torch.tensor([*range(border), *[border] * (size - 2 * border), *range(border + 1, 2 * border + 1)])
        image = image.index_select(dim, index.to(image.device))
    return image


def convolve_resized_rows(
    rows: torch.Tensor, kernel: torch.Tensor, resize: torch.Tensor, beyond: int = 0
) -> torch.Tensor:
    """Convolve some rows, resized along their length and zero-padded, to one row, without computing the resized rows.

    Args:
        rows (torch.Tensor): ``(B, D, r, w)``.
        kernel (torch.Tensor): ``(C, D, r, k)``, k odd.
        resize (torch.Tensor): Matrix ``(W, w)``, see ``bilinear_matrix``.
        beyond (int): Number of additional results beyond each end of the rows. Defaults to ``0``.

    Returns:
        torch.Tensor: ``(B, C, 1, W + 2 beyond)``.
    """
    taps = kernel.shape[-1]
    tapped = conv2d(rows, kernel.permute(0, 3, 1, 2).flatten(0, 1).unsqueeze(3)).unflatten(1, (-1, taps))
    return (tapped.flatten(2) @ _shifted(resize, taps, beyond).mT).unsqueeze(2)


def _shifted(matrix: torch.Tensor, taps: int, beyond: int = 0) -> torch.Tensor:
    """Resizing matrices of all taps of a kernel, side by side: ``(large + 2 beyond, taps * small)``, zero-padded."""
    reach = taps // 2 + beyond
    padded = nn.functional.pad(matrix, (0, 0, reach, reach))
    size = len(matrix) + 2 * beyond
    return torch.cat([padded[tap : tap + size] for tap in range(taps)], dim=1)
