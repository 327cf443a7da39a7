"""Post-norm attention layers."""

import torch
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention


class AttentionLayer(nn.Module):
    """Multi-head attention, residual, layer norm.

    The parameters are those of ``nn.MultiheadAttention``, which would project queries and keys separately even where
    they are projections of the same tokens.

    Args:
        dim (int): Length D of a token.
        num_heads (int): Number of attention heads.
        dropout (float): Dropout probability, also for the attention weights.
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
        """Run the layer.

        Args:
            tokens (torch.Tensor): Input of the residual connection ``(B, L, D)``.
            query (torch.Tensor): ``(B, L, D)``.
            key (torch.Tensor): ``(B, M, D)``; projected together with the queries if it is the same tensor.
            value (torch.Tensor): ``(B, M, D)``.
            mask (torch.Tensor | None): Forbidden pairs ``(L, M)``, ``True`` = forbidden. Defaults to ``None``.

        Returns:
            torch.Tensor: ``(B, L, D)``.
        """
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
        """Project to queries (0), keys (1), values (2) from ``first`` to before ``last``: ``(B, heads, L, d)`` each."""
        weight, bias = self.attention.in_proj_weight, self.attention.in_proj_bias
        dim = self.attention.embed_dim
        rows = slice(first * dim, last * dim)
        projected = linear(tokens, weight[rows], bias[rows])
        return projected.unflatten(2, (last - first, self.attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()


class FeedForward(nn.Module):
    """Two linear layers with ReLU, residual, layer norm.

    Args:
        dim (int): Length D of a token.
        hidden_dim (int): Width between the layers.
        dropout (float): Dropout probability.
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Run the layer.

        Args:
            tokens (torch.Tensor): ``(B, L, D)``.

        Returns:
            torch.Tensor: ``(B, L, D)``.
        """
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
        self.self_attention = AttentionLayer(dim, num_heads, dropout)
        self.feed_forward = FeedForward(dim, feedforward_dim, dropout)

    def forward(self, tokens: torch.Tensor, position: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Run the layer.

        Args:
            tokens (torch.Tensor): ``(B, L, D)``.
            position (torch.Tensor): Position encoding ``(L, D)``.
            mask (torch.Tensor | None): Forbidden pairs ``(L, L)``. Defaults to ``None``.

        Returns:
            torch.Tensor: ``(B, L, D)``.
        """
        located = tokens + position
        return self.feed_forward(self.self_attention(tokens, query=located, key=located, value=tokens, mask=mask))
