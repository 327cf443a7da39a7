"""Frozen feature pyramids from timm, and ImageNet weights that need no download."""

from .efficientnet_lite import FORMER_NAMES, register_backbones
from .pyramid import BackboneError, FeaturePyramid, backbone_statistics

__all__ = ["FORMER_NAMES", "BackboneError", "FeaturePyramid", "backbone_statistics", "register_backbones"]
