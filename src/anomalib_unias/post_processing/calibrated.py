"""A post-processor that applies a calibration."""

import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from anomalib.data import Batch, InferenceBatch
from anomalib.models.components import AnomalibModule
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from anomalib_unias.compat.checkpoints import keep_post_processor
from anomalib_unias.compat.scores import is_hooked, watch_for_owner

from .calibration import Calibration, FlaggedBatch, MissingCalibrationError, ScoreSource, calibrate
from .encoders import FeatureTap, find_feature_layer
from .fitting import empty_calibration, specification
from .levels import LevelCalibration
from .order_preserving import OrderPreservingPostProcessor

logger = logging.getLogger(__name__)


@dataclass
class _LastBatch:
    """State of the last batch; not a module, because an export would keep the tensors of one."""

    unfamiliar: Tensor | None = None


class CalibratedPostProcessor(OrderPreservingPostProcessor):
    """Applies a calibration in the model: validation, test, prediction and exports are calibrated.

    The calibration needs features of the image, which a post-processor of anomalib 2.7.0 does not get. So two hooks
    are added to the model: one takes the features from its encoder, one replaces its output.

    Args:
        image_score (ScoreSource | None): Source of image scores; ``None`` for the one that suits the calibration.
        feature_layer (str | None): Sub-module of the model's ``model`` that encodes the image; ``None`` for the known
            encoder of the model.
        report_out_of_range (bool): Whether exports have a fifth output ``out_of_range``.
        **options (Any): Arguments of :class:`OrderPreservingPostProcessor`.

    Attributes:
        calibration (Calibration | None): The calibration; ``None`` until one has been fitted.
        unfamiliar (list[str]): Images of the last test or prediction that are unlike all training images.
        tap (FeatureTap): Its hook in the encoder.
    """

    def __init__(
        self, image_score: ScoreSource | None, feature_layer: str | None, report_out_of_range: bool, **options: Any
    ) -> None:
        super().__init__(**options)
        self.image_score = image_score
        self.feature_layer = feature_layer
        self.report_out_of_range = report_out_of_range
        self.calibration: Calibration | None = None
        self.unfamiliar: list[str] = []
        self.tap = FeatureTap()
        self._categories: Sequence[str] | None = None
        self._last = _LastBatch()
        self._owner: weakref.ref[AnomalibModule] | None = None
        watch_for_owner(self, _note_owner)

    # Checkpoints

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "image_score", "feature_layer", "report_out_of_range")

    def checkpoint_config(self) -> dict[str, Any]:
        """Get plain data to save in a checkpoint: arguments, and the structure of the calibration.

        Returns:
            dict[str, Any]: Plain data.
        """
        description = None if self.calibration is None else specification(self.calibration)
        return super().checkpoint_config() | {"calibration": description}

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore what :meth:`checkpoint_config` returned, before the state dict is loaded.

        Args:
            config (dict[str, Any]): Plain data.
        """
        super().load_checkpoint_config(config)
        description = config.get("calibration")
        self.calibration = None if description is None else empty_calibration(description)
        owner = self._owner() if self._owner is not None else None
        if owner is not None:
            self.calibration = None if self.calibration is None else self.calibration.to(owner.device)
            self._attach(owner)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out state of this process. Hooks are copied with the model."""
        return self.__dict__ | {"_owner": None, "_last": _LastBatch(), "_categories": None}

    # Hooks in the model

    def _attach(self, module: AnomalibModule) -> None:
        """Hook into the model and its encoder, once; copies of a model already have the hooks."""
        model, layer = module.model, find_feature_layer(module, self.feature_layer)
        if not is_hooked("forward_pre", model, self._clear):
            model.register_forward_pre_hook(self._clear)
        if not is_hooked("forward", model, self._calibrate):
            model.register_forward_hook(self._calibrate)
        if not is_hooked("forward", layer, self.tap):
            layer.register_forward_hook(self.tap)

    def _clear(self, model: nn.Module, inputs: Any) -> None:
        del model, inputs
        self.tap.clear()

    def _calibrate(self, model: nn.Module, inputs: Any, output: Any) -> InferenceBatch | None:
        """Replace the output of the model in eval mode."""
        del inputs
        if model.training or self.calibration is None:
            self.tap.clear()
            return None
        categories, self._categories = self._categories, None
        prediction = self.calibration(self.tap.take(output.anomaly_map.shape[0]), categories)
        self._last.unfamiliar = prediction.unfamiliar
        return calibrate(output, prediction, self.source_of_score)

    @property
    def source_of_score(self) -> ScoreSource:
        """Source of image scores: ``image_score`` with its default resolved."""
        by_clusters = isinstance(self.calibration, LevelCalibration)
        return self.image_score or ("model" if by_clusters else "top")

    def forward(self, predictions: InferenceBatch) -> InferenceBatch | FlaggedBatch:  # type: ignore[override]
        """Normalise calibrated predictions, for inference and export.

        Args:
            predictions (InferenceBatch): Output of the model, already calibrated.

        Returns:
            InferenceBatch: Normalised scores and labels; a :class:`FlaggedBatch` with ``report_out_of_range``.

        Raises:
            MissingCalibrationError: If the model has not been calibrated.
        """
        if self.calibration is None:
            raise MissingCalibrationError
        processed = super().forward(predictions)
        if not self.report_out_of_range:
            return processed
        return FlaggedBatch(*processed, out_of_range=cast("Tensor", self._last.unfamiliar))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add the hooks to the model.

        Args:
            trainer (Trainer): The trainer.
            pl_module (LightningModule): The model.
            stage (str): ``fit``, ``validate``, ``test`` or ``predict``.
        """
        del trainer, stage
        self._attach(cast("AnomalibModule", pl_module))
        keep_post_processor(pl_module, self)

    # Batches

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Store the categories of a batch, for CaDA-A."""
        del trainer, pl_module, batch_idx, dataloader_idx
        self._categories = getattr(batch, "category", None)

    on_test_batch_start = on_validation_batch_start
    on_predict_batch_start = on_validation_batch_start

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise an error if there is no calibration.

        Raises:
            MissingCalibrationError: If the model has not been calibrated.
        """
        if self.calibration is None:
            raise MissingCalibrationError
        super().on_test_start(trainer, pl_module)
        self.unfamiliar = []

    on_predict_start = on_test_start

    def post_process_batch(self, batch: Batch) -> None:
        """Normalise a batch, and collect the images that are unlike all training images.

        Args:
            batch (Batch): Batch with predictions.
        """
        paths = getattr(batch, "image_path", None)
        flags, self._last.unfamiliar = self._last.unfamiliar, None
        if flags is not None and paths is not None:
            self.unfamiliar += [path for path, flag in zip(paths, flags.tolist(), strict=True) if flag]
        super().post_process_batch(batch)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn about images that are unlike all training images."""
        del trainer, pl_module
        if self.unfamiliar:
            shown = [*self.unfamiliar[:3], "..."][: len(self.unfamiliar)]
            logger.warning(
                "%d images are unlike all images that CADA was calibrated with, their scores may be off: %s",
                len(self.unfamiliar),
                ", ".join(shown),
            )

    on_predict_end = on_test_end


def _note_owner(post_processor: CalibratedPostProcessor, owner: AnomalibModule) -> None:
    post_processor._owner = weakref.ref(owner)
