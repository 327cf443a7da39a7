"""ReContrast as an anomalib model.

Paper: ReContrast: Domain-Specific Anomaly Detection via Contrastive Reconstruction, NeurIPS 2023,
https://arxiv.org/abs/2306.02602.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler

from anomalib_unias.models.components import ImageScore, UnifiedDetector, backbone_pre_processor

from .loss import ReContrastLoss, mining_strength
from .network import Activation, Block
from .torch_model import ReContrastModel


class ReContrast(UnifiedDetector, AnomalibModule):  # type: ignore[misc]  # Lightning has another to_onnx
    """Reconstructs the features of a frozen encoder from those of a trained encoder, and vice versa.

    Only positions that are hard to reconstruct give gradients. One model for one product, as published, or for many.

    Args:
        image_size (tuple[int, int] | None): Height and width of the network input, divisible by 32. ``None`` takes
            the size of ``pre_processor``, or 256x256. Defaults to ``None``.
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
        image_score (ImageScore): Image score from the map: its ``"max"``, ``"mean"`` or ``"std"``, the mean of its
            ``"top"`` 1 % of pixels, or the highest mean of a window of 16x16 pixels (``"pooled"``).
            Defaults to ``"max"``.
        learning_rate (float): Learning rate of AdamW for bottleneck, decoder and heads. Defaults to ``2e-3``.
        encoder_learning_rate (float): Learning rate for the trained encoder. Defaults to ``1e-5``.
        weight_decay (float): Weight decay of AdamW. Defaults to ``1e-5``.
        training_steps (int): Length of the run if the trainer is given none of ``max_steps``, ``max_epochs`` and
            ``max_time``. Defaults to ``2000``.
        pre_processor (PreProcessor | bool): Defaults to ``True``: resize and normalise for the backbone.
        post_processor (PostProcessor | bool): Defaults to ``True``.
        evaluator (Evaluator | bool): Defaults to ``True``.
        visualizer (Visualizer | bool): Defaults to ``True``.

    Raises:
        BackboneError: If the backbone, one of its levels or its weights do not exist.
        ValueError: If the image size or another argument does not fit.

    Example:
        >>> model = ReContrast(backbone="resnet18", pre_trained=False, block="basic", block_width=64)
        >>> tuple(model.input_size)
        (256, 256)
    """

    model: ReContrastModel
    default_size = (256, 256)

    def __init__(
        self,
        image_size: tuple[int, int] | None = None,
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
        learning_rate: float = 2e-3,
        encoder_learning_rate: float = 1e-5,
        weight_decay: float = 1e-5,
        training_steps: int = 2000,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        if pre_processor is True:
            pre_processor = self.configure_pre_processor(image_size or self.default_size, backbone)
        super().__init__(
            pre_processor=pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        # Saves the size that is really used: a checkpoint rebuilds the model before its pre-processor.
        self.hparams["image_size"] = self.resolve_image_size(image_size)
        self.learning_rate = learning_rate
        self.encoder_learning_rate = encoder_learning_rate
        self.weight_decay = weight_decay
        self.training_steps = training_steps

        self.model = ReContrastModel(
            image_size=self.hparams["image_size"],
            backbone=backbone,
            pre_trained=pre_trained,
            levels=levels,
            encoder_bn_train=encoder_bn_train,
            widths=widths,
            block=block,
            block_width=block_width,
            bottleneck_blocks=bottleneck_blocks,
            decoder_blocks=decoder_blocks,
            decoder_activation=decoder_activation,
            sigma=sigma,
            image_score=image_score,
        )
        self.loss = ReContrastLoss()

    @staticmethod
    def configure_pre_processor(
        image_size: tuple[int, int] | None = None, backbone: str = "wide_resnet50_2.tv_in1k"
    ) -> PreProcessor:
        """Resize, and normalise with the statistics that the backbone was pre-trained with.

        Args:
            image_size (tuple[int, int] | None): Height and width. Defaults to ``None``: 256x256.
            backbone (str): timm network. Defaults to ``"wide_resnet50_2.tv_in1k"``.

        Returns:
            PreProcessor: For images in [0, 1].
        """
        return backbone_pre_processor(image_size or ReContrast.default_size, backbone)

    def training_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Reconstruct the features of normal images.

        Args:
            batch (ImageBatch): Images ``(B, 3, H, W)``.
            *args (Any): Not used.
            **kwargs (Any): Not used.

        Returns:
            STEP_OUTPUT: The loss.

        Raises:
            FloatingPointError: If the loss is not finite; the message names the images.
        """
        del args, kwargs
        targets, reconstructions = self.model.reconstruct(cast("torch.Tensor", batch.image))
        strength = mining_strength(self.global_step, self.planned_steps())
        return self.log_loss(self.loss(targets, reconstructions, strength), batch)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with constant learning rates, a smaller one for the trained encoder.

        Returns:
            OptimizerLRScheduler: The optimiser.
        """
        encoder = list(self.model.trained_encoder.parameters())
        parts = (self.model.bottleneck, self.model.decoder, self.model.frozen_heads, self.model.trained_heads)
        others = [parameter for part in parts for parameter in part.parameters()]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": encoder, "lr": self.encoder_learning_rate}]
        return torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay)
