"""Weights of the published UniAS code, renamed for this implementation."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from anomalib_unias.backbones.efficientnet_keys import timm_efficientnet_keys

_HEAD = "sem_seg_head."
_BACKBONE = "backbone."
_B4_STAGE_DEPTHS = (2, 4, 4, 6, 6, 8, 2)
_LAST_STEP = 3

# Prefixes of published names -> prefixes here; `<i>` is a level counted from the shallowest, `<s>` a decoder step.
# The published steps count from the deepest level, the ones here from the shallowest.
_PREFIXES = {
    "pixel_decoder.input_proj": "pixel_decoder.input_projection",
    "pixel_decoder.transformer.encoder.layers.<n>.self_attn": "pixel_decoder.encoder.<n>.self_attention.attention",
    "pixel_decoder.transformer.encoder.layers.<n>.norm1": "pixel_decoder.encoder.<n>.self_attention.norm",
    "pixel_decoder.transformer.encoder.layers.<n>.norm2": "pixel_decoder.encoder.<n>.feed_forward.norm",
    "pixel_decoder.transformer.encoder.layers.<n>.linear1": "pixel_decoder.encoder.<n>.feed_forward.linear1",
    "pixel_decoder.transformer.encoder.layers.<n>.linear2": "pixel_decoder.encoder.<n>.feed_forward.linear2",
    "pixel_decoder.layer_4": "pixel_decoder.output",
    "pixel_decoder.adapter_<i>.norm": "pixel_decoder.fusions.<i>.lateral_norm",
    "pixel_decoder.adapter_<i>": "pixel_decoder.fusions.<i>.lateral",
    "pixel_decoder.layer_<i>.norm": "pixel_decoder.fusions.<i>.output_norm",
    "pixel_decoder.layer_<i>": "pixel_decoder.fusions.<i>.output",
    "predictor.patch_embed.<s>.proj": "steps.<s>.patch_embedding.embedding",
    "predictor.input_proj.<s>": "steps.<s>.patch_embedding.projection",
    "predictor.feature_projector": "query.projection",
    "predictor.query_processor.channel_weight.agg.layers.0": "query.channel_mlp.0",
    "predictor.query_processor.channel_weight.agg.layers.1": "query.channel_mlp.2",
    "predictor.query_processor.channel_weight.agg.layers.2": "query.channel_mlp.4",
    "predictor.query_processor.spatial_weight.conv": "query.spatial_conv",
    "predictor.query_processor.adaptor.conv<b>": "query.merge.branches.<b>",
    "predictor.transformer_block.<s>.SpatialCrossAttnLayer.multihead_attn": (
        "steps.<s>.attention.spatial.cross_attention.attention"
    ),
    "predictor.transformer_block.<s>.SpatialCrossAttnLayer.norm": "steps.<s>.attention.spatial.cross_attention.norm",
    "predictor.transformer_block.<s>.SpatialSelfAttnLayer.self_attn": (
        "steps.<s>.attention.spatial.self_attention.attention"
    ),
    "predictor.transformer_block.<s>.SpatialSelfAttnLayer.norm": "steps.<s>.attention.spatial.self_attention.norm",
    "predictor.transformer_block.<s>.SpatialFFNLayer": "steps.<s>.attention.spatial.feed_forward",
    "predictor.transformer_block.<s>.ChannelCrossAttnLayer.multihead_attn": (
        "steps.<s>.attention.channel.cross_attention.attention"
    ),
    "predictor.transformer_block.<s>.ChannelCrossAttnLayer.norm": "steps.<s>.attention.channel.cross_attention.norm",
    "predictor.transformer_block.<s>.ChannelSelfAttnLayer.self_attn": (
        "steps.<s>.attention.channel.self_attention.attention"
    ),
    "predictor.transformer_block.<s>.ChannelSelfAttnLayer.norm": "steps.<s>.attention.channel.self_attention.norm",
    "predictor.transformer_block.<s>.ChannelFFNLayer": "steps.<s>.attention.channel.feed_forward",
    "predictor.layer_adaptors.<s>.conv<b>": "steps.<s>.local.branches.<b>",
    "predictor.decoder_norm": "norm",
    "predictor.out_agg.<s>.<c>": "heads.<s>.convolutions.<c>",
}
_FULL_NAMES = {
    "predictor.spatial_query_feat.weight": "query.queries",
    "predictor.spatial_query_embed.weight": "query_position",
}
_LEVEL_EMBEDDING = "predictor.level_embed_src.weight"


class PublishedCheckpointError(ValueError):
    """A checkpoint that was not written by the published code, or that does not fit the model."""


def decoder_keys(published: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the decoder parameters of the published code.

    Args:
        published (Mapping[str, torch.Tensor]): Tensors named ``sem_seg_head.*``.

    Returns:
        dict[str, torch.Tensor]: The same tensors with the names of :class:`UniASDecoder`.

    Raises:
        PublishedCheckpointError: If names are unknown; all of them are listed.
    """
    renamed: dict[str, torch.Tensor] = {}
    unknown = []
    for key, tensor in published.items():
        name = key.removeprefix(_HEAD)
        if name == _LEVEL_EMBEDDING:
            renamed |= {f"steps.{_LAST_STEP - i}.patch_embedding.level": row for i, row in enumerate(tensor)}
        elif (new_name := _FULL_NAMES.get(name) or _rename(name)) is not None:
            renamed[new_name] = tensor
        else:
            unknown.append(key)
    if unknown:
        msg = f"Names that the published UniAS decoder does not have: {', '.join(unknown)}."
        raise PublishedCheckpointError(msg)
    return renamed


