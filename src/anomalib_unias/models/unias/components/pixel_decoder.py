"""Feature pyramid network whose deepest level passes a transformer encoder."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import conv2d, interpolate, unfold

from .attention import TransformerEncoderLayer
from .composition import bilinear_matrix, convolve_resized, spread_border


def _group_norm(channels: int) -> nn.GroupNorm:
    groups = max(count for count in range(1, 33) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


class _FusionLevel(nn.Module):
    """Add a lateral map to the resized deeper map and smooth the sum.

    Up to the last normalisation all of it is linear for a given image. In eval mode the two terms are therefore
    smoothed apart: the deeper map before it is resized, and the lateral one from its few input channels, with a
    kernel that contains its normalisation. The result is the same at half the cost.
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(in_channels, dim, 1, bias=False)
        self.lateral_norm = _group_norm(dim)
        self.output = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.output_norm = _group_norm(dim)

    def forward(self, level: torch.Tensor, deeper: torch.Tensor) -> torch.Tensor:
        if self.training:
            return self.plain(level, deeper)
        resize = [
            bilinear_matrix(small, large, level, align_corners=False)
            for small, large in zip(deeper.shape[-2:], level.shape[-2:], strict=True)
        ]
        output = self._smooth_lateral(level) + convolve_resized(deeper, self.output.weight, resize)
        return self.output_norm(output).relu()

    def plain(self, level: torch.Tensor, deeper: torch.Tensor) -> torch.Tensor:
        """Compute in the order of the text."""
        lateral = self.lateral_norm(self.lateral(level))
        merged = lateral + interpolate(deeper, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        return self.output_norm(self.output(merged)).relu()

    def _smooth_lateral(self, level: torch.Tensor) -> torch.Tensor:
        """3x3 convolution of the normalised lateral map, from the input of its projection ``(B, C, H, W)``."""
        scale, shift = self._lateral_normalisation(level)
        smooth = self.output.weight
        kernel = smooth.permute(0, 2, 3, 1).flatten(0, 2) @ (scale[..., None] * self.lateral.weight.flatten(1))
        kernel = kernel.reshape(-1, len(smooth), 9, level.shape[1]).transpose(2, 3).flatten(2)
        output = (kernel @ unfold(level, 3, padding=1)).unflatten(2, tuple(level.shape[-2:]))
        # The shift is a constant inside of the image and zero outside.
        return output + spread_border(conv2d(shift[..., None, None].expand(-1, -1, 3, 3), smooth, padding=1), level)

    def _lateral_normalisation(self, level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Group normalisation of the lateral map as scale and shift ``(B, D)``, without making that map."""
        pixels = level.flatten(2)
        center = pixels.mean(dim=2, keepdim=True)
        centered = pixels - center
        covariance = centered @ centered.mT / pixels.shape[2]
        weight, norm = self.lateral.weight.flatten(1), self.lateral_norm
        mean = (weight @ center).squeeze(2)
        variance = ((weight @ covariance) * weight).sum(dim=2)

        by_group = (norm.num_groups, -1)
        group_mean = mean.unflatten(1, by_group).mean(dim=2, keepdim=True)
        spread = variance.unflatten(1, by_group) + (mean.unflatten(1, by_group) - group_mean).square()
        deviation = (spread.mean(dim=2, keepdim=True) + norm.eps).sqrt()
        scale = (norm.weight.unflatten(0, by_group) / deviation).flatten(1)
        return scale, norm.bias - (group_mean / deviation * norm.weight.unflatten(0, by_group)).flatten(1)


class PixelDecoder(nn.Module):
    """Pass the deepest level through a transformer encoder and its context up to the other levels.

    Args:
        in_channels (Sequence[int]): Channels of each level, shallow to deep.
        dim (int): Channels D of the outputs.
        num_layers (int): Transformer encoder layers on the deepest level.
        num_heads (int): Number of attention heads.
        feedforward_dim (int): Hidden width of the feed-forward layers.
        dropout (float): Dropout probability.
        fusion (bool): Whether the other levels get that context, which brings them to D channels as well. It
            is most of the cost. Without it they are returned as they are, as in the text of the paper.
            Defaults to ``True``.

    Attributes:
        out_channels (list[int]): Channels of each output, shallow to deep.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        dim: int,
        num_layers: int,
        num_heads: int,
        feedforward_dim: int,
        dropout: float,
        fusion: bool = True,
    ) -> None:
        super().__init__()
        self.out_channels = [dim if fusion else channels for channels in in_channels[:-1]] + [dim]
        self.input_projection = nn.Conv2d(in_channels[-1], dim, 1)
        self.encoder = nn.ModuleList(
            TransformerEncoderLayer(dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers)
        )
        self.output = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.fusions = nn.ModuleList(_FusionLevel(channels, dim) for channels in in_channels[:-1]) if fusion else None

    def forward(self, levels: Sequence[torch.Tensor], position: torch.Tensor) -> list[torch.Tensor]:
        """Decode the pyramid from deep to shallow.

        Args:
            levels (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)``, shallow to deep.
            position (torch.Tensor): Position encoding of the deepest level ``(h * w, D)``.

        Returns:
            list[torch.Tensor]: ``(B, out_channels_l, H_l, W_l)``, shallow to deep.
        """
        deepest = self.input_projection(levels[-1])
        tokens = deepest.flatten(2).mT
        for layer in self.encoder:
            tokens = layer(tokens, position)
        outputs = [self.output(tokens.mT.reshape(deepest.shape)).relu()]
        if self.fusions is None:
            return [*levels[:-1], *outputs]
        for level, fusion in zip(reversed(levels[:-1]), reversed(self.fusions), strict=True):
            outputs.insert(0, fusion(level, outputs[0]))
        return outputs
