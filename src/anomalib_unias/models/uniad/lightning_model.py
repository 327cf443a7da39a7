"""UniAD as an anomalib model.

Paper: A Unified Model for Multi-class Anomaly Detection, NeurIPS 2022, https://arxiv.org/abs/2206.03687.
"""

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler

from anomalib_unias.models.components import (
    COMPONENT_BATCHES,
    ClippedGradients,
    FeatureCache,
    FrozenFeatures,
    ImageScore,
    LRSchedule,
    backbone_pre_processor,
    check_schedule,
    resize_grid,
    token_grid,
)

from .loss import UniADLoss
from .torch_model import UniADModel
from .transformer import MaskedAttention


class UniAD(ClippedGradients, FrozenFeatures, AnomalibModule):  # type: ignore[misc]  # Lightning has another to_onnx
    """One transformer that reconstructs the features of many products.

    Three means keep the reconstruction from being a copy: attention cannot use the neighbourhood of a position, every
    decoder layer starts from its own learned query, and the features get noise in training.

    Args:
        image_size (tuple[int, int] | None): Height and width of the network input, divisible by the largest
            stride. ``None`` takes the size of ``pre_processor``, or 224x224. Defaults to ``None``.
        backbone (str): timm network that gives the features. Defaults to ``"tf_efficientnet_b4"``.
        pre_trained (bool): Whether the backbone has its ImageNet weights. Defaults to ``True``.
        levels (Sequence[int] | None): Levels of the backbone, 1 being the shallowest. ``None`` takes all with a
            stride up to 16. Defaults to ``None``.
        hidden_dim (int): Width of the transformer. Defaults to ``256``.
        num_heads (int): Attention heads. Defaults to ``8``.
        feedforward_dim (int): Hidden width of feed-forward layers. Defaults to ``1024``.
        encoder_layers (int): Layers of the encoder. Defaults to ``4``.
        decoder_layers (int): Layers of the decoder. Defaults to ``4``.
        dropout (float): Dropout in the transformer. Defaults to ``0.1``.
        neighbor_mask_size (int): Side of the window that is masked in attention, odd, 0 for none. Defaults to ``7``.
        masked_attentions (Sequence[MaskedAttention]): Attentions that are masked: those in the ``"encoder"``, those of
            decoder layers to the ``"memory"``, and those of decoder layers to the previous ``"output"``.
            Defaults to ``("encoder", "memory", "output")``.
        jitter_scale (float): Strength of the feature jitter in training. Defaults to ``20.0``.
        jitter_probability (float): Probability of jitter for a batch. Defaults to ``1.0``.
        image_score (ImageScore): Image score from the map: the highest mean of a window of 16x16 pixels
            (``"pooled"``), its ``"max"``, ``"mean"`` or ``"std"``, or the mean of its ``"top"`` 1 % of pixels.
            Defaults to ``"pooled"``.
        principal_component_start (bool): Whether the projections to and from the transformer are initialised with the
            principal components of training features instead of random weights. Defaults to ``False``.
        learning_rate (float): Highest learning rate of AdamW. Defaults to ``1e-4``.
        weight_decay (float): Weight decay of AdamW. Defaults to ``1e-4``.
        lr_schedule (LRSchedule): ``"step"`` divides the rate by 10 after 80 % of the run as published,
            ``"one_cycle"`` warms up and anneals. Defaults to ``"step"``.
        gradient_clip_norm (float): Maximum total gradient norm, unless the trainer has its own ``gradient_clip_val``.
            Defaults to ``0.1``.
        training_steps (int): Length of the run if the trainer is given none of ``max_steps``, ``max_epochs`` and
            ``max_time``. Defaults to ``10_000``.
        feature_cache (FeatureCache): Where the features of the training images are kept after they have been
            computed once: ``"disk"``, a file in the user's cache folder, ``"memory"``, or ``"off"``. Random
            augmentations or pre-processors, and runs that are too short to see every image, switch it off. If the
            features cannot be kept, training warns and goes on without the cache. Defaults to ``"disk"``.
        feature_cache_limit (float | None): Largest size of these features in GB; larger ones are computed in every
            step. Defaults to ``None``: on disk nine tenths of the free space, in memory no limit.
        pre_processor (PreProcessor | bool): Defaults to ``True``: resize and normalise for the backbone.
        post_processor (PostProcessor | bool): Defaults to ``True``.
        evaluator (Evaluator | bool): Defaults to ``True``.
        visualizer (Visualizer | bool): Defaults to ``True``.

    Raises:
        BackboneError: If the backbone, one of its levels or its weights do not exist.
        ValueError: If the image size or another argument does not fit.

    Example:
        >>> model = UniAD(backbone="resnet18", pre_trained=False, hidden_dim=32, feedforward_dim=64)
        >>> tuple(model.input_size)
        (224, 224)
    """

    model: UniADModel

    def __init__(
        self,
        image_size: tuple[int, int] | None = None,
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
        masked_attentions: Sequence[MaskedAttention] = ("encoder", "memory", "output"),
        jitter_scale: float = 20.0,
        jitter_probability: float = 1.0,
        image_score: ImageScore = "pooled",
        principal_component_start: bool = False,
        learning_rate: float = 1e-4,
        weight_decay: float = 1e-4,
        lr_schedule: LRSchedule = "step",
        gradient_clip_norm: float = 0.1,
        training_steps: int = 10_000,
        feature_cache: FeatureCache = "disk",
        feature_cache_limit: float | None = None,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        if pre_processor is True:
            pre_processor = self.configure_pre_processor(image_size, backbone)
        super().__init__(
            pre_processor=pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        check_schedule(lr_schedule)
        self.set_feature_cache(feature_cache, feature_cache_limit)
        # Saves the size that is really used: a checkpoint rebuilds the model before its pre-processor.
        self.hparams["image_size"] = self.resolve_image_size(image_size)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.lr_schedule = lr_schedule
        self.principal_component_start = principal_component_start
        self.gradient_clip_norm = gradient_clip_norm
        self.training_steps = training_steps

        self.model = UniADModel(
            image_size=self.hparams["image_size"],
            backbone=backbone,
            pre_trained=pre_trained,
            levels=levels,
            hidden_dim=hidden_dim,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            dropout=dropout,
            neighbor_mask_size=neighbor_mask_size,
            masked_attentions=masked_attentions,
            jitter_scale=jitter_scale,
            jitter_probability=jitter_probability,
            image_score=image_score,
        )
        self.loss = UniADLoss()

    @staticmethod
    def configure_pre_processor(
        image_size: tuple[int, int] | None = None, backbone: str = "tf_efficientnet_b4"
    ) -> PreProcessor:
        """Resize, and normalise with the statistics that the backbone was pre-trained with.

        Args:
            image_size (tuple[int, int] | None): Height and width. Defaults to ``None``: 224x224.
            backbone (str): timm network. Defaults to ``"tf_efficientnet_b4"``.

        Returns:
            PreProcessor: For images in [0, 1].
        """
        return backbone_pre_processor(image_size or UniAD.default_size, backbone)

    def on_train_start(self) -> None:
        """Start from the principal components of training features, if asked to."""
        if self.principal_component_start and self.trainer.global_step == 0:
            transformer = self.model.transformer
            with torch.random.fork_rng():
                (features,) = self.first_features(COMPONENT_BATCHES)
                transformer.start_from_principal_components(features)
            # Each process has seen different images.
            transformer.load_state_dict(self.trainer.strategy.broadcast(transformer.state_dict()))

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
        target, reconstruction = self.model.reconstruct(self.features_of(batch))
        return self.log_loss(self.loss(target, reconstruction), batch)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW on the transformer, with a schedule as long as the run.

        Returns:
            OptimizerLRScheduler: Optimiser and scheduler, stepped after every batch.
        """
        return self.adamw(self.learning_rate, self.weight_decay, self.lr_schedule, milestones=(0.8,))

    def resize_state(self, state_dict: dict[str, torch.Tensor], saved_size: tuple[int, int]) -> None:
        """Interpolate the parameters learned per position, in place.

        Args:
            state_dict (dict[str, torch.Tensor]): State dict of a checkpoint.
            saved_size (tuple[int, int]): Height and width that it was trained with.
        """
        transformer, stride = self.model.transformer, self.model.backbone.strides[-1]
        saved, grid = token_grid(saved_size, stride), transformer.grid
        grids = {"position.rows": ((saved[0], 1), (grid[0], 1)), "position.columns": ((saved[1], 1), (grid[1], 1))}
        grids |= {f"decoder.{index}.query": (saved, grid) for index in range(len(transformer.decoder))}
        for name, (old, new) in grids.items():
            key = f"model.transformer.{name}"
            # A missing key means another architecture, which is rejected later.
            if key in state_dict:
                state_dict[key] = resize_grid(state_dict[key], old, new)
