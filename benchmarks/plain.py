"""UniAS without optimisations: no merged steps, the whole backbone, no stored intermediate results."""

from collections.abc import Sequence

import timm
import torch
from torch import nn

from anomalib_unias import UniASModel


class WholeBackbone(nn.Module):
    """A timm network that computes all levels, although only some are used."""

    def __init__(self, name: str, levels: Sequence[int]) -> None:
        super().__init__()
        self.network = timm.create_model(name, pretrained=False, features_only=True).eval().requires_grad_(False)
        self.levels = levels

    def train(self, mode: bool = True) -> "WholeBackbone":
        """Stay in eval mode."""
        super().train(mode)
        self.network.eval()
        return self

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute all levels, return some of them."""
        features = self.network(images)
        return [features[level - 1] for level in self.levels]


def make_plain(model: UniASModel, backbone: str) -> UniASModel:
    """Let a model compute everything step by step, without optimisations.

    Args:
        model (UniASModel): Changed in place.
        backbone (str): Name of its backbone.

    Returns:
        UniASModel: The same model.
    """
    for module in model.modules():
        if hasattr(module, "plain"):
            module.forward = module.plain
    whole = WholeBackbone(backbone, model.backbone.levels)
    whole.levels, whole.channels, whole.strides = model.backbone.levels, model.backbone.channels, model.backbone.strides
    model.backbone = whole
    return model
