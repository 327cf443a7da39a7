"""Weights of the published UniAD code, renamed for this implementation."""

import re
from collections.abc import Mapping

import torch

# Patterns of published names -> names here. The decoder's "self-attention" of the published code attends to the memory.
_RENAMED = {
    r"^input_proj\.": "input_projection.",
    r"^output_proj\.": "output_projection.",
    r"^pos_embed\.row_embed\.weight$": "position.rows",
    r"^pos_embed\.col_embed\.weight$": "position.columns",
    r"^transformer\.decoder\.norm\.": "norm.",
    r"^transformer\.encoder\.layers\.(\d+)\.self_attn\.": r"encoder.\1.self_attention.attention.",
    r"^transformer\.encoder\.layers\.(\d+)\.norm1\.": r"encoder.\1.self_attention.norm.",
    r"^transformer\.encoder\.layers\.(\d+)\.(linear[12])\.": r"encoder.\1.feed_forward.\2.",
    r"^transformer\.encoder\.layers\.(\d+)\.norm2\.": r"encoder.\1.feed_forward.norm.",
    r"^transformer\.decoder\.layers\.(\d+)\.learned_embed\.weight$": r"decoder.\1.query",
    r"^transformer\.decoder\.layers\.(\d+)\.self_attn\.": r"decoder.\1.memory_attention.attention.",
    r"^transformer\.decoder\.layers\.(\d+)\.norm1\.": r"decoder.\1.memory_attention.norm.",
    r"^transformer\.decoder\.layers\.(\d+)\.multihead_attn\.": r"decoder.\1.output_attention.attention.",
    r"^transformer\.decoder\.layers\.(\d+)\.norm2\.": r"decoder.\1.output_attention.norm.",
    r"^transformer\.decoder\.layers\.(\d+)\.(linear[12])\.": r"decoder.\1.feed_forward.\2.",
    r"^transformer\.decoder\.layers\.(\d+)\.norm3\.": r"decoder.\1.feed_forward.norm.",
}
_PREFIX = "module.reconstruction."


def transformer_keys(published: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the weights of the published reconstruction network.

    Args:
        published (Mapping[str, torch.Tensor]): State dict of the network, with or without the prefix that it has in a
            published checkpoint; with the prefix, all other entries are ignored.

    Returns:
        dict[str, torch.Tensor]: State dict of :class:`UniADTransformer`.

    Raises:
        ValueError: If a name is unknown.
    """
    if any(key.startswith(_PREFIX) for key in published):
        published = {key.removeprefix(_PREFIX): value for key, value in published.items() if key.startswith(_PREFIX)}
    return {_renamed(key): value for key, value in published.items()}


def _renamed(key: str) -> str:
    for pattern, replacement in _RENAMED.items():
        renamed, count = re.subn(pattern, replacement, key)
        if count:
            return renamed
    msg = f"{key!r} is no weight of the published UniAD: expected names such as 'input_proj.weight'."
    raise ValueError(msg)
