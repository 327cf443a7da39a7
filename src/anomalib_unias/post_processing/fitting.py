"""Fits a calibration to normal images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import exp
from typing import Any, Literal, cast, get_args

import torch
from anomalib.data import InferenceBatch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.nn import functional

from .calibration import Calibration, NormalScores, ScoreSource
from .calibration_data import CalibrationData, CalibrationDataError
from .clusters import ImageClusters
from .levels import ClusterStatistics, LevelCalibration
from .published import ClassifierCalibration, RegressorCalibration, Statistics, StatisticsCalibration, TableCalibration
from .regression import category_table, smooth_l1, train_head
from .selection import POWERS

# Smallest score, as a share of the largest: the products of one model do not differ this much.
_SMALLEST_SHARE = 1e-3

Variant = Literal["cada", "cada_b", "cada_a"]
Predictor = Literal["clusters", "regressor"]
Targets = Literal["training", "held_out", "leave_one_out", "validation"]

_CLASSES: dict[str, type[Calibration]] = {
    kind.__name__: kind for kind in (ClassifierCalibration, LevelCalibration, RegressorCalibration, TableCalibration)
}


@dataclass(frozen=True)
class CalibrationOptions:
    """How a calibration is fitted, see :class:`~anomalib_unias.CadaPostProcessor`."""

    variant: Variant
    predictor: Predictor
    map_power: float | None
    score_power: float
    statistics: Statistics
    targets: Targets | None
    held_out_fraction: float
    image_score: ScoreSource | None
    convolutions: int
    linear_layers: int
    hidden_dim: int
    dropout: float
    learning_rate: float
    max_steps: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        choices = {
            "variant": get_args(Variant),
            "predictor": get_args(Predictor),
            "statistics": get_args(Statistics),
            "targets": (None, *get_args(Targets)),
            "image_score": (None, *get_args(ScoreSource)),
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

    def head(self, channels: int) -> dict[str, Any]:
        """Get the arguments of the paper's network for feature maps with ``channels`` channels, except ``outputs``."""
        names = ("convolutions", "linear_layers", "hidden_dim", "dropout")
        return {"channels": channels} | {name: getattr(self, name) for name in names}

    @property
    def needs_maps(self) -> bool:
        """Whether feature maps are needed, and not only their means."""
        return self.variant == "cada_b" or (self.variant == "cada" and self.predictor == "regressor")

    @property
    def by_clusters(self) -> bool:
        """Whether the default calibration is fitted, for which a sample of the images is enough."""
        return self.variant == "cada" and self.predictor == "clusters"


OPTIONS = tuple(field.name for field in fields(CalibrationOptions))
"""Names of the options, which are also arguments of :class:`~anomalib_unias.CadaPostProcessor`."""


def fit_calibration(data: CalibrationData, options: CalibrationOptions) -> Calibration:
    """Fit a calibration; the same data and options give the same calibration.

    Args:
        data (CalibrationData): Data of normal images.
        options (CalibrationOptions): Options of the calibration.

    Returns:
        Calibration: Fitted, in eval mode and without gradients.

    Raises:
        CalibrationDataError: If a variant needs categories or feature maps and there are none.
    """
    with isolate_rng(include_cuda=False), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(options.seed)
        clusters = ImageClusters.fit(data.descriptors, data.trusted)
        if options.by_clusters:
            calibration: Calibration = _fit_levels(clusters, data)
        else:
            calibration = _fit_published(clusters, data, options)
    return calibration.eval().requires_grad_(False)


def specification(calibration: Calibration) -> dict[str, Any]:
    """Describe a calibration as plain data, without its parameters.

    Args:
        calibration (Calibration): A fitted calibration.

    Returns:
        dict[str, Any]: Plain data for :func:`empty_calibration`.
    """
    return {
        "kind": type(calibration).__name__,
        "clusters": calibration.clusters.arguments,
        "arguments": calibration.arguments,
    }


def empty_calibration(description: Mapping[str, Any]) -> Calibration:
    """Build the calibration that :func:`specification` describes, to be filled from a state dict.

    Args:
        description (Mapping[str, Any]): Plain data.

    Returns:
        Calibration: Not fitted, in eval mode and without gradients.
    """
    clusters = ImageClusters(**description["clusters"])
    build = cast("Callable[..., Calibration]", _CLASSES[description["kind"]])
    return build(clusters, **description["arguments"]).eval().requires_grad_(False)


def without_own_influence(calibration: LevelCalibration, data: CalibrationData) -> tuple[Tensor, Tensor]:
    """Compute how the calibration transforms the score of each of its images if it is fitted to the others.

    Calibrated by their own influence, these images would look more normal than new ones.

    Args:
        calibration (LevelCalibration): A calibration that was fitted to the data.
        data (CalibrationData): Data of normal images.

    Returns:
        tuple[Tensor, Tensor]: Offset and scale of the image score of each trusted image, ``(N,)`` each.
    """
    device = calibration.clusters.centers.device
    values, _ = _in_logarithms(data.scores)
    cluster = calibration.clusters.assign(data.descriptors.to(device)).cluster.cpu()
    statistics = ClusterStatistics.fit(values, cluster, len(calibration.clusters), data.trusted)
    levels, spreads = statistics.without_each(values[data.trusted], cluster[data.trusted])
    return calibration.of_scores(levels.to(device), spreads.to(device))


