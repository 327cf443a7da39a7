"""A post-processor whose normalised scores keep the order of the raw ones."""

import logging
from typing import Any, Literal

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.metrics import AnomalibMetric
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import Self

from anomalib_unias.compat.scores import has_threshold, set_threshold_metrics
from anomalib_unias.metrics.thresholds import F1Threshold, FalseAlarmThreshold

logger = logging.getLogger(__name__)

# Share of the interval from the threshold to 0 or 1 that the range of the validation scores covers.
_VALIDATED_SHARE = 0.9


class OrderPreservingPostProcessor(PostProcessor):
    """Post-processor whose normalisation never makes two different scores equal.

    anomalib 2.7.0 clamps scores: all above ``threshold + (max - min) / 2`` become exactly 1, so that strong and very
    strong defects look the same. Here a normalised score is linear from the lowest score of the validation set (0.05)
    to the threshold (0.5) and from there to the highest score of the validation set (0.95). Beyond these two it
    approaches 0 and 1 ever more slowly, without a kink, and reaches neither.

    Thresholds are computed in bounded memory (anomalib's keep every validation pixel), for the best F1 score or, from
    normal images only, for a false-alarm rate. Sensitivities, threshold matching and export are anomalib's.

    Args:
        enable_normalization (bool): Whether to normalise scores. Defaults to ``True``.
        enable_thresholding (bool): Whether to predict labels and masks. Defaults to ``True``.
        enable_threshold_matching (bool): Use the image threshold for pixels if there is no pixel threshold, and vice
            versa. Defaults to ``True``.
        image_sensitivity (float): Sensitivity of image labels in ``[0, 1]``: an image is defective if its normalised
            score exceeds ``1 - image_sensitivity``. Defaults to ``0.5``, the threshold itself.
        pixel_sensitivity (float): The same for pixels. Defaults to ``0.5``.
        threshold (Literal["f1", "false_alarm_rate"]): ``f1`` takes the best F1 score on the validation set, which
            needs defective images; ``false_alarm_rate`` uses normal images only. Defaults to ``"f1"``.
        false_alarm_rate (float): Share of the normal images that may exceed the image threshold, used if ``threshold``
            is ``"false_alarm_rate"``. Defaults to ``0.01``.
        pixel_false_alarm_rate (float): Share of the pixels of normal images that may exceed the pixel threshold, used
            in the same case. Defaults to ``0.01``.

    Raises:
        ValueError: If ``threshold`` is neither of the two, or a false-alarm rate is not in ``[0, 1)``.

    Example:
        >>> from anomalib.models import Padim
        >>> model = Padim(pre_trained=False, post_processor=OrderPreservingPostProcessor())
    """

    def __init__(
        self,
        enable_normalization: bool = True,
        enable_thresholding: bool = True,
        enable_threshold_matching: bool = True,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
        threshold: Literal["f1", "false_alarm_rate"] = "f1",
        false_alarm_rate: float = 0.01,
        pixel_false_alarm_rate: float = 0.01,
    ) -> None:
        super().__init__(
            enable_normalization=enable_normalization,
            enable_thresholding=enable_thresholding,
            enable_threshold_matching=enable_threshold_matching,
            image_sensitivity=image_sensitivity,
            pixel_sensitivity=pixel_sensitivity,
        )
        self.threshold = threshold
        self.false_alarm_rate = false_alarm_rate
        self.pixel_false_alarm_rate = pixel_false_alarm_rate
        self._set_threshold_metrics()
        self._known_thresholds = (False, False)

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "threshold", "false_alarm_rate", "pixel_false_alarm_rate")

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the configuration that ``checkpoint_config`` returned.

        Args:
            config (dict[str, Any]): Plain-data configuration.
        """
        super().load_checkpoint_config(config)
        self._set_threshold_metrics()

    def _set_threshold_metrics(self) -> None:
        image = self._threshold_metric("pred_score", "gt_label", self.false_alarm_rate)
        pixel = self._threshold_metric("anomaly_map", "gt_mask", self.pixel_false_alarm_rate)
        set_threshold_metrics(self, image, pixel)

    @property
    def _validation_counts(self) -> bool:
        """Whether the thresholds computed in validation are the final ones."""
        return True

    def _threshold_metric(self, scores: str, labels: str, false_alarm_rate: float) -> AnomalibMetric:
        if self.threshold == "f1":
            return F1Threshold(fields=[scores, labels], strict=False)
        if self.threshold == "false_alarm_rate":
            return FalseAlarmThreshold(
                fields=[scores, "gt_label"],
                strict=False,
                false_alarm_rate=false_alarm_rate,
                warn=self._validation_counts,
            )
        msg = f"threshold is 'f1' or 'false_alarm_rate', got {self.threshold!r}."
        raise ValueError(msg)

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Normalise predictions, and predict labels and masks if there are thresholds.

        Args:
            predictions (InferenceBatch): Output of the model.

        Returns:
            InferenceBatch: Without labels if there is no image threshold, without masks if there is no pixel threshold.
        """
        return self._without_undefined_labels(super().forward(predictions))

    def threshold_batch(self, batch: Batch) -> None:
        """Predict labels and masks if there are thresholds.

        Args:
            batch (Batch): Batch with normalised scores.
        """
        previous = batch.pred_label, batch.pred_mask
        super().threshold_batch(batch)
        image, pixel = self._has_thresholds()
        if not image:
            batch.pred_label = previous[0]
        if not pixel:
            batch.pred_mask = previous[1]

    def _without_undefined_labels(self, batch: InferenceBatch) -> InferenceBatch:
        image, pixel = self._has_thresholds()
        return batch._replace(
            pred_label=batch.pred_label if image else None, pred_mask=batch.pred_mask if pixel else None
        )

    def _has_thresholds(self) -> tuple[bool, bool]:
        """Whether there is an image and a pixel threshold; fixed while a graph is compiled or exported."""
        if torch.compiler.is_compiling():
            return self._known_thresholds
        return has_threshold(self, "image_threshold"), has_threshold(self, "pixel_threshold")

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a graph that is exported after ``eval()`` has labels and masks if there are thresholds.

        Args:
            mode (bool): Defaults to ``True``.

        Returns:
            Self: The post-processor.
        """
        self._known_thresholds = self._has_thresholds()
        return super().train(mode)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if there is no threshold.

        Args:
            trainer (Trainer): The trainer.
            pl_module (LightningModule): The model.
        """
        del trainer, pl_module
        if self.enable_thresholding and not self._has_thresholds()[0]:
            logger.warning(
                "There is no threshold, since the model was not validated: no image is called good or defective. "
                "Train with a validation set (val_split_mode), or with a CadaPostProcessor, which needs none."
            )

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if there is no threshold.

        Args:
            trainer (Trainer): The trainer.
            pl_module (LightningModule): The model.
        """
        self.on_test_start(trainer, pl_module)

    def widen_range(self, batch: Batch | InferenceBatch) -> None:
        """Extend the range of validation scores by the scores of a batch, or begin the range with them.

        Args:
            batch (Batch | InferenceBatch): Batch with image scores and anomaly maps.
        """
        for kind, scores in (("image", batch.pred_score), ("pixel", batch.anomaly_map)):
            if scores is None:
                continue
            low, high = getattr(self, f"{kind}_min"), getattr(self, f"{kind}_max")
            low.copy_(torch.fmin(low, scores.min().to(low)))
            high.copy_(torch.fmax(high, scores.max().to(high)))

    @staticmethod
    def _normalize(preds: Tensor | None, norm_min: Tensor, norm_max: Tensor, threshold: Tensor) -> Tensor | None:
        """Normalise scores by a strictly increasing function (up to the resolution of float32).

        Args:
            preds (Tensor | None): Scores of any shape.
            norm_min (Tensor): Lowest score of the validation set; NaN if there was none.
            norm_max (Tensor): Highest score of the validation set; NaN if there was none.
            threshold (Tensor): Threshold; NaN for the middle of the range.

        Returns:
            Tensor | None: Scores in ``(0, 1)``, 0.5 at the threshold; unchanged without a validation set.
        """
        if preds is None:
            return None
        threshold = torch.where(torch.isnan(threshold), (norm_max + norm_min) / 2, threshold)
        below, above = threshold - norm_min, norm_max - threshold
        # A side of the threshold without validation scores gets the width of the other side.
        one = torch.ones_like(threshold)
        width_below = torch.where(below > 0, below, torch.where(above > 0, above, one))
        width_above = torch.where(above > 0, above, torch.where(below > 0, below, one))

        offset = preds - threshold
        distance = offset.abs() / torch.where(offset > 0, width_above, width_below)
        slope = _VALIDATED_SHARE / (1 - _VALIDATED_SHARE)
        beyond = 1 - (1 - _VALIDATED_SHARE) / (1 + slope * torch.log(distance.clamp(min=1)))
        share = torch.where(distance <= 1, _VALIDATED_SHARE * distance, beyond)
        normalized = 0.5 + 0.5 * torch.sign(offset) * share
        has_range = ~torch.isnan(norm_min) & ~torch.isnan(norm_max)
        return torch.where(has_range, normalized, preds)
