"""What a calibration is: it predicts, from the features of an image, how its scores have to be shifted and stretched.

All calibrations turn the feature maps of an encoder into a :class:`NormalScores`. Their ``arguments`` are plain data
from which an empty one can be built again, to be filled from a state dict.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn

from .clusters import ImageClusters

ScoreSource = Literal["top", "max", "model"]

_SHARE_OF_TOP = 100
# Images that are this many times as far from their kind as its unseen images are on average belong to none.
_UNFAMILIAR = 2.0


class MissingCalibrationError(RuntimeError):
    """A model with CADA is used before it has been calibrated."""

    def __init__(self) -> None:
        super().__init__(
            "This model has a CadaPostProcessor that has not been calibrated. It is calibrated at the end of "
            "engine.fit; a checkpoint that was written earlier in a run is not. Fit the model, resume the run "
            "(engine.fit(..., ckpt_path=...)), or take the checkpoint of its end."
        )


class NormalScores(NamedTuple):
    """How the scores of images are calibrated: ``(score - offset) / scale``.

    Attributes:
        map_offset: Of the anomaly map, ``(B,)``.
        map_scale: Of the anomaly map, ``(B,)``, positive.
        score_offset: Of the model's image score, ``(B,)``.
        score_scale: Of the model's image score, ``(B,)``, positive.
        unfamiliar: Whether the image is of another kind than all training images, ``(B,)`` bool.
    """

    map_offset: Tensor
    map_scale: Tensor
    score_offset: Tensor
    score_scale: Tensor
    unfamiliar: Tensor


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


def calibrate(output: InferenceBatch, prediction: NormalScores, image_score: ScoreSource) -> InferenceBatch:
    """Shift and stretch anomaly maps and image scores.

    Args:
        output (InferenceBatch): Maps ``(B, 1, H, W)`` or ``(B, H, W)``, and scores.
        prediction (NormalScores): For each image.
        image_score (ScoreSource): Where the image score comes from.

    Returns:
        InferenceBatch: Calibrated maps, and scores ``(B,)`` (of the model's shape if they are the model's).
    """
    anomaly_map = _transform(cast("Tensor", output.anomaly_map), prediction.map_offset, prediction.map_scale)
    pixels = anomaly_map.flatten(1)
    if image_score == "model" and output.pred_score is not None:
        score = _transform(output.pred_score, prediction.score_offset, prediction.score_scale)
    elif image_score == "top":
        # The size of a map does not depend on the batch, so the number of pixels is a constant of an exported graph.
        score = pixels.topk(max(1, int(pixels.shape[1]) // _SHARE_OF_TOP), dim=1, sorted=False).values.mean(dim=1)
    else:
        score = pixels.amax(dim=1)
    return output._replace(anomaly_map=anomaly_map, pred_score=score)


def _transform(scores: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
    shape = (-1, *[1] * (scores.ndim - 1))
    return (scores - offset.view(shape)) / scale.clamp(min=torch.finfo(torch.float32).tiny).view(shape)


class Calibration(nn.Module):
    """Base of the calibrations.

    Args:
        clusters (ImageClusters): Kinds of the training images.
    """

    def __init__(self, clusters: ImageClusters) -> None:
        super().__init__()
        self.clusters = clusters

    @property
    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor besides ``clusters``, plain data."""

    @abstractmethod
    def forward(self, maps: Sequence[Tensor], categories: Sequence[str] | None = None) -> NormalScores:
        """Predict.

        Args:
            maps (Sequence[Tensor]): Features ``(B, C_l, H_l, W_l)``, shallow to deep.
            categories (Sequence[str] | None): Category of each image, used by CaDA-A only. Defaults to ``None``.

        Returns:
            NormalScores: In units of the model.
        """

    @staticmethod
    def unfamiliar(distance: Tensor) -> Tensor:
        """Which images are of another kind, by their distance to the nearest cluster ``(B,)``."""
        return distance > _UNFAMILIAR
