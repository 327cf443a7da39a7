"""Feature pyramid network whose deepest level passes a transformer encoder."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import interpolate

from anomalib_unias.models.components import TransformerEncoderLayer

from .split_convolution import convolve_doubled, convolve_normalized

# Separate smoothing is cheaper if the lateral map has at most a quarter of the channels.
_NARROW = 4


def _group_norm(channels: int) -> nn.GroupNorm:
    groups = max(count for count in range(1, 33) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


class FusionLevel(nn.Module):
    """Add a lateral map to the resized deeper map and smooth the sum.

    Smoothing is linear, so both maps can be smoothed separately, which takes fewer multiplications if the lateral map
    has few channels.

    Args:
        in_channels (int): Channels of the level.
        dim (int): Channels D of the deeper map and of the result.
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(in_channels, dim, 1, bias=False)
        self.lateral_norm = _group_norm(dim)
        self.output = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.output_norm = _group_norm(dim)

    def forward(self, level: torch.Tensor, deeper: torch.Tensor) -> torch.Tensor:
        """Merge two maps.

        Args:
            level (torch.Tensor): ``(B, in_channels, H, W)``.
            deeper (torch.Tensor): ``(B, D, h, w)``.

        Returns:
            torch.Tensor: ``(B, D, H, W)``.
        """
        if not self._is_faster(level, deeper):
            return self.plain(level, deeper)
        kernel = self.output.weight
        lateral = convolve_normalized(level, self.lateral.weight, self.lateral_norm, kernel)
        return self.output_norm(lateral + convolve_doubled(deeper, kernel)).relu()

    def plain(self, level: torch.Tensor, deeper: torch.Tensor) -> torch.Tensor:
        """Merge two maps first, then smooth; arguments and result as in :meth:`forward`."""
        lateral = self.lateral_norm(self.lateral(level))
        merged = lateral + interpolate(deeper, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        return self.output_norm(self.output(merged)).relu()

    def _is_faster(self, level: torch.Tensor, deeper: torch.Tensor) -> bool:
        """Whether to smooth separately: fewer multiplications, and enough precision for a covariance."""
        doubled = all(large == 2 * small for large, small in zip(level.shape[-2:], deeper.shape[-2:], strict=True))
        narrow = _NARROW * level.shape[1] <= deeper.shape[1]
        precise = torch.finfo(level.dtype).bits >= 32 and not torch.is_autocast_enabled(level.device.type)
        return doubled and narrow and precise


class PixelDecoder(nn.Module):
    """Pass the deepest level through a transformer encoder and its context up to the other levels.

    Args:
        in_channels (Sequence[int]): Channels of each level, shallow to deep.
        dim (int): Channels D of the outputs.
        num_layers (int): Transformer encoder layers on the deepest level.
        num_heads (int): Number of attention heads.
        feedforward_dim (int): Hidden width of the feed-forward layers.
        dropout (float): Dropout probability.
        fusion (bool): Whether the other levels get that context, which also brings them to D channels. This is most
            of the cost. Without it they are returned unchanged, as in the text of the paper. Defaults to ``True``.

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
        self.fusions = nn.ModuleList(FusionLevel(channels, dim) for channels in in_channels[:-1]) if fusion else None

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