def convert_published_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint of the published code as a state dict of :class:`UniASModel`.

    The decoder is under ``sem_seg_head.``, an EfficientNet-B4 in the ``efficientnet_pytorch`` naming under
    ``backbone.``; the unused tail of the backbone is left out.

    Args:
        path (str | Path): File written by ``torch.save``, with the state dict at the top or under
            ``"state_dict"`` or ``"model"``; a leading ``module.`` is removed.

    Returns:
        dict[str, torch.Tensor]: Load it with :func:`load_published_checkpoint`, which checks it.

    Raises:
        PublishedCheckpointError: If the file has unknown names or no decoder.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model"):
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    state_dict = {key.removeprefix("module."): tensor for key, tensor in content.items()}
    head = {key: tensor for key, tensor in state_dict.items() if key.startswith(_HEAD)}
    backbone = {key.removeprefix(_BACKBONE): t for key, t in state_dict.items() if key.startswith(_BACKBONE)}
    unknown = [key for key in state_dict if not key.startswith((_HEAD, _BACKBONE))]
    if unknown or not head:
        msg = (
            f"{path} is not a checkpoint of the published UniAS code: expected names that begin with "
            f"'{_HEAD}' or '{_BACKBONE}', got {', '.join(unknown[:20]) or 'no decoder'}."
        )
        raise PublishedCheckpointError(msg)
    converted = {f"decoder.{key}": tensor for key, tensor in decoder_keys(head).items()}
    try:
        network = timm_efficientnet_keys(backbone, _B4_STAGE_DEPTHS)
    except KeyError as error:
        raise PublishedCheckpointError(str(error)) from error
    return converted | {f"backbone.network.{key}": t for key, t in network.items() if _is_used(key)}


def load_published_checkpoint(model: nn.Module, path: str | Path, backbone_required: bool = False) -> None:
    """Load a checkpoint of the published code into a :class:`UniASModel`.

    Args:
        model (nn.Module): Model with the architecture of the paper (``tf_efficientnet_b4``, all defaults).
        path (str | Path): See :func:`convert_published_checkpoint`.
        backbone_required (bool): Whether a checkpoint without a backbone is an error; otherwise the model keeps its
            own backbone. Defaults to ``False``.

    Raises:
        PublishedCheckpointError: If parameters are missing, unknown or of another shape; all are listed.
    """
    converted = convert_published_checkpoint(path)
    own = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("scaler.")}
    if not backbone_required and not any(key.startswith("backbone.") for key in converted):
        own = {key: tensor for key, tensor in own.items() if not key.startswith("backbone.")}
    problems = {
        "missing": sorted(own.keys() - converted.keys()),
        "unknown": sorted(converted.keys() - own.keys()),
        "of another shape": sorted(k for k in own.keys() & converted.keys() if own[k].shape != converted[k].shape),
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in problems.items() if keys)
        msg = f"{path} does not fit the model. {listed}. The published code has one architecture: UniASModel() as is."
        raise PublishedCheckpointError(msg)
    model.load_state_dict(converted, strict=False)


def save_as_lightning_checkpoint(published: str | Path, output: str | Path) -> None:
    """Write a checkpoint of the published code as one that ``UniAS.load_from_checkpoint`` opens.

    Args:
        published (str | Path): See :func:`convert_published_checkpoint`.
        output (str | Path): File to write.

    Raises:
        PublishedCheckpointError: If the checkpoint does not have the architecture of the paper, or has no backbone.
    """
    # Imported here so that the functions above do not need Lightning.
    from lightning.pytorch import Trainer

    from .lightning_model import UniAS

    model = UniAS(pre_trained=False, feature_scaling="none")
    load_published_checkpoint(model.model, published, backbone_required=True)
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(model)
    trainer.save_checkpoint(output)


def _is_used(key: str) -> bool:
    """Whether a parameter of the backbone lies before the deepest level, the fifth stage."""
    return key.startswith(("conv_stem.", "bn1.")) or bool(re.match(r"blocks\.[0-4]\.", key))


def _rename(name: str) -> str | None:
    for pattern, (regex, target) in _COMPILED.items():
        match = regex.fullmatch(name)
        if match is None:
            continue
        groups = match.groupdict()
        if "i" in groups:
            groups["i"] = str(int(groups["i"]) - 1)
        if "s" in groups:
            groups["s"] = str(_LAST_STEP - int(groups["s"]))
        if "c" in groups:
            groups["c"] = str(int(groups["c"]) - 1)
        for placeholder, value in groups.items():
            target = target.replace(f"<{placeholder}>", value)
        rest = groups["rest"]
        # The published "stack" of a single 3x3 convolution is the convolution itself; here it is a stack of one.
        if pattern.endswith("conv<b>") and groups["b"] == "1":
            rest = f"0.{rest}"
        return f"{target}.{rest}"
    return None


def _compile(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern)
    for placeholder in ("n", "i", "s", "b", "c"):
        escaped = escaped.replace(f"<{placeholder}>", rf"(?P<{placeholder}>[0-9])")
    return re.compile(rf"{escaped}\.(?P<rest>.+)")


_COMPILED = {pattern: (_compile(pattern), target) for pattern, target in _PREFIXES.items()}
