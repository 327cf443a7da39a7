"""UniAS as an anomalib model.

Paper: Towards Accurate Unified Anomaly Segmentation, WACV 2025, https://arxiv.org/abs/2501.12295.
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
    ClippedGradients,
    FeatureCache,
    FrozenFeatures,
    ImageScore,
    LRSchedule,
    backbone_pre_processor,
    check_schedule,
    token_grid,
)

from .checkpoint import resize_positions
from .components.decoder import ReconstructionHead
from .components.local_block import LocalBlock
from .loss import UniASLoss
from .statistics import learn_statistics
from .torch_model import FeatureScaling, UniASModel

_SMOOTHING = 2.0


class UniAS(ClippedGradients, FrozenFeatures, AnomalibModule):  # type: ignore[misc]  # Lightning has another to_onnx
    """One model that segments the anomalies of many products.

    A multi-level hybrid decoder, trained on normal images only, reconstructs the features of a frozen network. The
    anomaly map is the product of the cosine distances of all levels.

    Args:
        image_size (tuple[int, int] | None): Height and width of the network input, divisible by the largest
            stride. ``None`` takes the size of ``pre_processor``, or 224x224. Defaults to ``None``.
        backbone (str): timm network that gives the features. Defaults to ``"tf_efficientnet_b4"``.
        pre_trained (bool): Whether the backbone has its ImageNet weights. Defaults to ``True``.
        levels (Sequence[int] | None): Levels of the backbone that are reconstructed, 1 being the shallowest.
            ``None`` takes all with a stride up to 16. Defaults to ``None``.
        hidden_dim (int): Width of the decoder. Defaults to ``256``.
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
            square over training images, ``"channel"`` each channel, ``"balanced"`` is halfway between the two.
            Defaults to ``"balanced"``.
        level_weights (Sequence[float] | None): Exponents of the levels' maps in their product, shallow to deep;
            ``None`` for 1 as in the paper. Defaults to ``None``.
        prototypes (int): Number of prototypes of normal features for each kind of image and each view; the geometric
            mean of the distances to them is multiplied into the anomaly map, see :class:`NormalPrototypes`; 0 for none
            as in the paper. Defaults to ``0``.
        prototype_smoothing (float): Standard deviation of the Gaussian that smooths this product, in pixels of half the
            image size. Defaults to ``2.0``, as in PatchCore.
        principal_component_start (bool): Whether patch embeddings and transposed heads are initialised with the
            principal components of training features instead of random weights. Defaults to ``False``.
        image_score (ImageScore): Image score from the map: its ``"max"``, ``"mean"`` or ``"std"``, the mean of its
            ``"top"`` 1 % of pixels, or the highest mean of a window of 16x16 pixels (``"pooled"``).
            Defaults to ``"max"``.
        flatten_cosine (bool): Use one cosine per image and level in the loss instead of one per pixel.
            Defaults to ``False``.
        learning_rate (float): Highest learning rate of AdamW. Defaults to ``1e-4``.
        weight_decay (float): Weight decay of AdamW. Defaults to ``1e-4``.
        lr_schedule (LRSchedule): ``"step"`` divides the rate by 10 after 40 % and after 80 % of the run as in
            the paper, ``"one_cycle"`` warms up and anneals. Defaults to ``"step"``.
        gradient_clip_norm (float): Maximum total gradient norm, unless the trainer has its own ``gradient_clip_val``.
            Defaults to ``0.1``.
        training_steps (int): Length of the run if the trainer is given none of ``max_steps``, ``max_epochs`` and
            ``max_time``. A run whose length is given in steps is validated at its end, and after every tenth of it if
            a callback monitors a metric, unless the trainer is given another interval. Defaults to ``10_000``.
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
        >>> model = UniAS(backbone="resnet18", pre_trained=False, hidden_dim=32, feedforward_dim=64)
        >>> tuple(model.input_size)
        (224, 224)
    """

    model: UniASModel

    def __init__(
        self,
        image_size: tuple[int, int] | None = None,
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
        prototype_smoothing: float = _SMOOTHING,
        principal_component_start: bool = False,
        image_score: ImageScore = "max",
        flatten_cosine: bool = False,
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

        self.model = UniASModel(
            image_size=self.hparams["image_size"],
            backbone=backbone,
            pre_trained=pre_trained,
            levels=levels,
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
            jitter_scale=jitter_scale,
            jitter_probability=jitter_probability,
            reconstruction_head=reconstruction_head,
            blur_maps=blur_maps,
            feature_scaling=feature_scaling,
            level_weights=level_weights,
            prototypes=prototypes,
            prototype_smoothing=prototype_smoothing,
            image_score=image_score,
        )
        self.loss = UniASLoss(flatten_cosine=flatten_cosine)

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
        return backbone_pre_processor(image_size or UniAS.default_size, backbone)

    def on_train_start(self) -> None:
        """Fit scales, prototypes and initial weights to training images, once."""
        learn_statistics(self)

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
        targets, reconstructions = self.model.reconstruct(self.features_of(batch))
        return self.log_loss(self.loss(targets, reconstructions), batch)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW on the decoder, with a schedule as long as the run.

        Returns:
            OptimizerLRScheduler: Optimiser and scheduler, stepped after every batch.
        """
        return self.adamw(self.learning_rate, self.weight_decay, self.lr_schedule, milestones=(0.4, 0.8))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore a checkpoint, whatever the number of kinds of images that its prototypes have.

        Checkpoints from before ``prototype_smoothing`` was an argument have a smoothing of 2 pixels.

        Args:
            checkpoint (dict[str, Any]): Lightning checkpoint.

        Raises:
            ArchitectureMismatchError: If the checkpoint does not belong to this architecture.
        """
        if self.model.prototypes is not None:
            self.model.prototypes.prepare_for(checkpoint["state_dict"], "model.prototypes.")
        if "prototype_smoothing" not in checkpoint.get("hyper_parameters", {}):
            self.hparams["prototype_smoothing"] = _SMOOTHING
            self.model.anomaly_map_generator.smooth_product(_SMOOTHING)
        super().on_load_checkpoint(checkpoint)

    def resize_state(self, state_dict: dict[str, torch.Tensor], saved_size: tuple[int, int]) -> None:
        """Interpolate the parameters learned per position, in place.

        Args:
            state_dict (dict[str, torch.Tensor]): State dict of a checkpoint.
            saved_size (tuple[int, int]): Height and width that it was trained with.
        """
        saved_grid = token_grid(saved_size, self.model.backbone.strides[-1])
        resize_positions(state_dict, saved_grid, self.model.decoder.grid, self.hparams["channel_branch"])
