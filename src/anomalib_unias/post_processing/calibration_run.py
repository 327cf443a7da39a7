"""Calibrates a model at the end of its training."""

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset, ImageBatch, InferenceBatch
from anomalib.data.utils import ValSplitMode
from anomalib.models.components import AnomalibModule
from lightning.pytorch import Trainer
from torch import Tensor

from anomalib_unias.callbacks import TrainingData
from anomalib_unias.compat.scores import set_thresholds
from anomalib_unias.compat.trainer import validate_again
from anomalib_unias.metrics.thresholds import FalseAlarmThreshold

from .calibration import Calibration, NormalScores, calibrate
from .calibration_data import CalibrationData, CalibrationDataError, at_most, evaluated_like, normal_images
from .checkpoint_files import load_best_weights, rewrite_checkpoints
from .fitting import calibrated_by_others
from .levels import LevelCalibration
from .model_runs import ModelRuns
from .selection import choose_map_power

if TYPE_CHECKING:
    from .cada import CadaPostProcessor

logger = logging.getLogger(__name__)

MOST_IMAGES = 4096
"""Maximum number of images of each data set; this many are enough for clusters and levels."""


class CalibrationRun:
    """The calibration of one model in one run.

    Args:
        post_processor (CadaPostProcessor): Post-processor that gets the calibration, thresholds and ranges.
        trainer (Trainer): Trainer of the run.
    """

    def __init__(self, post_processor: "CadaPostProcessor", trainer: Trainer) -> None:
        self._post_processor = post_processor
        self._trainer = trainer
        self._datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._module = cast("AnomalibModule", trainer.lightning_module)
        self._targets = post_processor.targets or ("leave_one_out" if can_leave_out(self._module) else "held_out")

    def prepare(self) -> None:
        """Hold images out before the training, or check that this is not necessary.

        Raises:
            CalibrationDataError: If the targets need a datamodule and there is none, if they need validation images
                and these are the test images, or if they need a model that can leave images out and several images.
            HeldOutError: If a category has a single normal image and some are to be held out.
        """
        targets, datamodule = self._targets, self._datamodule
        if targets == "training":
            return
        if targets == "leave_one_out":
            self._check_leave_one_out()
            return
        if not isinstance(datamodule, AnomalibDataModule):
            msg = f"targets={targets!r} needs a datamodule of anomalib. Give one to fit, or use targets='training'."
            raise CalibrationDataError(msg)
        if targets == "held_out":
            self._held_out()
        elif getattr(datamodule, "validates_on_test", datamodule.val_split_mode == ValSplitMode.SAME_AS_TEST):
            msg = (
                "targets='validation' with a validation set that is the test set: that would calibrate on test images. "
                "Set val_split_mode of the datamodule to 'from_train' or 'synthetic', or use targets='held_out'."
            )
            raise CalibrationDataError(msg)

    def check_resumed(self) -> None:
        """Check that a model that was restored from a checkpoint can leave images out, before it is trained on.

        Raises:
            ValueError: If it has been saved by a version that could not.
        """
        if self._targets == "leave_one_out":
            cast("Any", self._module.model).check_leave_out()

    def calibrate(self) -> None:
        """Calibrate, validate again, and complete the checkpoints.

        Raises:
            CalibrationDataError: If there are no normal images, or the model has no finite anomaly maps.
        """
        cada, trainer, module = self._post_processor, self._trainer, self._module
        options = cada.options()
        step = load_best_weights(trainer, module)
        runs = ModelRuns(trainer, module, cada.tap, leave_one_out=self._targets == "leave_one_out")
        images = self.images()
        *_, unseen = images.values()  # the training images themselves for "training" and "leave_one_out"
        takes_thresholds = cada.threshold == "false_alarm_rate" and self._targets != "training"
        data = runs.collect(images, keep_maps=options.needs_maps, keep_pixels=takes_thresholds and options.by_clusters)
        calibration = cada.calibration = cada.fit(data).to(module.device)
        if isinstance(calibration, LevelCalibration):
            self.set_powers(calibration, runs, unseen, images["training"])
        logger.info("CADA calibrated with %d normal images (%s).", len(data), self._targets)
        # After the last validation of the run itself: memory banks are filled at its start, and early stopping decides
        # after it.
        validate_again(trainer)
        if takes_thresholds:
            self._take_thresholds(self._normal(calibration, runs, unseen, data))
        rewritten = rewrite_checkpoints(trainer, module, step, self._complete)
        logger.info("CADA completed %s.", ", ".join(map(str, rewritten)) or "no checkpoint")

    def images(self) -> dict[str, AnomalibDataset]:
        """Get the images that a calibration is fitted to, with the transforms of the evaluation.

        Returns:
            dict[str, AnomalibDataset]: ``"training"``, and ``"held-out"`` or ``"validation"`` for other targets.
        """
        cada = self._post_processor
        example = getattr(self._datamodule, "val_data", None) or getattr(self._datamodule, "test_data", None)
        images = {"training": evaluated_like(TrainingData.of(self._trainer).images(self._trainer), example)}
        if self._targets == "held_out":
            images["held-out"] = evaluated_like(self._held_out(), example)
        elif self._targets == "validation":
            images["validation"] = normal_images(self._datamodule.val_data)
        if not cada.options().by_clusters:
            return images
        return {name: at_most(MOST_IMAGES, dataset, cada.seed) for name, dataset in images.items()}

    def set_powers(
        self, calibration: LevelCalibration, runs: ModelRuns, normal: AnomalibDataset, source: AnomalibDataset
    ) -> None:
        """Set how far maps and image scores are calibrated.

        Args:
            calibration (LevelCalibration): Changed in place.
            runs (ModelRuns): Runs the model.
            normal (AnomalibDataset): Unseen normal images.
            source (AnomalibDataset): Images that synthetic defects are drawn on.
        """
        power = self._post_processor.map_power
        if power is None and len(calibration.clusters) > 1:
            examples = runs.examples(normal, source, calibration.clusters, self._post_processor.seed)
            power = choose_map_power(examples, calibration.map_levels.cpu(), calibration.map_logarithm)
        calibration.map_power.fill_(0.0 if power is None else power)
        calibration.score_power.fill_(self._post_processor.score_power)

    def _check_leave_one_out(self) -> None:
        if not can_leave_out(self._module):
            msg = (
                f"targets='leave_one_out' needs a model that can score a training image as if it were new, which "
                f"{type(self._module).__name__} cannot. Use UniAS with prototypes, or targets='held_out'."
            )
            raise CalibrationDataError(msg)
        images = getattr(self._datamodule, "train_data", None)
        if images is not None and len(images) == 1:
            msg = (
                "targets='leave_one_out' compares each training image with the others, and there is only one. Add "
                "images, or use targets='training'."
            )
            raise CalibrationDataError(msg)

    def _held_out(self) -> AnomalibDataset:
        cada = self._post_processor
        return TrainingData.of(self._trainer).hold_out(self._trainer, cada.held_out_fraction, cada.seed)

    def _take_thresholds(self, normal: Iterable[tuple[InferenceBatch, NormalScores]]) -> None:
        """Compute thresholds from outputs for unseen normal images and their calibrations."""
        cada = self._post_processor
        scores = FalseAlarmThreshold(["pred_score", "gt_label"], false_alarm_rate=cada.false_alarm_rate)
        pixels = FalseAlarmThreshold(["anomaly_map", "gt_label"], false_alarm_rate=cada.pixel_false_alarm_rate)
        for output, prediction in normal:
            calibrated = calibrate(output, prediction, cada.source_of_score)
            score = cast("Tensor", calibrated.pred_score).flatten().cpu()
            cada.widen_range(calibrated)
            batch = ImageBatch(
                image=torch.zeros(len(score), 3, 1, 1),
                gt_label=torch.zeros(len(score), dtype=torch.bool),
                pred_score=score,
                anomaly_map=calibrated.anomaly_map,
            )
            for metric in (scores, pixels):
                metric.update(batch)
        set_thresholds(cada, scores.compute(), pixels.compute())

    def _normal(
        self, calibration: Calibration, runs: ModelRuns, unseen: AnomalibDataset, data: CalibrationData
    ) -> Iterator[tuple[InferenceBatch, NormalScores]]:
        """Get outputs for unseen normal images, and their calibrations."""
        if isinstance(calibration, LevelCalibration) and self._post_processor.source_of_score == "model":
            yield calibrated_by_others(calibration, data)
            return
        for batch, (features, output) in runs.outputs(unseen, "thresholds"):
            yield output, calibration(features, getattr(batch, "category", None))

    def _complete(self, checkpoint: dict[str, Any]) -> None:
        """Add the calibration to a checkpoint that was written before the calibration."""
        cada = self._post_processor
        checkpoint["anomalib_post_processor_config"] = cada.checkpoint_config()
        if cada.state_key in checkpoint.get("callbacks", {}):
            checkpoint["callbacks"][cada.state_key] = cada.state_dict()


def can_leave_out(module: AnomalibModule) -> bool:
    """Tell whether a model can score a training image as if it were new."""
    return getattr(module.model, "can_leave_out", False)
