"""Renaming of EfficientNet parameters from the ``efficientnet_pytorch`` style to timm's."""

import re
from collections.abc import Mapping, Sequence

import torch

_TRUNK = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SQUEEZE_EXCITE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
# The first stage has no expansion: timm calls its only pointwise convolution `conv_pw`.
_FIRST_STAGE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
    **_SQUEEZE_EXCITE,
}
_STAGE = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
    **_SQUEEZE_EXCITE,
}
_BLOCK_KEY = re.compile(r"_blocks\.(\d+)\.([^.]+)\.(.+)")


def timm_efficientnet_keys(
    state_dict: Mapping[str, torch.Tensor],
    stage_depths: Sequence[int],
) -> dict[str, torch.Tensor]:
    """Rename the parameters of an ``efficientnet_pytorch`` network to timm's names.

    Args:
        state_dict (Mapping[str, torch.Tensor]): Parameters named ``_blocks.<i>.<layer>.<tensor>``.
        stage_depths (Sequence[int]): Number of blocks of each stage, e.g. ``(2, 4, 4, 6, 6, 8, 2)`` for B4.

    Returns:
        dict[str, torch.Tensor]: The same tensors named ``blocks.<stage>.<block>.<layer>.<tensor>``.

    Raises:
        KeyError: If names do not belong to such a network; all of them are listed.
    """
    positions = [(stage, block) for stage, depth in enumerate(stage_depths) for block in range(depth)]
    renamed: dict[str, torch.Tensor] = {}
    unknown: list[str] = []
    for key, tensor in state_dict.items():
        new_key = _rename(key, positions)
        if new_key is None:
            unknown.append(key)
        else:
            renamed[new_key] = tensor
    if unknown:
        msg = f"Not parameters of an EfficientNet with {len(positions)} blocks: {', '.join(unknown)}."
        raise KeyError(msg)
    return renamed


def _rename(key: str, positions: Sequence[tuple[int, int]]) -> str | None:
    match = _BLOCK_KEY.fullmatch(key)
    if match is None:
        layer, _, tensor = key.partition(".")
        return f"{_TRUNK[layer]}.{tensor}" if layer in _TRUNK else None
    index, layer, tensor = int(match[1]), match[2], match[3]
    if index >= len(positions):
        return None
    stage, block = positions[index]
    names = _FIRST_STAGE if stage == 0 else _STAGE
    return f"blocks.{stage}.{block}.{names[layer]}.{tensor}" if layer in names else None
