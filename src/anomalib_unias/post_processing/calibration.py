"""Base of the calibrations: they predict from the features of an image how to shift and scale its scores.

All calibrations compute a :class:`NormalScores` from the feature maps of an encoder. Their ``arguments`` are plain
data: they build an empty calibration that is then filled from a state dict.
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
# An image is unfamiliar if it is this many times as far from its cluster as unseen normal images are on average.
_UNFAMILIAR = 2.0


class MissingCalibrationError(RuntimeError):
    """A model with a CadaPostProcessor is used before it has been calibrated."""

    def __init__(self) -> None:
        super().__init__(
            "This model has a CadaPostProcessor that has not been calibrated. It is calibrated at the end of "
            "engine.fit; a checkpoint that was written earlier in a run is not. Fit the model, resume the run "
            "(engine.fit(..., ckpt_path=...)), or take the checkpoint of its end."
        )


class NormalScores(NamedTuple):
    """Offsets and scales that calibrate the scores of images: ``(score - offset) / scale``.

    Attributes:
        map_offset: Offset of the anomaly map, ``(B,)``.
        map_scale: Scale of the anomaly map, ``(B,)``, positive.
        score_offset: Offset of the model's image score, ``(B,)``.
        score_scale: Scale of the model's image score, ``(B,)``, positive.
        unfamiliar: Whether the image is unlike all training images, ``(B,)`` bool.
    """

    map_offset: Tensor
    map_scale: Tensor
    score_offset: Tensor
    score_scale: Tensor
    unfamiliar: Tensor


class FlaggedBatch(NamedTuple):
    """Predictions as in anomalib's ``InferenceBatch``, and a flag for images that are unlike all training images.

    Attributes:
        pred_score: ``(B,)``, in (0, 1).
        pred_label: ``(B,)`` bool.
        anomaly_map: ``(B, 1, H, W)``, in (0, 1).
        pred_mask: ``(B, 1, H, W)`` bool.
        out_of_range: Whether the image is unlike all training images, ``(B,)`` bool.
    """

    pred_score: Tensor | None
    pred_label: Tensor | None
    anomaly_map: Tensor | None
    pred_mask: Tensor | None
    out_of_range: Tensor


def calibrate(output: InferenceBatch, prediction: NormalScores, image_score: ScoreSource) -> InferenceBatch:
    """Shift and scale anomaly maps and image scores.

    Args:
        output (InferenceBatch): Maps ``(B, 1, H, W)`` or ``(B, H, W)``, and scores.
        prediction (NormalScores): Offsets and scales of each image.
        image_score (ScoreSource): Source of the image score: the mean of the ``"top"`` 1 % of the calibrated map, its
            ``"max"``, or the score of the ``"model"``, by default the maximum of its map.

    Returns:
        InferenceBatch: Calibrated maps, and scores ``(B,)`` (in the shape of the model's scores if they come from it).
    """
    anomaly_map = _transform(cast("Tensor", output.anomaly_map), prediction.map_offset, prediction.map_scale)
    pixels = anomaly_map.flatten(1)
    if image_score == "model":
        own = image_scores(output) if output.pred_score is None else output.pred_score
        score = _transform(own, prediction.score_offset, prediction.score_scale)
    elif image_score == "top":
        # The size of a map does not depend on the batch, so the number of pixels is a constant of an exported graph.
        score = pixels.topk(max(1, int(pixels.shape[1]) // _SHARE_OF_TOP), dim=1, sorted=False).values.mean(dim=1)
    else:
        score = pixels.amax(dim=1)
    return output._replace(anomaly_map=anomaly_map, pred_score=score)


def image_scores(output: InferenceBatch) -> Tensor:
    """Get image scores ``(B,)``, float32: those of the model, or else the maxima of its maps."""
    if output.pred_score is not None:
        return output.pred_score.flatten().float()
    return cast("Tensor", output.anomaly_map).flatten(1).float().amax(dim=1)


def _transform(scores: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
    shape = (-1, *[1] * (scores.ndim - 1))
    return (scores - offset.view(shape)) / scale.clamp(min=torch.finfo(torch.float32).tiny).view(shape)


class Calibration(nn.Module):
    """Base of the calibrations.

    Args:
        clusters (ImageClusters): Clusters of the training images.
    """

    def __init__(self, clusters: ImageClusters) -> None:
        super().__init__()
        self.clusters = clusters

    @property
    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor except ``clusters``, as plain data."""

    @abstractmethod
    def forward(self, maps: Sequence[Tensor], categories: Sequence[str] | None = None) -> NormalScores:
        """Predict offsets and scales of the scores.

        Args:
            maps (Sequence[Tensor]): Features ``(B, C_l, H_l, W_l)``, shallow to deep.
            categories (Sequence[str] | None): Category of each image, used by CaDA-A only. Defaults to ``None``.

        Returns:
            NormalScores: Offsets and scales in units of the model's scores.
        """

    @staticmethod
    def unfamiliar(distance: Tensor) -> Tensor:
        """Tell which images are unlike all training images, by their distance to the nearest cluster ``(B,)``."""
        return distance > _UNFAMILIAR
