"""Frozen feature pyramids from timm, and ImageNet weights that need no download."""

from .efficientnet_lite import register_backbones
from .pyramid import BackboneError, FeaturePyramid, backbone_statistics

__all__ = ["BackboneError", "FeaturePyramid", "backbone_statistics", "register_backbones"]
