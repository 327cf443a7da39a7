"""Settings of a run."""

import os
import platform
from collections.abc import Mapping
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

_PACKAGES = ("anomalib", "anomalib-unias", "lightning", "torch", "torchvision", "timm")
_LIMITS = (
    "max_epochs",
    "max_steps",
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
    "precision",
    "num_devices",
    "gradient_clip_val",
)
_THRESHOLDS = ("image_threshold", "pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max")
_SENSITIVITIES = ("image_sensitivity", "pixel_sensitivity")

Settings = dict[str, dict[str, Any]]


def run_settings(trainer: Trainer, model: LightningModule) -> Settings:
    """Collect the settings of a run by section, as strings, numbers, booleans, ``None``, lists and dictionaries.

    Args:
        trainer (Trainer): Trainer of the run.
        model (LightningModule): Model of the run.

    Returns:
        Settings: Sections ``model``, ``data``, ``trainer``, ``thresholds`` (on the scale of the raw scores) and
        ``versions``.
    """
    sections = {
        "model": {"class": _class_path(model), **model.hparams},
        "data": _data_settings(trainer),
        "trainer": _trainer_settings(trainer),
        "thresholds": _threshold_settings(getattr(model, "post_processor", None)),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}},
    }
    return {name: {str(key): _plain(value) for key, value in section.items()} for name, section in sections.items()}


def _data_settings(trainer: Trainer) -> dict[str, Any]:
    datamodule: Any = getattr(trainer, "datamodule", None)
    if datamodule is None:
        dataset = getattr(trainer.test_dataloaders, "dataset", None)
        return {"class": _class_path(dataset), "name": getattr(dataset, "name", None)}
    attributes = {name: value for name, value in vars(datamodule).items() if name not in vars(LightningDataModule())}
    public = {name: value for name, value in attributes.items() if not name.startswith("_") and _is_simple(value)}
    named = {name: getattr(datamodule, name, None) for name in ("name", "category", "categories")}
    return {"class": _class_path(datamodule), **named, **public}


def _trainer_settings(trainer: Trainer) -> dict[str, Any]:
    checkpoint = trainer.ckpt_path or getattr(trainer.checkpoint_callback, "best_model_path", None)
    return {
        "checkpoint": str(checkpoint) if checkpoint else None,
        "seed": os.environ.get("PL_GLOBAL_SEED"),
        "accelerator": type(trainer.accelerator).__name__,
        "results": str(trainer.default_root_dir),
        **{name: getattr(trainer, name, None) for name in _LIMITS},
    }


def _threshold_settings(post_processor: Any) -> dict[str, Any]:
    if post_processor is None:
        return {"post-processor": None}
    tensors = {name: getattr(post_processor, name, None) for name in _THRESHOLDS}
    values = {name: None if value is None else float(value) for name, value in tensors.items()}
    sensitivities = {name: getattr(post_processor, name, None) for name in _SENSITIVITIES}
    return {"post-processor": _class_path(post_processor), **values, **sensitivities}


def _class_path(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _is_simple(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(entry, str | int | float) for entry in value)
    return value is None or isinstance(value, str | int | float | Path | Enum)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
