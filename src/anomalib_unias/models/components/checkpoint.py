"""Checks and adaptations of checkpoints before they are loaded."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from anomalib.engine.plugins import AnomalibCheckpointIO
from anomalib.pre_processing import PreProcessor
from torch import nn
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import Compose, Resize

from anomalib_unias.backbones import FORMER_NAMES
from anomalib_unias.compat.checkpoints import CheckedCheckpointIO
from anomalib_unias.compat.scores import SCORE_BUFFERS
from anomalib_unias.pre_processing import exportable_transform

logger = logging.getLogger(__name__)

_SIZE_KEY = "anomalib_unias_image_size"
# Saved in checkpoints since packaged backbones have names that differ from timm's.
_FORMAT_KEY = "anomalib_unias_format"
_FORMAT = 2


class ArchitectureMismatchError(ValueError):
    """A checkpoint has a different architecture from the model it is loaded into."""


class SizedCheckpoint(nn.Module):
    """Checkpoints that load at another image size, and without internet access.

    A base class to list before ``AnomalibModule``. It does not derive from it: anomalib lists the direct subclasses of
    ``AnomalibModule`` as models.
    """

    model: Any
    hparams: Any
    pre_processor: Any
    trainer: Any

    def setup(self, stage: str) -> None:
        """Let the trainer check that a file is a checkpoint before it reads it."""
        super().setup(stage)  # type: ignore[misc]
        strategy = self.trainer.strategy
        if type(strategy.checkpoint_io) is AnomalibCheckpointIO:
            strategy.checkpoint_io = CheckedCheckpointIO(strategy.checkpoint_io.extra_safe_globals)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the image size, so that the model can be loaded at another one."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        # The hyper-parameters are not enough: arguments of load_from_checkpoint replace them.
        checkpoint[_SIZE_KEY] = list(self.model.image_size)
        checkpoint[_FORMAT_KEY] = _FORMAT

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore a checkpoint of the same architecture, at the same or another image size.

        Args:
            checkpoint (dict[str, Any]): Lightning checkpoint.

        Raises:
            ArchitectureMismatchError: If the checkpoint does not belong to this architecture.
        """
        renamed = renamed_backbone(checkpoint)
        if renamed is not None and self.hparams.get("backbone") != renamed:
            msg = (
                f"The checkpoint was trained with a backbone that is called {renamed!r} now, got "
                f"{self.hparams.get('backbone')!r}. Build the model with backbone={renamed!r}."
            )
            raise ArchitectureMismatchError(msg)
        own_pre_processor = self.pre_processor
        saved_size = tuple(checkpoint.get(_SIZE_KEY, self.model.image_size))
        resized = saved_size != self.model.image_size
        if resized:
            reset_scores(checkpoint)
            logger.warning(
                "The checkpoint was trained at %dx%d pixels and is opened at %dx%d: scores differ, so its "
                "thresholds, normalisation and calibration are dropped. Validate the model (engine.validate) to get "
                "thresholds; a model with a CadaPostProcessor has to be trained at the size it is used at.",
                *saved_size,
                *self.model.image_size,
            )
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        if resized:
            self.resize_state(checkpoint["state_dict"], (saved_size[0], saved_size[1]))
            if isinstance(own_pre_processor, PreProcessor):
                # Loading the checkpoint has restored the size it was trained with.
                self.pre_processor = _resized(own_pre_processor, self.model.image_size)
        check_architecture(self, checkpoint, self.hparams)

    def resize_state(self, state_dict: dict[str, torch.Tensor], saved_size: tuple[int, int]) -> None:
        """Adapt parameters that depend on the image size, in place. By default there are none.

        Args:
            state_dict (dict[str, torch.Tensor]): State dict of the checkpoint.
            saved_size (tuple[int, int]): Height and width that it was trained with.
        """

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Rebuild a trained model. The backbone is in the checkpoint: nothing is downloaded.

        Args:
            checkpoint_path (str | Path): Lightning checkpoint.
            map_location (Any): See ``torch.load``. Defaults to ``None``.
            hparams_file (str | Path | None): Not needed. Defaults to ``None``.
            strict (bool | None): Whether keys must match. Defaults to ``None``.
            weights_only (bool): Whether only plain data is unpickled. Defaults to ``True``.
            **kwargs (Any): Constructor arguments to replace, e.g. ``image_size``.

        Returns:
            Any: The model.

        Raises:
            ArchitectureMismatchError: If the checkpoint belongs to another architecture.
            CheckpointFileError: If the file is damaged, or is not a Lightning checkpoint.
        """
        kwargs.setdefault("pre_trained", False)
        files = CheckedCheckpointIO(cls.checkpoint_safe_globals())  # type: ignore[attr-defined]
        renamed = renamed_backbone(files.load_checkpoint(checkpoint_path, "cpu", weights_only))
        if renamed is not None:
            kwargs.setdefault("backbone", renamed)
        return super().load_from_checkpoint(  # type: ignore[misc]
            checkpoint_path,
            map_location=map_location,
            hparams_file=hparams_file,
            strict=strict,
            weights_only=weights_only,
            **kwargs,
        )


def renamed_backbone(checkpoint: Mapping[str, Any]) -> str | None:
    """Find the new name of a backbone that has been renamed since the checkpoint was written.

    The old name now means another network.

    Args:
        checkpoint (Mapping[str, Any]): Lightning checkpoint.

    Returns:
        str | None: The new name; ``None`` if the name has not changed.
    """
    if _FORMAT_KEY in checkpoint:
        return None
    return FORMER_NAMES.get(checkpoint.get("hyper_parameters", {}).get("backbone"))


def reset_scores(checkpoint: dict[str, Any]) -> None:
    """Remove thresholds, normalisation and calibration from a checkpoint.

    Args:
        checkpoint (dict[str, Any]): Lightning checkpoint, changed in place.
    """
    state = checkpoint["state_dict"]
    for key in [key for key in state if key.startswith("post_processor.calibration.")]:
        del state[key]
    for name in SCORE_BUFFERS:
        if (key := f"post_processor.{name}") in state:
            state[key] = torch.full_like(state[key], torch.nan)
    if (configuration := checkpoint.get("anomalib_post_processor_config")) is not None:
        configuration.pop("calibration", None)


def check_architecture(module: nn.Module, checkpoint: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Check that a checkpoint belongs to the architecture of a model.

    Args:
        module (nn.Module): The model that is about to load the checkpoint.
        checkpoint (Mapping[str, Any]): Lightning checkpoint.
        arguments (Mapping[str, Any]): Constructor arguments of the model.

    Raises:
        ArchitectureMismatchError: If parameters are missing, unknown or of another shape. The message names
            the constructor arguments that differ.
    """
    expected, saved = module.state_dict(), checkpoint["state_dict"]
    missing, unknown = sorted(expected.keys() - saved.keys()), sorted(saved.keys() - expected.keys())
    reshaped = sorted(key for key in expected.keys() & saved.keys() if expected[key].shape != saved[key].shape)
    # Metrics and post-processors check themselves.
    mismatched = [key for key in (*missing, *unknown, *reshaped) if key.startswith("model.")]
    if not mismatched:
        return
    saved_arguments = checkpoint.get("hyper_parameters", {})
    differences = [
        f"{name}={saved_arguments[name]!r} (here {arguments[name]!r})"
        for name in arguments
        if name in saved_arguments and saved_arguments[name] != arguments[name]
    ]
    name = type(module).__name__
    if differences:
        advice = (
            f"Saved with: {', '.join(differences)}. Build the model with these arguments, or let "
            f"{name}.load_from_checkpoint do it."
        )
    elif saved_arguments.keys() & arguments.keys():
        advice = "Its arguments are the same: another version of this package has saved it. Train the model again."
    else:
        advice = f"It does not hold the arguments of a {name} model. Build the model as it was, and load it into that."
    msg = (
        f"The checkpoint belongs to another architecture: {len(missing)} parameters are missing, {len(unknown)} "
        f"unknown, {len(reshaped)} of another shape, e.g. {', '.join(mismatched[:3])}. {advice}"
    )
    raise ArchitectureMismatchError(msg)


def resize_grid(table: torch.Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> torch.Tensor:
    """Interpolate a parameter learned per position to another token grid.

    Args:
        table (torch.Tensor): ``(N * rows * columns, D)``, one or more consecutive grids.
        old_grid (tuple[int, int]): Rows and columns it was trained with.
        new_grid (tuple[int, int]): Rows and columns of the model.

    Returns:
        torch.Tensor: ``(N * new rows * new columns, D)``.
    """
    grids = table.shape[0] // (old_grid[0] * old_grid[1])
    image = table.view(grids, *old_grid, -1).permute(0, 3, 1, 2)
    resized = interpolate(image, size=new_grid, mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(-1, table.shape[1])


def _resized(pre_processor: PreProcessor, size: tuple[int, int]) -> PreProcessor:
    """Copy the transforms, with another height and width of the resizing."""
    transforms = [
        Resize(list(size), interpolation=step.interpolation, antialias=step.antialias)
        if isinstance(step, Resize)
        else step
        for step in cast("Compose", pre_processor.transform).transforms
    ]
    return PreProcessor(transform=exportable_transform(Compose(transforms)))
