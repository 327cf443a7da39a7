"""The dual (spatial and channel) attention block."""

import torch
from torch import nn

from anomalib_unias.models.components import AttentionLayer, FeedForward


class _AttentionBranch(nn.Module):
    """Cross attention to the memory, self attention, feed-forward (Eq. 4, post-norm)."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.cross_attention = AttentionLayer(dim, num_heads, dropout)
        self.self_attention = AttentionLayer(dim, num_heads, dropout)
        self.feed_forward = FeedForward(dim, feedforward_dim, dropout)

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
    """Attention between positions and, in parallel, attention between channels; their outputs are added.

    Args:
        dim (int): Length D of a token.
        num_tokens (int): Number L of tokens, which is the token length of the channel branch.
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
            mask (torch.Tensor | None): Forbidden pairs ``(L, L)``, bool, ``True`` = forbidden; spatial branch only.

        Returns:
            torch.Tensor: ``(B, L, D)``.
        """
        updated = self.spatial(tokens, memory, memory_position, query_position, mask)
        if self.channel is not None:
            by_channel = self.channel(tokens.mT, memory.mT, memory_position.mT)
            updated = updated + by_channel.mT
        return updated
