"""The reconstruction network of UniAD: an encoder, and a decoder with a learned query in every layer."""

from collections.abc import Collection
from typing import Literal, get_args

import torch
from torch import nn

from anomalib_unias.models.components import (
    AttentionLayer,
    FeedForward,
    PrincipalComponents,
    TransformerEncoderLayer,
    neighbor_mask,
)

MaskedAttention = Literal["encoder", "memory", "output"]


class LearnedPosition(nn.Module):
    """Learned position encoding of a grid: the first half of the channels encodes the column, the second the row.

    Args:
        grid (tuple[int, int]): Rows h and columns w.
        dim (int): Length D of the encoding, even.
    """

    def __init__(self, grid: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.rand(grid[0], dim // 2))
        self.columns = nn.Parameter(torch.rand(grid[1], dim // 2))

    def forward(self) -> torch.Tensor:
        """Encode all positions.

        Returns:
            torch.Tensor: ``(h * w, D)`` in row-major order.
        """
        height, width = len(self.rows), len(self.columns)
        columns = self.columns[None].expand(height, -1, -1)
        rows = self.rows[:, None].expand(-1, width, -1)
        return torch.cat((columns, rows), dim=2).flatten(0, 1)


class QueryDecoderLayer(nn.Module):
    """A learned query that attends to the memory, then to the output of the previous layer, post-norm.

    There is no attention among queries. The previous output enters through attention only: it has no residual
    connection.

    Args:
        num_tokens (int): Number L of tokens.
        dim (int): Length D of a token.
        num_heads (int): Number of attention heads.
        feedforward_dim (int): Hidden width of the feed-forward layers.
        dropout (float): Dropout probability.
    """

    def __init__(self, num_tokens: int, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(num_tokens, dim))
        self.memory_attention = AttentionLayer(dim, num_heads, dropout)
        self.output_attention = AttentionLayer(dim, num_heads, dropout)
        self.feed_forward = FeedForward(dim, feedforward_dim, dropout)

    def forward(
        self,
        output: torch.Tensor,
        memory: torch.Tensor,
        position: torch.Tensor,
        memory_mask: torch.Tensor | None = None,
        output_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run the layer.

        Args:
            output (torch.Tensor): Output of the previous layer ``(B, L, D)``; for the first layer the memory.
            memory (torch.Tensor): Output of the encoder ``(B, L, D)``.
            position (torch.Tensor): Position encoding ``(L, D)``.
            memory_mask (torch.Tensor | None): Forbidden pairs ``(L, L)`` of the attention to the memory. Defaults to
                ``None``.
            output_mask (torch.Tensor | None): Forbidden pairs ``(L, L)`` of the attention to the previous output.
                Defaults to ``None``.

        Returns:
            torch.Tensor: ``(B, L, D)``.
        """
        query = self.query.expand_as(output)
        tokens = self.memory_attention(query, query + position, memory + position, memory, memory_mask)
        tokens = self.output_attention(tokens, tokens + position, output + position, output, output_mask)
        return self.feed_forward(tokens)


class UniADTransformer(nn.Module):
    """Reconstruct the features of every position from its surroundings.

    Args:
        channels (int): Channels C of the features.
        grid (tuple[int, int]): Rows h and columns w of the token grid.
        hidden_dim (int): Length D of a token, even and divisible by ``num_heads``.
        num_heads (int): Number of attention heads.
        feedforward_dim (int): Hidden width of the feed-forward layers.
        encoder_layers (int): Layers of the encoder.
        decoder_layers (int): Layers of the decoder.
        dropout (float): Dropout probability.
        neighbor_mask_size (int): Side of the window that is masked in attention, odd, 0 for none.
        masked_attentions (Collection[MaskedAttention]): Attentions that are masked: those in the ``"encoder"``, those
            of decoder layers to the ``"memory"``, and those of decoder layers to the previous ``"output"``.

    Raises:
        ValueError: If ``hidden_dim`` does not fit, the window leaves nothing to attend to, or an attention is unknown.
    """

    def __init__(
        self,
        *,
        channels: int,
        grid: tuple[int, int],
        hidden_dim: int,
        num_heads: int,
        feedforward_dim: int,
        encoder_layers: int,
        decoder_layers: int,
        dropout: float,
        neighbor_mask_size: int,
        masked_attentions: Collection[MaskedAttention],
    ) -> None:
        super().__init__()
        if hidden_dim % 2 or hidden_dim % num_heads:
            msg = f"hidden_dim must be even and divisible by num_heads={num_heads}, got {hidden_dim}."
            raise ValueError(msg)
        if unknown := sorted(set(masked_attentions) - set(get_args(MaskedAttention))):
            msg = f"masked_attentions are among {list(get_args(MaskedAttention))}, got {unknown}."
            raise ValueError(msg)
        self.grid = grid
        self.masked_attentions = frozenset(masked_attentions)
        self.mask: torch.Tensor | None
        self.register_buffer("mask", neighbor_mask(*grid, neighbor_mask_size), persistent=False)

        self.input_projection = nn.Linear(channels, hidden_dim)
        self.position = LearnedPosition(grid, hidden_dim)
        self.encoder = nn.ModuleList(
            TransformerEncoderLayer(hidden_dim, num_heads, feedforward_dim, dropout) for _ in range(encoder_layers)
        )
        self.decoder = nn.ModuleList(
            QueryDecoderLayer(grid[0] * grid[1], hidden_dim, num_heads, feedforward_dim, dropout)
            for _ in range(decoder_layers)
        )
        self.norm = nn.LayerNorm(hidden_dim)
        self.output_projection = nn.Linear(hidden_dim, channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    @torch.no_grad()
    def start_from_principal_components(self, features: torch.Tensor) -> None:
        """Initialise the two projections with the principal components of features instead of random weights.

        The first channels of a token become the principal components of a position, with unit variance, and the
        channels of the last token stand for the same components. The layers in between then only have to learn the
        mapping from one to the other. Not part of the paper.

        Args:
            features (torch.Tensor): Features of some training images ``(N, C, h, w)``.
        """
        positions = features.flatten(2).mT.flatten(0, 1)
        components = PrincipalComponents.of(positions, self.input_projection.out_features)
        weight, bias = components.encoding()
        self.input_projection.weight[: len(weight)] = weight
        self.input_projection.bias[: len(bias)] = bias
        self.output_projection.weight[:, : len(weight)] = components.decoding().mT
        self.output_projection.bias.copy_(components.mean)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Reconstruct features.

        Args:
            features (torch.Tensor): ``(B, C, h, w)``.

        Returns:
            torch.Tensor: ``(B, C, h, w)``.
        """
        tokens = self.input_projection(features.flatten(2).mT)
        position = self.position()

        for layer in self.encoder:
            tokens = layer(tokens, position, self._mask("encoder"))
        memory = tokens
        for layer in self.decoder:
            tokens = layer(tokens, memory, position, self._mask("memory"), self._mask("output"))

        reconstruction = self.output_projection(self.norm(tokens))
        return reconstruction.mT.reshape(features.shape)

    def _mask(self, attention: MaskedAttention) -> torch.Tensor | None:
        return self.mask if attention in self.masked_attentions else None
