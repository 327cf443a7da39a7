"""UniAS as a plain PyTorch module."""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_unias.backbones import FeaturePyramid
from anomalib_unias.models.components import FeatureJitter, ImageScore, check_image_score, score_of_map, token_grid

from .anomaly_map import AnomalyMapGenerator
from .components import FeatureFilter, FeatureScaler, NormalPrototypes, UniASDecoder, image_numbers
from .components.decoder import ReconstructionHead
from .components.local_block import LocalBlock

FeatureScaling = Literal["none", "level", "balanced", "channel"]

_EQUALITY: dict[str, float | None] = {"none": None, "level": 0.0, "balanced": 0.5, "channel": 1.0}

_UNKNOWN_IMAGES = (
    "There are no prototypes whose training images are known: their checkpoint is from an earlier version, or the "
    "model has none. Train again, or calibrate with other targets, such as 'held_out'."
)


class UniASModel(nn.Module):
    """Reconstruct the features of a frozen network; features that are reconstructed poorly are anomalous.

    Args:
        image_size (tuple[int, int]): Height and width of the input, divisible by the largest stride.
            Defaults to ``(224, 224)``.
        backbone (str): timm network that gives the features. Defaults to ``"tf_efficientnet_b4"``.
        pre_trained (bool): Whether the backbone has its ImageNet weights. Defaults to ``True``.
        levels (Sequence[int] | None): Levels of the backbone that are reconstructed, 1 being the shallowest.
            ``None`` takes all with a stride up to 16. Defaults to ``None``.
        hidden_dim (int): Width D of the decoder. Defaults to ``256``.
        num_heads (int): Attention heads. Defaults to ``4``.
        feedforward_dim (int): Hidden width of feed-forward layers. Defaults to ``2048``.
        encoder_layers (int): Transformer encoder layers of the pixel decoder. Defaults to ``3``.
        pixel_decoder_fusion (bool): Whether the pixel decoder is a feature pyramid as in the published code, which is
            most of the cost of a narrow model. Without it, all levels but the deepest are left unchanged, as in the
            text of the paper. Defaults to ``True``.
        dropout (float): Dropout in the transformer layers. Defaults to ``0.1``.
        sample_aware_query (bool): Whether the query is re-weighted by the image. Defaults to ``True``.
        local_block (LocalBlock): ``"mgg"`` the full block, ``"light"`` one at a tenth of the cost, ``"ungated"`` the
            full block without its gates, ``"conv"`` one 3x3 convolution, or ``"none"``. Defaults to ``"mgg"``.
        channel_branch (bool): Whether decoder steps also attend between channels. Defaults to ``True``.
        neighbor_mask_size (int): Side of the window that is masked in spatial attention, odd, 0 for none.
            Defaults to ``7``.
        jitter_scale (float): Strength of the feature jitter in training. Defaults to ``20.0``.
        jitter_probability (float): Probability of jitter for each level of a batch. Defaults to ``0.5``.
        reconstruction_head (ReconstructionHead): ``"resize"`` as in the published code, ``"transposed"`` as in
            the paper. Defaults to ``"resize"``.
        blur_maps (bool): Whether the maps of the levels are smoothed. Defaults to ``True``.
        feature_scaling (FeatureScaling): ``"none"`` as in the paper, ``"level"`` scales each level to unit mean
            square, ``"channel"`` each channel, ``"balanced"`` is halfway between the two. Defaults to ``"balanced"``.
        level_weights (Sequence[float] | None): Exponents of the levels' maps in their product, shallow to deep;
            ``None`` for 1 as in the paper. Defaults to ``None``.
        prototypes (int): Number of prototypes of normal features for each kind of image and each view; the geometric
            mean of the distances to them is multiplied into the anomaly map, see :class:`NormalPrototypes`; 0 for none
            as in the paper. Defaults to ``0``.
        prototype_smoothing (float): Standard deviation of the Gaussian that smooths this product, in pixels of half the
            image size. Defaults to ``2.0``, as in PatchCore.
        image_score (ImageScore): Image score from the map: its ``"max"``, ``"mean"`` or ``"std"``, the mean of its
            ``"top"`` 1 % of pixels, or the highest mean of a window of 16x16 pixels (``"pooled"``).
            Defaults to ``"max"``.

    Raises:
        BackboneError: If the backbone, one of its levels or its weights do not exist.
        ValueError: If the image size or another argument does not fit.
    """

    FEATURES = ""
    """Part of the cache key that distinguishes these features from other models' with the same backbone."""

    def __init__(
        self,
        *,
        image_size: tuple[int, int] = (224, 224),
        backbone: str = "tf_efficientnet_b4",
        pre_trained: bool = True,
        levels: Sequence[int] | None = None,
        hidden_dim: int = 256,
        num_heads: int = 4,
        feedforward_dim: int = 2048,
        encoder_layers: int = 3,
        pixel_decoder_fusion: bool = True,
        dropout: float = 0.1,
        sample_aware_query: bool = True,
        local_block: LocalBlock = "mgg",
        channel_branch: bool = True,
        neighbor_mask_size: int = 7,
        jitter_scale: float = 20.0,
        jitter_probability: float = 0.5,
        reconstruction_head: ReconstructionHead = "resize",
        blur_maps: bool = True,
        feature_scaling: FeatureScaling = "balanced",
        level_weights: Sequence[float] | None = None,
        prototypes: int = 0,
        prototype_smoothing: float = 2.0,
        image_score: ImageScore = "max",
    ) -> None:
        super().__init__()
        check_image_score(image_score)
        if feature_scaling not in _EQUALITY:
            msg = f"feature_scaling must be one of {list(_EQUALITY)}, got {feature_scaling!r}."
            raise ValueError(msg)
        if prototypes < 0:
            msg = f"prototypes is a number of prototypes, 0 for none, got {prototypes}."
            raise ValueError(msg)
        self.image_size = image_size
        self.image_score = image_score

        self.backbone = FeaturePyramid(backbone, levels, pre_trained)
        grid = token_grid(image_size, self.backbone.strides[-1])
        patch_sizes = [self.backbone.strides[-1] // stride for stride in self.backbone.strides]
        reconstructed = [levels is None or level in levels for level in self.backbone.levels]

        equality = _EQUALITY[feature_scaling]
        self.scaler = None if equality is None else FeatureScaler(self.backbone.channels, equality)
        self.prototypes: NormalPrototypes | None = None
        if prototypes:
            self.prototypes = NormalPrototypes(self.backbone.channels, self.backbone.strides, prototypes)
        self.filter = FeatureFilter(self.backbone.channels)
        self.jitter = FeatureJitter(jitter_scale, jitter_probability)
        self.decoder = UniASDecoder(
            channels=self.backbone.channels,
            patch_sizes=patch_sizes,
            reconstructed=reconstructed,
            grid=grid,
            hidden_dim=hidden_dim,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            encoder_layers=encoder_layers,
            pixel_decoder_fusion=pixel_decoder_fusion,
            dropout=dropout,
            sample_aware_query=sample_aware_query,
            local_block=local_block,
            channel_branch=channel_branch,
            neighbor_mask_size=neighbor_mask_size,
            reconstruction_head=reconstruction_head,
        )
        self.anomaly_map_generator = AnomalyMapGenerator(
            [patch_sizes[index] for index in self.decoder.reconstructed],
            image_size,
            blur_maps,
            level_weights,
            prototype_smoothing,
        )

    def forward(
        self, images: torch.Tensor, left_out: torch.Tensor | None = None
    ) -> InferenceBatch | tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Reconstruct the features of normalised images.

        Args:
            images (torch.Tensor): ``(B, 3, H, W)``, normalised with the statistics of the backbone.
            left_out (torch.Tensor | None): In eval mode, the training image whose prototypes are left out, for each
                image; see :class:`NormalPrototypes`. Defaults to ``None``.

        Returns:
            InferenceBatch | tuple[list[torch.Tensor], list[torch.Tensor]]: In eval mode the image score
            ``(B,)`` and the anomaly map ``(B, 1, H, W)``; in training mode the targets and their
            reconstructions, ``(B, C_l, H_l, W_l)`` for each level, shallow to deep.
        """
        features = self.extract(images)
        targets, reconstructions = self.reconstruct(features)
        if self.training:
            return targets, reconstructions

        distances = () if self.prototypes is None else self.prototypes(features, left_out)
        anomaly_map = self.anomaly_map_generator(targets, reconstructions, distances)
        return InferenceBatch(pred_score=score_of_map(anomaly_map, self.image_score), anomaly_map=anomaly_map)

    @property
    def can_leave_out(self) -> bool:
        """Whether :meth:`forward_left_out` works: the model has prototypes."""
        return self.prototypes is not None

    def check_leave_out(self) -> None:
        """Check before a training that :meth:`forward_left_out` will work after it.

        Raises:
            ValueError: If there are no prototypes, or they have been chosen but their training images are not known.
        """
        if self.prototypes is None or (self.prototypes.fitted and not self.prototypes.knows_images):
            raise ValueError(_UNKNOWN_IMAGES)

    def forward_left_out(self, images: torch.Tensor, paths: Sequence[str]) -> InferenceBatch:
        """Compute maps and scores, without hooks, as if the prototypes had been chosen without the image itself.

        The distance of a training image to the prototypes is then that of a new image; the decoder has still been
        trained on it.

        Args:
            images (torch.Tensor): ``(B, 3, H, W)``, normalised with the statistics of the backbone.
            paths (Sequence[str]): Their paths, as in training.

        Returns:
            InferenceBatch: As :meth:`forward` in eval mode.

        Raises:
            ValueError: If there are no prototypes whose training images are known.
        """
        if self.prototypes is None or not self.prototypes.knows_images:
            raise ValueError(_UNKNOWN_IMAGES)
        return cast("InferenceBatch", self.forward(images, image_numbers(paths).to(images.device)))

    def extract(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the features to reconstruct, which can be cached for training.

        Args:
            images (torch.Tensor): ``(B, 3, H, W)``, normalised with the statistics of the backbone.

        Returns:
            list[torch.Tensor]: ``(B, C_l, H_l, W_l)`` for each level, shallow to deep.
        """
        return self.backbone(images)

    def unflatten(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Bring features that are stored as one row per image back to their shapes.

        Args:
            rows (torch.Tensor): ``(B, N)``, of any precision.

        Returns:
            list[torch.Tensor]: As :meth:`extract`, single precision.
        """
        return self.backbone.unflatten(rows, self.image_size)

    def reconstruct(self, features: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Reconstruct features of the backbone.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for each level, shallow to deep.

        Returns:
            tuple[list[torch.Tensor], list[torch.Tensor]]: The targets and their reconstructions,
            ``(B, C_l, H_l, W_l)`` for each level that is reconstructed, shallow to deep.
        """
        inputs, targets = self.decoder_inputs(features)
        reconstructions = self.decoder(self.jitter(inputs))
        return [targets[index] for index in self.decoder.reconstructed], reconstructions

    def decoder_inputs(self, features: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Scale and filter features of the backbone.

        Args:
            features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for each level, shallow to deep.

        Returns:
            tuple[list[torch.Tensor], list[torch.Tensor]]: Decoder inputs ``(B, 2 C_l, H_l, W_l)`` and reconstruction
            targets ``(B, C_l, H_l, W_l)``, all levels.
        """
        if self.scaler is not None:
            features = self.scaler(features)
        return self.filter(features)
