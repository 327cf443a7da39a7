"""ReContrast as a plain PyTorch module.

Paper: ReContrast: Domain-Specific Anomaly Detection via Contrastive Reconstruction, NeurIPS 2023,
https://arxiv.org/abs/2306.02602.
"""

from collections.abc import Sequence

import torch
from anomalib.data import InferenceBatch
from torch import nn

from anomalib_unias.backbones import FeaturePyramid
from anomalib_unias.models.components import ImageScore, check_image_score, score_of_map, token_grid

from .anomaly_map import AnomalyMapGenerator
from .network import Activation, Block, FusionBottleneck, Heads, MirroredDecoder, check_network

Pairs = tuple[list[torch.Tensor], list[torch.Tensor]]

_STRIDES = (4, 8, 16)


class ReContrastModel(nn.Module):
    """Reconstruct the features of a frozen encoder from those of a trained encoder, and vice versa.

    Args:
        image_size (tuple[int, int]): Height and width of the input, divisible by 32. Defaults to ``(256, 256)``.
        backbone (str): timm network of both encoders. Defaults to ``"wide_resnet50_2.tv_in1k"``.
        pre_trained (bool): Whether both encoders start from ImageNet weights. Defaults to ``True``.
        levels (Sequence[int]): Levels of the backbone with the strides 4, 8 and 16, 1 being the shallowest.
            Defaults to ``(2, 3, 4)``.
        encoder_bn_train (bool): Whether the batch normalisation of the trained encoder uses the statistics of the batch
            in training. Defaults to ``False``.
        widths (Sequence[int] | None): Channels of bottleneck and decoder at the strides 4, 8, 16 and 32. ``None`` takes
            those of the encoder, and twice the last for stride 32. Defaults to ``None``.
        block (Block): Residual blocks, ``"bottleneck"`` or ``"basic"``. Defaults to ``"bottleneck"``.
        block_width (int): Width of bottleneck blocks: 128 for half the channels, 64 for a quarter; must be 64 for
            ``"basic"``. Defaults to ``128``.
        bottleneck_blocks (int): Blocks of the bottleneck. Defaults to ``3``.
        decoder_blocks (Sequence[int]): Blocks of the decoder at the strides 16, 8 and 4. Defaults to ``(3, 4, 6)``.
        decoder_activation (Activation): ``"relu"`` or ``"gelu"``. Defaults to ``"relu"``.
        sigma (float): Standard deviation of the Gaussian that smooths the map, in pixels, 0 for none.
            Defaults to ``4.0``.
        image_score (ImageScore): Image score from the map, see :func:`score_of_map`. Defaults to ``"max"``.

    Raises:
        BackboneError: If the backbone, one of its levels or its weights do not exist.
        ValueError: If the image size or another argument does not fit.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int] = (256, 256),
        backbone: str = "wide_resnet50_2.tv_in1k",
        pre_trained: bool = True,
        levels: Sequence[int] = (2, 3, 4),
        encoder_bn_train: bool = False,
        widths: Sequence[int] | None = None,
        block: Block = "bottleneck",
        block_width: int = 128,
        bottleneck_blocks: int = 3,
        decoder_blocks: Sequence[int] = (3, 4, 6),
        decoder_activation: Activation = "relu",
        sigma: float = 4.0,
        image_score: ImageScore = "max",
    ) -> None:
        super().__init__()
        check_image_score(image_score)
        token_grid(image_size, 2 * _STRIDES[-1])
        self.image_size = image_size
        self.image_score = image_score

        self.frozen_encoder = FeaturePyramid(backbone, levels, pre_trained)
        if self.frozen_encoder.strides != _STRIDES:
            msg = f"levels must have the strides {_STRIDES}, those of {backbone} have {self.frozen_encoder.strides}."
            raise ValueError(msg)
        channels = self.frozen_encoder.channels
        widths = (*channels, 2 * channels[-1]) if widths is None else tuple(widths)
        check_network(block, block_width, widths, decoder_activation)
        self.trained_encoder = self.frozen_encoder.trainable_copy(encoder_bn_train)
        self.bottleneck = FusionBottleneck(channels, widths, block, block_width, bottleneck_blocks)
        self.decoder = MirroredDecoder(widths, block, block_width, decoder_blocks, decoder_activation)
        self.frozen_heads = Heads(widths[:-1], channels)
        self.trained_heads = Heads(widths[:-1], channels)
        self.anomaly_map_generator = AnomalyMapGenerator(image_size, sigma)

    def forward(self, images: torch.Tensor) -> InferenceBatch | tuple[Pairs, Pairs]:
        """Reconstruct the features of normalised images.

        Args:
            images (torch.Tensor): ``(B, 3, H, W)``, normalised with the statistics of the backbone.

        Returns:
            InferenceBatch | tuple[Pairs, Pairs]: In eval mode the image score ``(B,)`` and the anomaly map
            ``(B, 1, H, W)``; in training mode what :meth:`reconstruct` returns.
        """
        targets, reconstructions = self.reconstruct(images)
        if self.training:
            return targets, reconstructions

        anomaly_map = self.anomaly_map_generator(targets, reconstructions)
        return InferenceBatch(pred_score=score_of_map(anomaly_map, self.image_score), anomaly_map=anomaly_map)

    def reconstruct(self, images: torch.Tensor) -> tuple[Pairs, Pairs]:
        """Reconstruct the features of each encoder from those of the other one.

        Args:
            images (torch.Tensor): ``(B, 3, H, W)``, normalised with the statistics of the backbone.

        Returns:
            tuple[Pairs, Pairs]: Targets and reconstructions of two pairs, ``(B, C_l, H_l, W_l)`` for each level,
            shallow to deep: the frozen encoder reconstructed from the trained one, and the trained from the frozen.
        """
        trained, frozen = self.trained_encoder(images), self.frozen_encoder(images)
        # Both in one batch: they share the statistics of the normalisation, through which even the pair with the frozen
        # input gives a gradient to the trained encoder.
        both = [torch.cat(level) for level in zip(trained, frozen, strict=True)]
        decoded = self.decoder(self.bottleneck(both))
        # Not chunk(), which would make the number of images a constant of an exported graph.
        count = images.shape[0]
        frozen_outputs = self.frozen_heads([level[:count] for level in decoded])
        trained_outputs = self.trained_heads([level[count:] for level in decoded])
        return (frozen, trained), (frozen_outputs, trained_outputs)
