"""CADA: one threshold for all products, for any anomalib model that localises defects.

Paper: Absolute-Unified Multi-Class Anomaly Detection via Class-Agnostic Distribution Alignment,
https://arxiv.org/abs/2404.00724.
"""

import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset, Batch, ImageBatch, InferenceBatch
from anomalib.data.utils import ValSplitMode
from anomalib.models.components import AnomalibModule
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from anomalib_unias.callbacks import TrainingData
from anomalib_unias.metrics.thresholds import FalseAlarmThreshold

from .calibration import Calibration, ImageScore, calibrate
from .calibration_data import CalibrationData, CalibrationDataError, at_most, evaluated_like, normal_images
from .checkpoint_files import load_best_weights, rewrite_checkpoints
from .encoders import FeatureTap, find_feature_layer
from .fitting import (
    CalibrationOptions,
    Predictor,
    Variant,
    empty_calibration,
    fit_calibration,
    own_influence,
    specification,
)
from .levels import LevelCalibration
from .life_cycle import validate_again, watch_for_owner
from .model_runs import ModelRuns
from .order_preserving import OrderPreservingPostProcessor
from .published import Statistics
from .selection import POWERS, choose_map_power

logger = logging.getLogger(__name__)

Targets = Literal["training", "held_out", "validation"]

# Kinds of images and levels of scores are known well enough from as many.
_MOST_IMAGES = 4096

# Lightning builds a model from a checkpoint with this function if the hyper-parameters name it.
_INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"


class MissingCalibrationError(RuntimeError):
    """A model with CADA is used before it has been calibrated."""


class FlaggedBatch(NamedTuple):
    """Predictions as anomalib's ``InferenceBatch``, and which images are of another kind than all training images.

    Attributes:
        pred_score: ``(B,)``, in (0, 1).
        pred_label: ``(B,)`` bool.
        anomaly_map: ``(B, 1, H, W)``, in (0, 1).
        pred_mask: ``(B, 1, H, W)`` bool.
        out_of_range: ``(B,)`` bool.
    """

    pred_score: Tensor | None
    pred_label: Tensor | None
    anomaly_map: Tensor | None
    pred_mask: Tensor | None
    out_of_range: Tensor


@dataclass
class _LastBatch:
    """What is known of the batch that went through the model; no module, whose tensors an export would keep."""

    unfamiliar: Tensor | None = None


