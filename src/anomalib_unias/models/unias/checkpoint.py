"""Checks and adaptations of a state dict before it is loaded."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

_QUERIES = "model.decoder.query.queries"
_QUERY_POSITION = "model.decoder.query_position"


class ArchitectureMismatchError(ValueError):
    """A checkpoint of another architecture than that of the model it is loaded into."""


def check_architecture(module: nn.Module, checkpoint: Mapping[str, Any], own_arguments: Mapping[str, Any]) -> None:
    """Make sure that a checkpoint belongs to an architecture.

    Args:
        module (nn.Module): The model that is about to load the checkpoint.
        checkpoint (Mapping[str, Any]): Lightning checkpoint.
        own_arguments (Mapping[str, Any]): Constructor arguments of the model.

    Raises:
        ArchitectureMismatchError: If parameters are missing, unknown or of another shape. The message names
            the constructor arguments that differ.
    """
    own, saved = module.state_dict(), checkpoint["state_dict"]
    missing, unknown = sorted(own.keys() - saved.keys()), sorted(saved.keys() - own.keys())
    reshaped = sorted(key for key in own.keys() & saved.keys() if own[key].shape != saved[key].shape)
    # Metrics and post-processors check themselves.
    mismatched = [key for key in (*missing, *unknown, *reshaped) if key.startswith("model.")]
    if not mismatched:
        return
    saved_arguments = checkpoint.get("hyper_parameters", {})
    differences = [
        f"{name}={saved_arguments[name]!r} (here {own_arguments[name]!r})"
        for name in own_arguments
        if name in saved_arguments and saved_arguments[name] != own_arguments[name]
    ]
    differing = ", ".join(differences) or "unknown: it does not hold the arguments of a UniAS model"
    msg = (
        f"The checkpoint belongs to another architecture: {len(missing)} parameters are missing, {len(unknown)} "
        f"unknown, {len(reshaped)} of another shape, e.g. {', '.join(mismatched[:3])}. Saved with: {differing}. "
        "Build the model with these arguments, or let UniAS.load_from_checkpoint do it."
    )
    raise ArchitectureMismatchError(msg)


def resize_positions(
    state_dict: dict[str, torch.Tensor], old_grid: tuple[int, int], new_grid: tuple[int, int], channel_branch: bool
) -> None:
    """Interpolate what is learned per position to another token grid, in place.

    Args:
        state_dict (dict[str, torch.Tensor]): State dict of a UniAS module.
        old_grid (tuple[int, int]): Rows and columns it was trained with.
        new_grid (tuple[int, int]): Rows and columns of the model.
        channel_branch (bool): Whether the model attends between channels.

    Raises:
        ArchitectureMismatchError: If the model attends between channels, whose layers are as wide as the grid
            has positions: they have no meaning on another grid.
    """
    if channel_branch and old_grid[0] * old_grid[1] != new_grid[0] * new_grid[1]:
        msg = (
            f"The checkpoint was trained on a grid of {old_grid[0]}x{old_grid[1]} tokens, the model has "
            f"{new_grid[0]}x{new_grid[1]}. With channel_branch=True layers are as wide as the grid has tokens: "
            "load it with the image_size it was trained with, or train with channel_branch=False."
        )
        raise ArchitectureMismatchError(msg)
    for key in (_QUERIES, _QUERY_POSITION):
        table = state_dict[key]
        banks = table.shape[0] // (old_grid[0] * old_grid[1])
        image = table.view(banks, *old_grid, -1).permute(0, 3, 1, 2)
        resized = interpolate(image, size=new_grid, mode="bicubic", align_corners=False)
        state_dict[key] = resized.permute(0, 2, 3, 1).reshape(-1, table.shape[1])
