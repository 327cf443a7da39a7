"""The networks of ReContrast between its two encoders: bottleneck, decoder and heads."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from anomalib.models.components.backbone.resnet_decoder import DecoderBasicBlock, DecoderBottleneck
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

Block = Literal["basic", "bottleneck"]
Activation = Literal["relu", "gelu"]

_BLOCKS: dict[str, tuple[Any, Any]] = {
    "basic": (BasicBlock, DecoderBasicBlock),
    "bottleneck": (Bottleneck, DecoderBottleneck),
}
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


def check_network(block: str, block_width: int, widths: Sequence[int], decoder_activation: str) -> None:
    """Check the arguments of the networks.

    Args:
        block (str): Kind of residual block.
        block_width (int): Width of a bottleneck block.
        widths (Sequence[int]): Channels of the bottleneck and the decoder.
        decoder_activation (str): Activation of the decoder.

    Raises:
        ValueError: If one of them is out of range.
    """
    if block not in _BLOCKS:
        msg = f"block must be one of {list(_BLOCKS)}, got {block!r}."
        raise ValueError(msg)
    if block == "basic" and block_width != 64:
        msg = f"block_width is of bottleneck blocks, 64 with block='basic', got {block_width}."
        raise ValueError(msg)
    expansion = _BLOCKS[block][0].expansion
    if len(widths) != 4 or any(width < expansion or width % expansion for width in widths):
        msg = f"widths must be four multiples of {expansion}, for the strides 4, 8, 16 and 32, got {list(widths)}."
        raise ValueError(msg)
    if decoder_activation not in _ACTIVATIONS:
        msg = f"decoder_activation must be one of {list(_ACTIVATIONS)}, got {decoder_activation!r}."
        raise ValueError(msg)


class FusionBottleneck(nn.Module):
    """Bring three levels to the deepest one, and compress them (the bottleneck of Reverse Distillation).

    Args:
        channels (Sequence[int]): Channels C1, C2, C3 of the levels, shallow to deep.
        widths (Sequence[int]): Channels W1 to W4 at the strides 4, 8, 16 and 32.
        block (Block): Kind of residual block.
        block_width (int): Width of a bottleneck block: half the channels with 128, a quarter with 64.
        blocks (int): Number of blocks.
    """

    def __init__(
        self, channels: Sequence[int], widths: Sequence[int], block: Block, block_width: int, blocks: int
    ) -> None:
        super().__init__()
        shallow, middle, deep = channels
        self.shallow = nn.Sequential(*_downsample(shallow, widths[1]), *_downsample(widths[1], widths[2]))
        self.middle = nn.Sequential(*_downsample(middle, widths[2]))
        kind, inputs, outputs = _BLOCKS[block][0], 2 * widths[2] + deep, widths[3]
        planes = outputs // kind.expansion
        skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))
        first = kind(inputs, planes, stride=2, downsample=skip, base_width=block_width)
        others = (kind(outputs, planes, base_width=block_width) for _ in range(blocks - 1))
        self.stage = nn.Sequential(first, *others)
        initialise(self)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compress the features.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H / stride_l, W / stride_l)``, shallow to deep.

        Returns:
            torch.Tensor: ``(B, W4, H / 32, W / 32)``.
        """
        shallow, middle, deep = features
        return self.stage(torch.cat((self.shallow(shallow), self.middle(middle), deep), dim=1))


class MirroredDecoder(nn.Module):
    """A mirrored ResNet with transposed convolutions for the strides (the decoder of Reverse Distillation).

    Args:
        widths (Sequence[int]): Channels W1 to W4 at the strides 4, 8, 16 and 32.
        block (Block): Kind of residual block.
        block_width (int): Width of a bottleneck block.
        blocks (Sequence[int]): Number of blocks at the strides 16, 8 and 4.
        activation (Activation): After each normalisation and sum.
    """

    def __init__(
        self,
        widths: Sequence[int],
        block: Block,
        block_width: int,
        blocks: Sequence[int],
        activation: Activation,
    ) -> None:
        super().__init__()
        steps = zip(reversed(widths[1:]), reversed(widths[:-1]), blocks, strict=True)
        self.stages = nn.ModuleList(_upsampling_stage(*step, block, block_width, activation) for step in steps)
        initialise(self)

    def forward(self, code: torch.Tensor) -> list[torch.Tensor]:
        """Expand the code of the bottleneck.

        Args:
            code (torch.Tensor): ``(B, W4, H / 32, W / 32)``.

        Returns:
            list[torch.Tensor]: ``(B, W_l, H / stride_l, W / stride_l)``, shallow to deep.
        """
        levels: list[torch.Tensor] = []
        for stage in self.stages:
            code = stage(code)
            levels.insert(0, code)
        return levels


class Heads(nn.Module):
    """A linear head for each level.

    Args:
        widths (Sequence[int]): Channels of the decoder, shallow to deep.
        channels (Sequence[int]): Channels of the encoder.
    """

    def __init__(self, widths: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(*pair, kernel_size=1) for pair in zip(widths, channels, strict=True))
        initialise(self)

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Bring the levels of the decoder to the channels of the encoder.

        Args:
            features (Sequence[torch.Tensor]): ``(B, W_l, H_l, W_l)``, shallow to deep.

        Returns:
            list[torch.Tensor]: ``(B, C_l, H_l, W_l)``.
        """
        return [level(feature) for level, feature in zip(self.levels, features, strict=True)]


def initialise(module: nn.Module) -> None:
    """Initialise convolutions with Kaiming-normal weights; transposed ones and biases keep PyTorch's default.

    Args:
        module (nn.Module): Changed in place.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def _downsample(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def _upsampling_stage(
    inputs: int, outputs: int, blocks: int, block: Block, block_width: int, activation: Activation
) -> nn.Sequential:
    kind = _BLOCKS[block][1]
    planes = outputs // kind.expansion
    skip = nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False), nn.BatchNorm2d(outputs))
    first = kind(inputs, planes, stride=2, upsample=skip, base_width=block_width)
    stage = nn.Sequential(first, *(kind(outputs, planes, base_width=block_width) for _ in range(blocks - 1)))
    for each in stage:
        each.relu = _ACTIVATIONS[activation]()
    return stage
