"""Fits a calibration to the statistics of normal images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.nn import functional

from .calibration import (
    Calibration,
    ClassifierCalibration,
    RegressorCalibration,
    Statistics,
    TableCalibration,
)
from .calibration_data import CalibrationData, CalibrationDataError
from .feature_memory import FeatureMemory
from .neighbors import NeighborCalibration
from .regression import category_table, smooth_l1, train_head

Variant = Literal["cada", "cada_b", "cada_a"]
Predictor = Literal["neighbors", "regressor"]

_CLASSES: dict[str, type[Calibration]] = {
    kind.__name__: kind for kind in (ClassifierCalibration, NeighborCalibration, RegressorCalibration, TableCalibration)
}


@dataclass(frozen=True)
class CalibrationOptions:
    """How a calibration is fitted, see :class:`~anomalib_unias.CadaPostProcessor`."""

    variant: Variant
    predictor: Predictor
    statistics: Statistics
    convolutions: int
    linear_layers: int
    hidden_dim: int
    dropout: float
    learning_rate: float
    max_steps: int
    batch_size: int
    seed: int

    @property
    def needs_maps(self) -> bool:
        """Whether feature maps are needed, not only their means."""
        return self.variant == "cada_b" or (self.variant == "cada" and self.predictor == "regressor")


def fit_calibration(data: CalibrationData, options: CalibrationOptions) -> Calibration:
    """Fit a calibration; the same data and options give the same calibration.

    Args:
        data (CalibrationData): Normal images.
        options (CalibrationOptions): What to fit.

    Returns:
        Calibration: In eval mode and without gradients.

    Raises:
        CalibrationDataError: If a variant needs categories and there are none.
    """
    with isolate_rng(include_cuda=False), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(options.seed)
        mean, maximum, deviation = data.statistics.unbind(dim=1)
        height = maximum - mean if options.statistics == "max" else 3 * deviation
        targets = torch.stack([mean, height], dim=1)
        memory = FeatureMemory.fit(data.descriptors)
        if options.variant == "cada_a":
            calibration: Calibration = _fit_table(memory, data, targets)
        elif options.variant == "cada_b":
            calibration = _fit_classifier(memory, data, targets, options)
        elif options.predictor == "regressor":
            calibration = _fit_regressor(memory, data, targets, options)
        else:
            calibration = NeighborCalibration.fit(memory, targets, data.trusted)
        calibration.set_range(targets[data.trusted])
    return calibration.eval().requires_grad_(False)


def specification(calibration: Calibration) -> dict[str, Any]:
    """Describe a calibration by plain data, without its numbers.

    Args:
        calibration (Calibration): Fitted.

    Returns:
        dict[str, Any]: For :func:`empty_calibration`.
    """
    return {
        "kind": type(calibration).__name__,
        "memory": calibration.memory.arguments,
        "arguments": calibration.arguments,
    }


def empty_calibration(description: Mapping[str, Any]) -> Calibration:
    """Build what :func:`specification` describes, to be filled from a state dict.

    Args:
        description (Mapping[str, Any]): Plain data.

    Returns:
        Calibration: In eval mode and without gradients.
    """
    memory = FeatureMemory(**description["memory"])
    build = cast("Callable[..., Calibration]", _CLASSES[description["kind"]])
    return build(memory, **description["arguments"]).eval().requires_grad_(False)


def _fit_table(memory: FeatureMemory, data: CalibrationData, targets: Tensor) -> TableCalibration:
    names, table = category_table(targets, _categories(data), data.trusted)
    calibration = TableCalibration(memory, names)
    calibration.table.copy_(table)
    return calibration


def _fit_classifier(
    memory: FeatureMemory,
    data: CalibrationData,
    targets: Tensor,
    options: CalibrationOptions,
) -> ClassifierCalibration:
    categories = _categories(data)
    names, table = category_table(targets, categories, data.trusted)
    maps = _maps(data)
    calibration = ClassifierCalibration(
        memory,
        names,
        maps.shape[1],
        options.convolutions,
        options.linear_layers,
        options.hidden_dim,
        options.dropout,
    )
    calibration.table.copy_(table)
    calibration.normalization.fit(maps)
    labels = torch.tensor([names.index(category) for category in categories])
    _train(calibration, maps, lambda logits, rows: functional.cross_entropy(logits, labels[rows]), options)
    return calibration


def _fit_regressor(
    memory: FeatureMemory,
    data: CalibrationData,
    targets: Tensor,
    options: CalibrationOptions,
) -> RegressorCalibration:
    maps, targets = _maps(data)[data.trusted], targets[data.trusted]
    calibration = RegressorCalibration(
        memory, maps.shape[1], options.convolutions, options.linear_layers, options.hidden_dim, options.dropout
    )
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
