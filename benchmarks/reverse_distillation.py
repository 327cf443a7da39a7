"""Reverse Distillation, which anomalib has for ResNets only, on the features of EfficientNet-Lite0."""

from typing import Any

from anomalib.models import ReverseDistillation
from anomalib.models.components import AnomalibModule, TimmFeatureExtractor
from torch import Tensor, nn

LAYERS = ["blocks.1", "blocks.2", "blocks.4"]
CHANNELS = [24, 40, 112]
RESNET_CHANNELS = [64, 128, 256]


class _Projections(nn.Module):
    """One 1x1 convolution for each level."""

    def __init__(self, in_channels: list[int], out_channels: list[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(*channels, 1) for channels in zip(in_channels, out_channels, strict=True))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Project all levels."""
        return [level(feature) for level, feature in zip(self.levels, features, strict=True)]


class LiteReverseDistillation(ReverseDistillation, AnomalibModule):  # AnomalibModule, so that anomalib finds it by name
    """Anomalib's bottleneck and decoder for ResNet18 between two learned projections of the channels.

    The encoder is EfficientNet-Lite0 with the strides 4, 8 and 16 of ResNet18. Loss, optimiser and map are anomalib's.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(backbone="resnet18", pre_trained=False, **arguments)
        self.model.encoder = TimmFeatureExtractor("tf_efficientnet_lite0_pypi", layers=LAYERS, pre_trained=True)
        self.model.bottleneck = nn.Sequential(_Projections(CHANNELS, RESNET_CHANNELS), self.model.bottleneck)
        self.model.decoder = nn.Sequential(self.model.decoder, _Projections(RESNET_CHANNELS, CHANNELS))