class CadaPostProcessor(OrderPreservingPostProcessor):
    """Calibrates scores so that one threshold fits all products, and finds it without defective images.

    Every product has its own level of normal scores. Kinds of images are told apart by their features, without labels,
    and scores are divided by the level of their kind, see :class:`~.levels.LevelCalibration`. How far is chosen on
    synthetic defects. The calibrations of the paper predict what the mean ``u`` and the maximum ``g`` of the map would
    be if the image were normal, and the map ``s`` becomes ``(s - u) / (g - u)``.

    Fits itself when the training of the model ends, before thresholds and normalisation are taken, and from then on
    acts inside the model: validation, test, prediction and exports are calibrated.

    Args:
        variant (Variant): ``"cada"`` needs no category, ``"cada_b"`` needs them in training, ``"cada_a"`` also in test.
            Defaults to ``"cada"``.
        predictor (Predictor): How ``cada`` predicts: ``"clusters"`` by the kind of the image, ``"regressor"`` by the
            network of the paper. Defaults to ``"clusters"``.
        map_power (float | None): With ``clusters``: how far maps are calibrated, 0 (not) to 1. ``None`` takes the power
            with the highest pixel AP on synthetic defects. Defaults to ``None``.
        score_power (float): The same of image scores. Defaults to ``1.0``.
        statistics (Statistics): With the calibrations of the paper: ``"max"`` predicts mean and maximum of the map,
            ``"std"`` mean and standard deviation sigma, with ``g = u + 3 sigma``. Defaults to ``"max"``.
        targets (Targets): Whose statistics are the targets: the ``"training"`` images as in the paper, normal images
            that are ``"held_out"`` from the training of the model, or the normal ``"validation"`` images.
            Defaults to ``"held_out"``.
        held_out_fraction (float): Share of the normal training images of each category that is held out.
            Defaults to ``0.1``.
        image_score (ImageScore | None): Image score: mean of the ``"top"`` 1 % of the calibrated map, its ``"max"``, or
            the score of the ``"model"``, calibrated by itself (with the calibrations of the paper like the map).
            ``None`` is ``"model"`` with ``clusters``, ``"top"`` else. Defaults to ``None``.
        feature_layer (str | None): Sub-module below the model's ``model`` that encodes the image. ``None`` knows the
            models of anomalib. Defaults to ``None``.
        convolutions (int): Convolutions of the regressor or classifier, 0 to 2. Defaults to ``1``.
        linear_layers (int): Its linear layers, 1 to 3. Defaults to ``2``.
        hidden_dim (int): Its hidden width. Defaults to ``256``.
        dropout (float): Its dropout. Defaults to ``0.25``.
        learning_rate (float): Its learning rate (SGD). Defaults to ``5e-2``.
        max_steps (int): Its steps; it stops earlier when the loss no longer falls. Defaults to ``5000``.
        batch_size (int): Its batch size. Defaults to ``16``.
        report_out_of_range (bool): Give exports a fifth output ``out_of_range``: images of another kind than all
            training images. OpenVINO's Model API knows four and refuses five. Defaults to ``False``.
        seed (int): Of the held-out images, synthetic defects and the network. Defaults to ``0``.
        enable_normalization (bool): See :class:`OrderPreservingPostProcessor`, as all that follow.
        enable_thresholding (bool): Defaults to ``True``.
        enable_threshold_matching (bool): Defaults to ``True``.
        image_sensitivity (float): Defaults to ``0.5``.
        pixel_sensitivity (float): Defaults to ``0.5``.
        threshold (Literal["f1", "false_alarm_rate"]): ``false_alarm_rate`` looks at the images that are held out, or
            at the validation images if none are. Defaults to ``"false_alarm_rate"``.
        false_alarm_rate (float): Defaults to ``0.01``.

    Attributes:
        unfamiliar (list[str]): Images of the last validation, test or prediction that are unlike all training images.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> from anomalib.models import Padim
        >>> model = Padim(pre_trained=False, post_processor=CadaPostProcessor())
        >>> model.post_processor.calibration is None
        True
    """

    def __init__(
        self,
        variant: Variant = "cada",
        predictor: Predictor = "clusters",
        map_power: float | None = None,
        score_power: float = 1.0,
        statistics: Statistics = "max",
        targets: Targets = "held_out",
        held_out_fraction: float = 0.1,
        image_score: ImageScore | None = None,
        feature_layer: str | None = None,
        convolutions: int = 1,
        linear_layers: int = 2,
        hidden_dim: int = 256,
        dropout: float = 0.25,
        learning_rate: float = 5e-2,
        max_steps: int = 5000,
        batch_size: int = 16,
        report_out_of_range: bool = False,
        seed: int = 0,
        enable_normalization: bool = True,
        enable_thresholding: bool = True,
        enable_threshold_matching: bool = True,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
        threshold: Literal["f1", "false_alarm_rate"] = "false_alarm_rate",
        false_alarm_rate: float = 0.01,
    ) -> None:
        self.targets = targets  # the threshold metrics depend on it
        super().__init__(
            enable_normalization=enable_normalization,
            enable_thresholding=enable_thresholding,
            enable_threshold_matching=enable_threshold_matching,
            image_sensitivity=image_sensitivity,
            pixel_sensitivity=pixel_sensitivity,
            threshold=threshold,
            false_alarm_rate=false_alarm_rate,
        )
        self.variant = variant
        self.predictor = predictor
        self.map_power = map_power
        self.score_power = score_power
        self.statistics = statistics
        self.held_out_fraction = held_out_fraction
        self.image_score = image_score
        self.feature_layer = feature_layer
        self.convolutions = convolutions
        self.linear_layers = linear_layers
        self.hidden_dim = hidden_dim
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.report_out_of_range = report_out_of_range
        self.seed = seed
        self._check_arguments()

        self.calibration: Calibration | None = None
        self.unfamiliar: list[str] = []
        self._tap = FeatureTap()
        self._categories: Sequence[str] | None = None
        self._last = _LastBatch()
        self._owner: weakref.ref[AnomalibModule] | None = None
        watch_for_owner(self)

    def _check_arguments(self) -> None:
        choices = {
            "variant": ("cada", "cada_b", "cada_a"),
            "predictor": ("clusters", "regressor"),
            "statistics": ("max", "std"),
            "targets": ("training", "held_out", "validation"),
            "image_score": (None, "top", "max", "model"),
            "convolutions": (0, 1, 2),
            "linear_layers": (1, 2, 3),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                msg = f"{name} is one of {', '.join(map(repr, allowed))}, got {getattr(self, name)!r}."
                raise ValueError(msg)
        if self.map_power is not None and not 0 <= self.map_power <= 1:
            msg = f"map_power is between 0 and 1, or None for the best of {POWERS}, got {self.map_power}."
            raise ValueError(msg)
        if not 0 <= self.score_power <= 1:
            msg = f"score_power is between 0 and 1, got {self.score_power}."
            raise ValueError(msg)
        if not 0 < self.held_out_fraction < 1:
            msg = f"held_out_fraction is between 0 and 1, got {self.held_out_fraction}."
            raise ValueError(msg)

    # What is kept in a checkpoint

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        own = ("variant", "targets", "held_out_fraction", "image_score", "feature_layer", "predictor", "statistics")
        powers = ("map_power", "score_power")
        head = ("convolutions", "linear_layers", "hidden_dim", "dropout", "learning_rate", "max_steps", "batch_size")
        return (*super()._checkpoint_config_keys, *own, *powers, *head, "report_out_of_range", "seed")

    def checkpoint_config(self) -> dict[str, Any]:
        """Get plain data to persist in a checkpoint: arguments, and the shape of the calibration.

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
        """Leave out what belongs to this process. Hooks are copied with the model."""
        return self.__dict__ | {"_owner": None, "_last": _LastBatch(), "_categories": None}

    # How it acts inside the model

    def _attach(self, module: AnomalibModule) -> None:
        """Hook into the model and its encoder, once; copies of a model bring their hooks with them."""
        model, layer = module.model, find_feature_layer(module, self.feature_layer)
        if self._clear not in model._forward_pre_hooks.values():
            model.register_forward_pre_hook(self._clear)
        if self._calibrate not in model._forward_hooks.values():
            model.register_forward_hook(self._calibrate)
        if self._tap not in layer._forward_hooks.values():
            layer.register_forward_hook(self._tap)

    def _clear(self, model: nn.Module, inputs: Any) -> None:
        del model, inputs
        self._tap.clear()

    def _calibrate(self, model: nn.Module, inputs: Any, output: Any) -> InferenceBatch | None:
        """Replace the output of the model in eval mode."""
        del inputs
        if model.training or self.calibration is None:
            self._tap.clear()
            return None
        categories, self._categories = self._categories, None
        prediction = self.calibration(self._tap.take(output.anomaly_map.shape[0]), categories)
        self._last.unfamiliar = prediction.unfamiliar
        return calibrate(output, prediction, self._source_of_score)

    @property
    def _validation_counts(self) -> bool:
        return self.targets == "training"

    @property
    def _source_of_score(self) -> ImageScore:
        by_clusters = isinstance(self.calibration, LevelCalibration)
        return self.image_score or ("model" if by_clusters else "top")

    def forward(self, predictions: InferenceBatch) -> InferenceBatch | FlaggedBatch:  # type: ignore[override]
        """Normalise calibrated predictions, for inference and export.

        Args:
            predictions (InferenceBatch): Output of the model, calibrated in there.

        Returns:
            InferenceBatch: Normalised scores and labels; a :class:`FlaggedBatch` with ``report_out_of_range``.

        Raises:
            MissingCalibrationError: If the model has not been calibrated.
        """
        self._require_calibration()
        processed = super().forward(predictions)
        if not self.report_out_of_range:
            return processed
        return FlaggedBatch(*processed, out_of_range=cast("Tensor", self._last.unfamiliar))

    def _require_calibration(self) -> None:
        if self.calibration is None:
            msg = (
                "This model has a CadaPostProcessor that has not been calibrated. It is calibrated at the end of "
                "engine.fit; a checkpoint that was written earlier in a run is not. Fit the model, resume the run "
                "(engine.fit(..., ckpt_path=...)), or take the checkpoint of its end."
            )
            raise MissingCalibrationError(msg)

    # Life cycle

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hook into the model and, before training, hold images out.

        Args:
            trainer (Trainer): The trainer.
            pl_module (LightningModule): The model.
            stage (str): ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            CalibrationDataError: If there is no datamodule, or no validation images of their own.
            HeldOutError: If a category has a single normal image.
        """
        self._attach(cast("AnomalibModule", pl_module))
        # load_from_checkpoint of anomalib 2.7.0 builds a plain PostProcessor, whatever was saved. With these
        # hyper-parameters Lightning builds this one; its arguments come from checkpoint_config.
        pl_module.hparams["_instantiator"] = _INSTANTIATOR
        pl_module.hparams["post_processor"] = {"class_path": f"{type(self).__module__}.{type(self).__qualname__}"}
        if stage == "fit":
            self._prepare_targets(trainer)

    def _prepare_targets(self, trainer: Trainer) -> None:
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        if self.targets == "training":
            return
        if not isinstance(datamodule, AnomalibDataModule):
            msg = (
                f"targets={self.targets!r} needs a datamodule of anomalib. Give one to fit, or use targets='training'."
            )
            raise CalibrationDataError(msg)
        if self.targets == "held_out":
            self._hold_out(trainer)
        elif getattr(datamodule, "validates_on_test", datamodule.val_split_mode == ValSplitMode.SAME_AS_TEST):
            msg = (
                "targets='validation' with a validation set that is the test set: that would calibrate on test images. "
                "Set val_split_mode of the datamodule to 'from_train' or 'synthetic', or use targets='held_out'."
            )
            raise CalibrationDataError(msg)

    def _hold_out(self, trainer: Trainer) -> AnomalibDataset:
        return TrainingData.of(trainer).hold_out(trainer, self.held_out_fraction, self.seed)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the calibration of a resumed run: the model is going to change."""
        del trainer, pl_module
        self.calibration = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calibrate, validate again, and complete the checkpoints.

        Args:
            trainer (Trainer): The trainer.
            pl_module (LightningModule): The trained model.

        Raises:
            CalibrationDataError: If there are no normal images, or the model has no finite anomaly maps.
        """
        module = cast("AnomalibModule", pl_module)
        step = load_best_weights(trainer, module)
        runs = ModelRuns(trainer, module, self._tap)
        images = self._images(trainer)
        *_, unseen = images.values()  # the training images themselves if targets="training"
        data = runs.collect(images, keep_maps=self.options().needs_maps)
        self.calibration = self.fit(data).to(module.device)
        if isinstance(self.calibration, LevelCalibration):
            self._set_powers(self.calibration, runs, unseen, images["training"])
        logger.info("CADA calibrated with %d normal images (%s).", len(data), self.targets)
        validate_again(trainer)
        if self.threshold == "false_alarm_rate" and self.targets != "training":
            self._take_thresholds(runs, unseen, own_influence(self.calibration, data))
        rewritten = rewrite_checkpoints(trainer, module, step, self._complete)
        logger.info("CADA completed %s.", ", ".join(map(str, rewritten)) or "no checkpoint")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calibrate a model whose training was complete already, by a run that was stopped before it was calibrated.

        Lightning ends such a resumed run without a call of ``on_train_end``.

        Args:
            trainer (Trainer): The trainer.
            pl_module (LightningModule): The trained model.
        """
        if self.calibration is None:
            self.on_train_end(trainer, pl_module)

    def fit(self, data: CalibrationData) -> Calibration:
        """Fit a calibration with the options of this post-processor.

        Args:
            data (CalibrationData): What the model makes of normal images.

        Returns:
            Calibration: Fitted.
        """
        return fit_calibration(data, self.options())

    def options(self) -> CalibrationOptions:
        """What is fitted, and how.

        Returns:
            CalibrationOptions: From the arguments.
        """
        return CalibrationOptions(
            variant=self.variant,
            predictor=self.predictor,
            statistics=self.statistics,
            convolutions=self.convolutions,
            linear_layers=self.linear_layers,
            hidden_dim=self.hidden_dim,
            dropout=self.dropout,
            learning_rate=self.learning_rate,
            max_steps=self.max_steps,
            batch_size=self.batch_size,
            seed=self.seed,
        )

    def _complete(self, checkpoint: dict[str, Any]) -> None:
        """Put the calibration into a checkpoint that was written before there was one."""
        checkpoint["anomalib_post_processor_config"] = self.checkpoint_config()
        if self.state_key in checkpoint.get("callbacks", {}):
            checkpoint["callbacks"][self.state_key] = self.state_dict()

    def _images(self, trainer: Trainer) -> dict[str, AnomalibDataset]:
        """Training images and unseen ones, as they are evaluated."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        example = getattr(datamodule, "val_data", None) or getattr(datamodule, "test_data", None)
        images = {"training": evaluated_like(TrainingData.of(trainer).images(trainer), example)}
        if self.targets == "held_out":
            images["held-out"] = evaluated_like(self._hold_out(trainer), example)
        elif self.targets == "validation":
            images["validation"] = normal_images(datamodule.val_data)
        if not self.options().by_clusters:
            return images
        return {name: at_most(_MOST_IMAGES, dataset, self.seed) for name, dataset in images.items()}

    def _set_powers(
        self, calibration: LevelCalibration, runs: ModelRuns, normal: AnomalibDataset, source: AnomalibDataset
    ) -> None:
        """Say how far maps and image scores are calibrated."""
        power = self.map_power
        if power is None and len(calibration.clusters) > 1:
            examples = runs.examples(normal, source, calibration.clusters, self.seed)
            power = choose_map_power(examples, calibration.map_levels.cpu(), calibration.map_logarithm)
        calibration.map_power.fill_(0.0 if power is None else power)
        calibration.score_power.fill_(self.score_power)

    def _take_thresholds(self, runs: ModelRuns, unseen: AnomalibDataset, influence: Tensor) -> None:
        """Take thresholds from normal images that neither the model nor, as far as one can, the calibration knows."""
        calibration = cast("Calibration", self.calibration)
        scores = FalseAlarmThreshold(["pred_score", "gt_label"], false_alarm_rate=self.false_alarm_rate)
        pixels = FalseAlarmThreshold(["anomaly_map", "gt_label"], false_alarm_rate=self.false_alarm_rate)
        first = 0
        for batch, (features, output) in runs.outputs(unseen, "thresholds"):
            categories = getattr(batch, "category", None)
            calibrated = calibrate(output, calibration(features, categories), self._source_of_score)
            score = cast("Tensor", calibrated.pred_score).flatten().cpu()
            rows = slice(first, first + len(score))
            first += len(score)
            if isinstance(calibration, LevelCalibration) and self._source_of_score == "model":
                score = calibration.raised(score, influence[rows])
            self.widen_range(calibrated)
            normal = ImageBatch(
                image=batch.image,
                gt_label=torch.zeros(len(score), dtype=torch.bool),
                pred_score=score,
                anomaly_map=calibrated.anomaly_map,
            )
            for metric in (scores, pixels):
                metric.update(normal)
        self._image_threshold.copy_(scores.compute())
        self._pixel_threshold.copy_(pixels.compute())

    # Batches

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *args: Any) -> None:
        """Note the categories of a batch, for CaDA-A."""
        del trainer, pl_module, args
        self._categories = getattr(batch, "category", None)

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *args: Any) -> None:
        """Note the categories of a batch, for CaDA-A."""
        self.on_validation_batch_start(trainer, pl_module, batch, *args)

    def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *args: Any) -> None:
        """Note the categories of a batch, for CaDA-A."""
        self.on_validation_batch_start(trainer, pl_module, batch, *args)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to test without calibration.

        Raises:
            MissingCalibrationError: If the model has not been calibrated.
        """
        self._require_calibration()
        super().on_test_start(trainer, pl_module)
        self.unfamiliar = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to predict without calibration.

        Raises:
            MissingCalibrationError: If the model has not been calibrated.
        """
        self.on_test_start(trainer, pl_module)

    def post_process_batch(self, batch: Batch) -> None:
        """Normalise a batch, and note the images that are unlike all training images.

        Args:
            batch (Batch): With predictions.
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
            logger.warning(
                "%d images are unlike all images that CADA was calibrated with, their scores may be off: %s%s",
                len(self.unfamiliar),
                ", ".join(self.unfamiliar[:3]),
                ", ..." if len(self.unfamiliar) > 3 else "",
            )

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn about images that are unlike all training images."""
        self.on_test_end(trainer, pl_module)
