"""Local modelling with convolutions of several granularities."""

from typing import Literal

import torch
from torch import nn

LocalBlock = Literal["mgg", "light", "ungated", "conv", "none"]


class _Gate(nn.GELU):
    """GELU that does not underflow.

    During training, some inputs become so negative that GELU and its gradient are denormal numbers, which slow a CPU
    down many times. Inputs are therefore clamped at -8 in training; the result differs by less than 1e-14.
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features.clamp_min(-8) if self.training else features)


class MultiGranularityBlock(nn.Module):
    """MGG-CNN: a 1x1 convolution and stacks of one, two and three 3x3 convolutions, gated and added (Eq. 5).

    The stacks are those of the paper's text and of the published code; the exponent in Eq. 5 is off by one.

    Args:
        in_channels (int): Channels of the input.
        channels (int): Channels of the output and between the convolutions.
        gated (bool): Whether a GELU ends every branch. Defaults to ``True``.
    """

    def __init__(self, in_channels: int, channels: int, gated: bool = True) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [nn.Conv2d(in_channels, channels, 1)]
            + [
                nn.Sequential(
                    *(nn.Conv2d(in_channels if i == 0 else channels, channels, 3, padding=1) for i in range(depth))
                )
                for depth in (1, 2, 3)
            ],
        )
        self.gate = _Gate() if gated else nn.Identity()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Run all branches.

        Args:
            image (torch.Tensor): ``(B, in_channels, h, w)``.

        Returns:
            torch.Tensor: ``(B, channels, h, w)``.
        """
        first, *others = self.branches
        output = self.gate(first(image))
        for branch in others:
            output = output + self.gate(branch(image))
        return output


class LightMultiGranularityBlock(nn.Module):
    """MGG-CNN at a tenth of the cost: one narrow chain of 3x3 convolutions gives all granularities.

    The chain has a third of the channels. Its first, second and third convolution have receptive fields of 3x3, 5x5
    and 7x7 positions, as the three stacks of :class:`MultiGranularityBlock`; each output is widened and gated.
    Not part of the paper.

    Args:
        in_channels (int): Channels of the input.
        channels (int): Channels of the output.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // 3)
        self.point = nn.Conv2d(in_channels, channels, 1)
        self.reduction = nn.Conv2d(in_channels, narrow, 1)
        self.chain = nn.ModuleList(nn.Conv2d(narrow, narrow, 3, padding=1) for _ in range(3))
        self.expansions = nn.ModuleList(nn.Conv2d(narrow, channels, 1) for _ in range(3))
        self.gate = _Gate()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Run the chain.

        Args:
            image (torch.Tensor): ``(B, in_channels, h, w)``.

        Returns:
            torch.Tensor: ``(B, channels, h, w)``.
        """
        output = self.gate(self.point(image))
        narrow = self.reduction(image)
        for convolution, expansion in zip(self.chain, self.expansions, strict=True):
            narrow = convolution(narrow)
            output = output + self.gate(expansion(narrow))
        return output


def build_local_block(kind: LocalBlock, channels: int) -> nn.Module:
    """Build the local block of a decoder step, as in the ablation of the paper.

    Args:
        kind (LocalBlock): ``"mgg"`` the full block, ``"light"`` a cheaper one, ``"ungated"`` the full block without
            its gates, ``"conv"`` one 3x3 convolution, ``"none"`` nothing.
        channels (int): Channels of input and output.

    Returns:
        nn.Module: Maps ``(B, channels, h, w)`` to the same shape.

    Raises:
        ValueError: If the kind is unknown.
    """
    if kind == "none":
        return nn.Identity()
    if kind == "conv":
        return nn.Conv2d(channels, channels, 3, padding=1)
    if kind == "light":
        return LightMultiGranularityBlock(channels, channels)
    if kind in {"mgg", "ungated"}:
        return MultiGranularityBlock(channels, channels, gated=kind == "mgg")
    msg = f"local_block must be 'mgg', 'light', 'ungated', 'conv' or 'none', got {kind!r}."
    raise ValueError(msg)
