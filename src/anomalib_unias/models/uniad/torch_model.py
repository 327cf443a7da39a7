"""UniAD as a plain PyTorch module.

Paper: A Unified Model for Multi-class Anomaly Detection, NeurIPS 2022, https://arxiv.org/abs/2206.03687.
"""

from collections.abc import Collection, Sequence

import torch
from anomalib.data import InferenceBatch
from torch import nn
from torch.nn.functional import interpolate

from anomalib_unias.backbones import FeaturePyramid
from anomalib_unias.models.components import (
    FeatureJitter,
    ImageScore,
    check_image_score,
    resize_map,
    score_of_map,
    token_grid,
)

from .transformer import MaskedAttention, UniADTransformer


class UniADModel(nn.Module):
    """Reconstruct the features of a frozen network; features that are reconstructed poorly are anomalous.

    Args:
        image_size (tuple[int, int]): Height and width of the input, divisible by the largest stride.
            Defaults to ``(224, 224)``.
        backbone (str): timm network that gives the features. Defaults to ``"tf_efficientnet_b4"``.
        pre_trained (bool): Whether the backbone has its ImageNet weights. Defaults to ``True``.
        levels (Sequence[int] | None): Levels of the backbone, 1 being the shallowest. ``None`` takes all with a
            stride up to 16. Defaults to ``None``.
        hidden_dim (int): Width D of the transformer. Defaults to ``256``.
        num_heads (int): Attention heads. Defaults to ``8``.
        feedforward_dim (int): Hidden width of feed-forward layers. Defaults to ``1024``.
        encoder_layers (int): Layers of the encoder. Defaults to ``4``.
        decoder_layers (int): Layers of the decoder. Defaults to ``4``.
        dropout (float): Dropout in the transformer. Defaults to ``0.1``.
        neighbor_mask_size (int): Side of the window that is masked in attention, odd, 0 for none. Defaults to ``7``.
        masked_attentions (Collection[MaskedAttention]): Attentions that are masked, see :class:`UniADTransformer`.
            Defaults to ``("encoder", "memory", "output")``.
        jitter_scale (float): Strength of the feature jitter in training. Defaults to ``20.0``.
        jitter_probability (float): Probability of jitter for a batch. Defaults to ``1.0``.
        image_score (ImageScore): Image score from the map, see :func:`score_of_map`. Defaults to ``"pooled"``.

    Raises:
        BackboneError: If the backbone, one of its levels or its weights do not exist.
        ValueError: If the image size or another argument does not fit.
    """

    FEATURES = " on the grid of the deepest"
    """Part of the cache key that distinguishes these features from other models' with the same backbone."""

    def __init__(
        self,
        *,
        image_size: tuple[int, int] = (224, 224),
        backbone: str = "tf_efficientnet_b4",
        pre_trained: bool = True,
        levels: Sequence[int] | None = None,
        hidden_dim: int = 256,
        num_heads: int = 8,
        feedforward_dim: int = 1024,
        encoder_layers: int = 4,
        decoder_layers: int = 4,
        dropout: float = 0.1,
        neighbor_mask_size: int = 7,
        masked_attentions: Collection[MaskedAttention] = ("encoder", "memory", "output"),
        jitter_scale: float = 20.0,
        jitter_probability: float = 1.0,
        image_score: ImageScore = "pooled",
    ) -> None:
        super().__init__()
        check_image_score(image_score)
        self.image_size = image_size
        self.image_score = image_score

        self.backbone = FeaturePyramid(backbone, levels, pre_trained)
        self.channels = sum(self.backbone.channels)
        self.jitter = FeatureJitter(jitter_scale, jitter_probability)
        self.transformer = UniADTransformer(
            channels=self.channels,
            grid=token_grid(image_size, self.backbone.strides[-1]),
            hidden_dim=hidden_dim,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            dropout=dropout,
            neighbor_mask_size=neighbor_mask_size,
            masked_attentions=masked_attentions,
        )

    def forward(self, images: torch.Tensor) -> InferenceBatch | tuple[torch.Tensor, torch.Tensor]:
        """Reconstruct the features of normalised images.

        Args:
            images (torch.Tensor): ``(B, 3, H, W)``, normalised with the statistics of the backbone.

        Returns:
            InferenceBatch | tuple[torch.Tensor, torch.Tensor]: In eval mode the image score ``(B,)`` and the anomaly
            map ``(B, 1, H, W)``; in training mode the target and its reconstruction ``(B, C, h, w)``.
        """
        target, reconstruction = self.reconstruct(self.extract(images))
        if self.training:
            return target, reconstruction

        anomaly_map = self.anomaly_map(target, reconstruction)
        return InferenceBatch(pred_score=score_of_map(anomaly_map, self.image_score), anomaly_map=anomaly_map)

    def extract(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the features to reconstruct, which can be cached for training.

        Args:
            images (torch.Tensor): ``(B, 3, H, W)``, normalised with the statistics of the backbone.

        Returns:
            list[torch.Tensor]: A single map ``(B, C, h, w)``.
        """
        return [align_levels(self.backbone(images))]

    def unflatten(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Bring features that are stored as one row per image back to their shape.

        Args:
            rows (torch.Tensor): ``(B, C * h * w)``, of any precision.

        Returns:
            list[torch.Tensor]: As :meth:`extract`, single precision.
        """
        return [rows.float().view(-1, self.channels, *self.transformer.grid)]

    def reconstruct(self, features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruct features, in training mode from a version with noise.

        Args:
            features (Sequence[torch.Tensor]): What :meth:`extract` returns.

        Returns:
            tuple[torch.Tensor, torch.Tensor]: The target without noise, and its reconstruction, ``(B, C, h, w)``.
        """
        (target,) = features
        (noisy,) = self.jitter([target])
        return target, self.transformer(noisy)

    def anomaly_map(self, target: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        """Compute the length of the difference at every position, resized to the image size.

        Args:
            target (torch.Tensor): ``(B, C, h, w)``.
            reconstruction (torch.Tensor): ``(B, C, h, w)``.

        Returns:
            torch.Tensor: ``(B, 1, H, W)``, not negative.
        """
        distance = (reconstruction - target).square().sum(dim=1, keepdim=True).sqrt()
        return resize_map(distance, self.image_size, align_corners=True)


def align_levels(features: Sequence[torch.Tensor]) -> torch.Tensor:
    """Resize all levels to the grid of the deepest one, and concatenate them.

    As published, corners are aligned and values are interpolated without anti-aliasing.

    Args:
        features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for each level, shallow to deep.

    Returns:
        torch.Tensor: ``(B, C, h, w)``, C the sum of all C_l.
    """
    grid = features[-1].shape[-2:]
    return torch.cat([interpolate(one, size=grid, mode="bilinear", align_corners=True) for one in features], dim=1)
