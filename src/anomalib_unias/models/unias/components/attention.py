"""Post-norm attention layers and the dual (spatial and channel) attention block."""

import torch
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention


class _Attention(nn.Module):
    """Multi-head attention, residual, layer norm.

    The parameters are those of ``nn.MultiheadAttention``, which would project queries and keys apart even where they
    are projections of the same tokens.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        tokens: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if key is query:
            queries, keys = self._project(query, 0, 2)
        else:
            (queries,), (keys,) = self._project(query, 0, 1), self._project(key, 1, 2)
        (values,) = self._project(value, 2, 3)
        allowed = None if mask is None else ~mask
        dropout = self.attention.dropout if self.training else 0.0
        attended = scaled_dot_product_attention(queries, keys, values, attn_mask=allowed, dropout_p=dropout)
        attended = self.attention.out_proj(attended.transpose(1, 2).flatten(2))
        return self.norm(tokens + self.dropout(attended))

    def _project(self, tokens: torch.Tensor, first: int, last: int) -> tuple[torch.Tensor, ...]:
        """Queries (0), keys (1) and values (2) of all heads from the first to before the last: ``(B, heads, L, d)``."""
        weight, bias = self.attention.in_proj_weight, self.attention.in_proj_bias
        dim = self.attention.embed_dim
        rows = slice(first * dim, last * dim)
        projected = linear(tokens, weight[rows], bias[rows])
        return projected.unflatten(2, (last - first, self.attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()


class _FeedForward(nn.Module):
    """Two linear layers with ReLU, residual, layer norm."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(self.linear1(tokens).relu())
        return self.norm(tokens + self.dropout(self.linear2(hidden)))


class TransformerEncoderLayer(nn.Module):
    """Post-norm encoder layer whose positions are added to queries and keys, not to values.

    Args:
        dim (int): Length of a token.
        num_heads (int): Number of attention heads.
        feedforward_dim (int): Hidden width of the feed-forward layers.
        dropout (float): Dropout probability.
    """

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = _Attention(dim, num_heads, dropout)
        self.feed_forward = _FeedForward(dim, feedforward_dim, dropout)

    def forward(self, tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Run the layer.

        Args:
            tokens (torch.Tensor): ``(B, L, D)``.
            position (torch.Tensor): Position encoding ``(L, D)``.

        Returns:
            torch.Tensor: ``(B, L, D)``.
        """
        located = tokens + position
        return self.feed_forward(self.self_attention(tokens, query=located, key=located, value=tokens))


class _AttentionBranch(nn.Module):
    """Cross attention to the memory, self attention, feed-forward (Eq. 4, post-norm)."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.cross_attention = _Attention(dim, num_heads, dropout)
        self.self_attention = _Attention(dim, num_heads, dropout)
        self.feed_forward = _FeedForward(dim, feedforward_dim, dropout)

    def forward(
        self,
        tokens: torch.Tensor,
        memory: torch.Tensor,
        memory_position: torch.Tensor,
        query_position: torch.Tensor | float = 0.0,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        query = tokens + query_position
        tokens = self.cross_attention(tokens, query=query, key=memory + memory_position, value=memory, mask=mask)
        query = tokens + query_position
        tokens = self.self_attention(tokens, query=query, key=query, value=tokens, mask=mask)
        return self.feed_forward(tokens)


class DualAttentionBlock(nn.Module):
    """Attention between positions, and beside it attention between channels; their outputs are added.

    Args:
        dim (int): Length D of a token.
        num_tokens (int): Number L of tokens, the length of a channel seen as a token.
        num_heads (int): Number of attention heads. The channel branch takes the largest number up to this
            that divides L.
        feedforward_dim (int): Hidden width of the feed-forward layers.
        dropout (float): Dropout probability.
        channel_branch (bool): Whether there is a channel branch. Defaults to ``True``.
    """

    def __init__(
        self,
        dim: int,
        num_tokens: int,
        num_heads: int,
        feedforward_dim: int,
        dropout: float,
        channel_branch: bool = True,
    ) -> None:
        super().__init__()
        self.spatial = _AttentionBranch(dim, num_heads, feedforward_dim, dropout)
        self.channel: _AttentionBranch | None = None
        if channel_branch:
            channel_heads = max(heads for heads in range(1, num_heads + 1) if num_tokens % heads == 0)
            self.channel = _AttentionBranch(num_tokens, channel_heads, feedforward_dim, dropout)

    def forward(
        self,
        tokens: torch.Tensor,
        memory: torch.Tensor,
        memory_position: torch.Tensor,
        query_position: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Run both branches on the same tokens.

        Args:
            tokens (torch.Tensor): State of the decoder ``(B, L, D)``.
            memory (torch.Tensor): Patches of a level ``(B, L, D)``.
            memory_position (torch.Tensor): Position encoding of the memory ``(L, D)``.
            query_position (torch.Tensor): Learned positions of the queries ``(L, D)``.
            mask (torch.Tensor | None): Forbidden pairs ``(L, L)``, spatial branch only.

        Returns:
            torch.Tensor: ``(B, L, D)``.
        """
        updated = self.spatial(tokens, memory, memory_position, query_position, mask)
        if self.channel is not None:
            by_channel = self.channel(tokens.mT, memory.mT, memory_position.mT)
            updated = updated + by_channel.mT
        return updated
