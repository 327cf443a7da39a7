"""The multi-level hybrid decoder (left half of Fig. 3)."""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import nn

from anomalib_unias.models.components import neighbor_mask, sine_position_encoding

from .attention import DualAttentionBlock
from .local_block import LightMultiGranularityBlock, LocalBlock, MultiGranularityBlock, build_local_block
from .patch_embedding import PatchEmbedding
from .pixel_decoder import PixelDecoder
from .query import LearnedQuery, SampleAwareQuery
from .reconstruction import ResizeHead, TransposedHead

ReconstructionHead = Literal["resize", "transposed"]


class _DecoderStep(nn.Module):
    """Hybrid block of one level: global attention to its patches, then local convolutions."""

    def __init__(self, patch_embedding: PatchEmbedding, attention: DualAttentionBlock, local: nn.Module) -> None:
        super().__init__()
        self.patch_embedding = patch_embedding
        self.attention = attention
        self.local = local


class UniASDecoder(nn.Module):
    """Reconstruct the features of every level from a query that is learned from normal images only.

    Args:
        channels (Sequence[int]): Channels C of each level of the pyramid, shallow to deep.
        patch_sizes (Sequence[int]): Feature pixels of each level per token, along each side; 1 for the deepest.
        reconstructed (Sequence[bool]): Which levels are reconstructed.
        grid (tuple[int, int]): Rows h and columns w of the token grid.
        hidden_dim (int): Length D of a token, divisible by 4 and by ``num_heads``.
        num_heads (int): Number of attention heads.
        feedforward_dim (int): Hidden width of the feed-forward layers.
        encoder_layers (int): Transformer encoder layers of the pixel decoder.
        pixel_decoder_fusion (bool): Whether the pixel decoder is a feature pyramid, see :class:`PixelDecoder`.
        dropout (float): Dropout probability.
        sample_aware_query (bool): Whether the query is re-weighted by the image.
        local_block (LocalBlock): Local block of a step, see :func:`build_local_block`.
        channel_branch (bool): Whether a step also attends between channels.
        neighbor_mask_size (int): Side of the window that is masked in spatial attention, odd, 0 for none.
        reconstruction_head (ReconstructionHead): ``"resize"`` as in the published code, ``"transposed"`` as in the
            paper.

    Raises:
        ValueError: If ``hidden_dim`` does not fit, or an option is unknown.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        patch_sizes: Sequence[int],
        reconstructed: Sequence[bool],
        grid: tuple[int, int],
        hidden_dim: int,
        num_heads: int,
        feedforward_dim: int,
        encoder_layers: int,
        pixel_decoder_fusion: bool,
        dropout: float,
        sample_aware_query: bool,
        local_block: LocalBlock,
        channel_branch: bool,
        neighbor_mask_size: int,
        reconstruction_head: ReconstructionHead,
    ) -> None:
        super().__init__()
        _check_width(hidden_dim, num_heads)
        num_tokens = grid[0] * grid[1]
        self.grid = grid
        self.reconstructed = tuple(index for index, used in enumerate(reconstructed) if used)
        self.position: torch.Tensor
        self.mask: torch.Tensor | None
        self.register_buffer("position", sine_position_encoding(*grid, hidden_dim), persistent=False)
        self.register_buffer("mask", neighbor_mask(*grid, neighbor_mask_size), persistent=False)

        self.pixel_decoder = PixelDecoder(
            [2 * count for count in channels],
            hidden_dim,
            encoder_layers,
            num_heads,
            feedforward_dim,
            dropout,
            pixel_decoder_fusion,
        )
        self.query: nn.Module
        if sample_aware_query:
            self.query = SampleAwareQuery(hidden_dim, grid, light=local_block == "light")
        else:
            self.query = LearnedQuery(hidden_dim, grid)
        self.query_position = nn.Parameter(torch.randn(num_tokens, hidden_dim))
        self.steps = nn.ModuleList(
            _DecoderStep(
                PatchEmbedding(self.pixel_decoder.out_channels[index], hidden_dim, patch_sizes[index]),
                DualAttentionBlock(hidden_dim, num_tokens, num_heads, feedforward_dim, dropout, channel_branch),
                build_local_block(local_block, hidden_dim),
            )
            for index in self.reconstructed
        )
        self.norm = nn.LayerNorm(hidden_dim)
        head_class = _head_class(reconstruction_head)
        self.heads = nn.ModuleList(
            head_class(hidden_dim, channels[index], patch_sizes[index]) for index in self.reconstructed
        )
        self._initialise()

    def forward(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Reconstruct the levels from deep to shallow.

        Args:
            inputs (Sequence[torch.Tensor]): Filtered features ``(B, 2 C_l, H_l, W_l)``, shallow to deep.

        Returns:
            list[torch.Tensor]: ``(B, C_l, H_l, W_l)`` of the reconstructed levels, shallow to deep.
        """
        features = self.pixel_decoder(inputs, self.position)
        state = self.query(features[-1])

        reconstructions: list[torch.Tensor] = []
        for index, step, head in zip(
            reversed(self.reconstructed), reversed(self._steps()), reversed(self.heads), strict=True
        ):
            # Global modelling: attend to the patches of this level.
            memory = step.patch_embedding(features[index])
            state = step.attention(state, memory, self.position, self.query_position, self.mask)
            # Local modelling.
            state = step.local(self._as_image(state)).flatten(2).mT
            # Back to the features of this level.
            reconstructions.insert(0, head(self._as_image(self.norm(state))))
        return reconstructions

    def _steps(self) -> list[_DecoderStep]:
        return cast("list[_DecoderStep]", list(self.steps))

    def _as_image(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.mT.reshape(tokens.shape[0], tokens.shape[2], *self.grid)

    def _initialise(self) -> None:
        """Initialise as the published code does; all other parameters keep PyTorch's default."""
        attended = [self.pixel_decoder.encoder, *(step.attention for step in self._steps())]
        blocks = (MultiGranularityBlock, LightMultiGranularityBlock)
        mixed: list[nn.Module] = [module for module in self.modules() if isinstance(module, blocks)]
        embedded = [step.patch_embedding.embedding for step in self._steps()]
        if isinstance(self.query, SampleAwareQuery):
            mixed += [self.query.channel_mlp, self.query.spatial_conv]
        for module in (*attended, *mixed, *embedded):
            for parameter in module.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        projections = [step.patch_embedding.projection for step in self._steps()]
        encoder = set(self.pixel_decoder.encoder.modules())
        for module in (*self.pixel_decoder.modules(), *projections):
            if isinstance(module, nn.Conv2d) and module not in encoder:
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _check_width(hidden_dim: int, num_heads: int) -> None:
    if hidden_dim % 4 or hidden_dim % num_heads:
        msg = f"hidden_dim must be divisible by 4 and by num_heads={num_heads}, got {hidden_dim}."
        raise ValueError(msg)


def _head_class(kind: ReconstructionHead) -> type[ResizeHead] | type[TransposedHead]:
    heads: dict[str, type[ResizeHead] | type[TransposedHead]] = {"resize": ResizeHead, "transposed": TransposedHead}
    if kind not in heads:
        msg = f"reconstruction_head must be one of {sorted(heads)}, got {kind!r}."
        raise ValueError(msg)
    return heads[kind]
