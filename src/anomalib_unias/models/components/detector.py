"""The common base class of all models of this package."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from anomalib import LearningType
from anomalib.data import Batch, ImageBatch
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR
from torchvision.transforms.v2 import Compose, Normalize

from anomalib_unias.backbones import backbone_statistics
from anomalib_unias.callbacks import ExactResume, FlushDenormals, RunLength, TrainingData
from anomalib_unias.compat.trainer import AttachedBeforeLimits, can_clip_fused
from anomalib_unias.data.image_check import ImageCheck
from anomalib_unias.metrics import UnifiedEvaluator
from anomalib_unias.post_processing import OrderPreservingPostProcessor
from anomalib_unias.pre_processing import ExportableResize

from .checkpoint import SizedCheckpoint
from .export import QuantizableExport

LRSchedule = Literal["step", "one_cycle"]


class UnifiedDetector(SizedCheckpoint, QuantizableExport, AttachedBeforeLimits):  # type: ignore[misc]  # two of Lightning
    """Default parts, run length, validation, checks, checkpoints and export of a model for many products.

    A base class to list before ``AnomalibModule``. It does not derive from it: anomalib lists the direct subclasses of
    ``AnomalibModule`` as models. A subclass sets ``model`` and ``training_steps``, and passes the arguments of the
    optimiser to :meth:`adamw`.
    """

    model: Any
    training_steps: int
    default_size: ClassVar[tuple[int, int]] = (224, 224)

    def configure_post_processor(self) -> OrderPreservingPostProcessor:
        """Normalise scores so that strong and very strong defects stay distinguishable.

        Returns:
            OrderPreservingPostProcessor: With its defaults.
        """
        return OrderPreservingPostProcessor()

    @staticmethod
    def configure_evaluator() -> UnifiedEvaluator:
        """Evaluate every category, their mean and the joint set.

        Returns:
            UnifiedEvaluator: With its defaults.
        """
        return UnifiedEvaluator()

    def on_attach_to_fit(self, trainer: Trainer) -> None:
        """Give the run its default length.

        Args:
            trainer (Trainer): A trainer that has not read its limits yet.
        """
        RunLength.of(trainer).begin(trainer, self, self.training_steps)

    def configure_callbacks(self) -> list[Callback]:
        """Configure the callbacks of a run.

        Returns:
            list[Callback]: The components of the model that are callbacks, and the callbacks of this package.
        """
        parts = cast("Sequence[Callback]", super().configure_callbacks())
        return [*parts, ImageCheck(), FlushDenormals(), ExactResume()]

    def on_fit_start(self) -> None:
        """Raise an error if the training set is empty.

        Raises:
            ValueError: If there is no training image.
        """
        TrainingData.of(self.trainer).require_images(self.trainer)

    def log_loss(self, loss: torch.Tensor, batch: ImageBatch) -> STEP_OUTPUT:
        """Log the loss of a step.

        Args:
            loss (torch.Tensor): Scalar.
            batch (ImageBatch): Batch that the loss was computed on.

        Returns:
            STEP_OUTPUT: Return value of a training step.

        Raises:
            FloatingPointError: If the loss is not finite; the message names the images.
        """
        if not torch.isfinite(loss):
            msg = (
                f"The loss is {loss.item()} at step {self.global_step}, epoch {self.current_epoch}, for the images "
                f"{batch.image_path}. Check these images for damage; else lower learning_rate or precision."
            )
            raise FloatingPointError(msg)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=batch.batch_size)
        return {"loss": loss}

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Predict image scores and anomaly maps, from which thresholds and normalisation are taken.

        Args:
            batch (Batch): Images ``(B, 3, H, W)``.
            *args (Any): Not used.
            **kwargs (Any): Not used.

        Returns:
            STEP_OUTPUT: The batch with predictions.
        """
        del args, kwargs
        return batch.update(**self.model(batch.image)._asdict())

    def planned_steps(self) -> int:
        """Length of the run.

        Returns:
            int: Steps of the optimiser; ``training_steps`` if the run is limited by time.
        """
        steps = self.trainer.estimated_stepping_batches
        return int(steps) if math.isfinite(steps) else self.training_steps

    def adamw(
        self, rate: float, weight_decay: float, schedule: LRSchedule, milestones: Iterable[float]
    ) -> OptimizerLRScheduler:
        """AdamW on all trained parameters, with a schedule as long as the run.

        Args:
            rate (float): Highest learning rate.
            weight_decay (float): Weight decay.
            schedule (LRSchedule): ``"step"`` or ``"one_cycle"``, which warms up and anneals.
            milestones (Iterable[float]): Shares of the run after which ``"step"`` divides the rate by 10.

        Returns:
            OptimizerLRScheduler: Optimiser and scheduler, stepped after every batch.
        """
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        fused = can_clip_fused(self.trainer)
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay, fused=fused)
        steps = self.planned_steps()
        scheduler: LRScheduler
        if schedule == "one_cycle":
            scheduler = OneCycleLR(optimizer, max_lr=rate, total_steps=max(steps, 2))
        else:
            scheduler = MultiStepLR(optimizer, milestones=[int(share * steps) for share in milestones])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Arguments of the trainer, without a run length: that would replace the user's, see :class:`RunLength`.

        Returns:
            dict[str, Any]: Arguments that anomalib's Engine sets on the trainer.
        """
        return {"num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """The model learns from normal images only.

        Returns:
            LearningType: One-class.
        """
        return LearningType.ONE_CLASS

    def resolve_image_size(self, image_size: tuple[int, int] | None) -> tuple[int, int]:
        """Size of the network input.

        Args:
            image_size (tuple[int, int] | None): Requested height and width.

        Returns:
            tuple[int, int]: Height and width: as requested, or of the pre-processor, or the default of the model.

        Raises:
            ValueError: If the pre-processor resizes to another size than the requested one.
        """
        found = cast("AnomalibModule", self).input_size if self.pre_processor else None
        if image_size is not None and found is not None and tuple(found) != tuple(image_size):
            msg = (
                f"image_size={tuple(image_size)} but the pre-processor resizes to {tuple(found)}. "
                "Give one of them, or the same size to both."
            )
            raise ValueError(msg)
        height, width = image_size or found or self.default_size
        return int(height), int(width)


class ClippedGradients(LightningModule):
    """Clips the gradient norm, unless the trainer has its own rule. The model sets ``gradient_clip_norm``."""

    gradient_clip_norm: float

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients of a step.

        Args:
            optimizer (torch.optim.Optimizer): The optimiser.
            gradient_clip_val (float | None): Value of the trainer. Defaults to ``None``.
            gradient_clip_algorithm (str | None): Algorithm of the trainer. Defaults to ``None``.
        """
        if gradient_clip_val is None:
            gradient_clip_val, gradient_clip_algorithm = self.gradient_clip_norm, "norm"
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)


def check_schedule(schedule: str) -> None:
    """Raise an error for an unknown schedule.

    Args:
        schedule (str): Requested schedule.

    Raises:
        ValueError: If there is no such schedule.
    """
    if schedule not in {"step", "one_cycle"}:
        msg = f"lr_schedule must be 'step' or 'one_cycle', got {schedule!r}."
        raise ValueError(msg)


def backbone_pre_processor(size: tuple[int, int], backbone: str) -> PreProcessor:
    """Resize, and normalise with the statistics that a backbone was pre-trained with.

    Args:
        size (tuple[int, int]): Height and width.
        backbone (str): timm network.

    Returns:
        PreProcessor: For images in [0, 1].
    """
    mean, std = backbone_statistics(backbone)
    return PreProcessor(transform=Compose([ExportableResize(size), Normalize(mean=mean, std=std)]))