def calibrated_by_others(calibration: LevelCalibration, data: CalibrationData) -> tuple[InferenceBatch, NormalScores]:
    """Get the trusted images of a calibration, with image scores calibrated by the other images only.

    Args:
        calibration (LevelCalibration): A calibration that was fitted to the data.
        data (CalibrationData): Data of normal images, with pixels.

    Returns:
        tuple[InferenceBatch, NormalScores]: Scores ``(N,)``, pixels in place of the maps ``(N, 1, 1, P)``, and how they
        are calibrated.
    """
    device = calibration.clusters.centers.device
    output = InferenceBatch(
        pred_score=data.scores[data.trusted].to(device),
        anomaly_map=cast("Tensor", data.pixels)[data.trusted][:, None, None].to(device),
    )
    prediction = calibration.of_clusters(calibration.clusters.assign(data.descriptors[data.trusted].to(device)))
    offset, scale = without_own_influence(calibration, data)
    return output, prediction._replace(score_offset=offset, score_scale=scale)


def _fit_levels(clusters: ImageClusters, data: CalibrationData) -> LevelCalibration:
    peaks, map_logarithm = _in_logarithms(data.statistics[:, 1], data.statistics[:, 3])
    scores, score_logarithm = _in_logarithms(data.scores)
    calibration = LevelCalibration(clusters, map_logarithm, score_logarithm)
    cluster = clusters.assign(data.descriptors).cluster
    nearest = clusters.nearest_among(cluster[data.trusted].unique())
    of_maps, of_scores = (
        ClusterStatistics.fit(values, cluster, len(clusters), data.trusted) for values in (peaks, scores)
    )
    calibration.map_levels.copy_(of_maps.levels()[nearest])
    calibration.score_levels.copy_(of_scores.levels()[nearest])
    calibration.score_spreads.copy_(of_scores.spreads()[nearest])
    calibration.score_center.fill_(exp(of_scores.common) if score_logarithm else of_scores.common)
    return calibration


def _in_logarithms(values: Tensor, lowest: Tensor | None = None) -> tuple[Tensor, bool]:
    """Return logarithms of scores ``(N,)`` and ``True``; if scores can be negative, the scores and ``False``.

    Scores are clamped at a thousandth of the largest one: a map that is 0 has no scale of its own.
    """
    smallest = float((values if lowest is None else lowest).min())
    if smallest < 0:
        return values, False
    largest = float(values.max())
    return (values.clamp(min=_SMALLEST_SHARE * largest).log() if largest > 0 else torch.zeros_like(values)), True


def _fit_published(clusters: ImageClusters, data: CalibrationData, options: CalibrationOptions) -> Calibration:
    mean, maximum, deviation, _ = data.statistics.unbind(dim=1)
    height = maximum - mean if options.statistics == "max" else 3 * deviation
    targets = torch.stack([mean, height], dim=1)
    if options.variant == "cada_a":
        calibration: StatisticsCalibration = _fit_table(clusters, data, targets)
    elif options.variant == "cada_b":
        calibration = _fit_classifier(clusters, data, targets, options)
    else:
        calibration = _fit_regressor(clusters, data, targets, options)
    calibration.set_range(targets[data.trusted])
    return calibration


def _fit_table(clusters: ImageClusters, data: CalibrationData, targets: Tensor) -> TableCalibration:
    names, table = category_table(targets, _categories(data), data.trusted)
    calibration = TableCalibration(clusters, names)
    calibration.table.copy_(table)
    return calibration


def _fit_classifier(
    clusters: ImageClusters,
    data: CalibrationData,
    targets: Tensor,
    options: CalibrationOptions,
) -> ClassifierCalibration:
    categories = _categories(data)
    names, table = category_table(targets, categories, data.trusted)
    maps = _maps(data)
    calibration = ClassifierCalibration(clusters, names, options.head(maps.shape[1]))
    calibration.table.copy_(table)
    calibration.normalization.fit(maps)
    labels = torch.tensor([names.index(category) for category in categories])
    _train(calibration, maps, lambda logits, rows: functional.cross_entropy(logits, labels[rows]), options)
    return calibration


def _fit_regressor(
    clusters: ImageClusters,
    data: CalibrationData,
    targets: Tensor,
    options: CalibrationOptions,
) -> RegressorCalibration:
    maps, targets = _maps(data)[data.trusted], targets[data.trusted]
    calibration = RegressorCalibration(clusters, options.head(maps.shape[1]))
    calibration.normalization.fit(maps)
    calibration.center.copy_(targets.mean(dim=0))
    calibration.spread.copy_(targets.std(dim=0, correction=0).clamp(min=torch.finfo(torch.float32).tiny))
    normalised = (targets - calibration.center) / calibration.spread
    _train(calibration, maps, lambda values, rows: smooth_l1(values, normalised[rows]), options)
    return calibration


def _train(
    calibration: ClassifierCalibration | RegressorCalibration,
    maps: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    options: CalibrationOptions,
) -> None:
    train_head(
        calibration.head,
        maps,
        calibration.normalization,
        loss,
        learning_rate=options.learning_rate,
        max_steps=options.max_steps,
        batch_size=options.batch_size,
    )


def _categories(data: CalibrationData) -> list[str]:
    if data.categories is None:
        msg = (
            "CaDA-A and CaDA-B need the category of every training image, and the batches have no field 'category'. "
            "Train on a UnifiedDataModule or CombinedDataModule, or use variant='cada', which needs none."
        )
        raise CalibrationDataError(msg)
    return data.categories


def _maps(data: CalibrationData) -> Tensor:
    if data.maps is None:
        msg = "This calibration is fitted to feature maps: collect them with keep_maps=True."
        raise CalibrationDataError(msg)
    return data.maps
