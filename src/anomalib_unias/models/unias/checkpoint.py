"""Loading checkpoints of UniAS at another image size."""

import torch

from anomalib_unias.models.components import ArchitectureMismatchError, resize_grid

_TABLES = ("model.decoder.query.queries", "model.decoder.query_position")


def resize_positions(
    state_dict: dict[str, torch.Tensor], old_grid: tuple[int, int], new_grid: tuple[int, int], channel_branch: bool
) -> None:
    """Interpolate the parameters learned per position to another token grid, in place.

    Args:
        state_dict (dict[str, torch.Tensor]): State dict of a UniAS module.
        old_grid (tuple[int, int]): Rows and columns it was trained with.
        new_grid (tuple[int, int]): Rows and columns of the model.
        channel_branch (bool): Whether the model attends between channels.

    Raises:
        ArchitectureMismatchError: If the model attends between channels and the number of tokens differs: the layers
            of the channel branch are as wide as the number of tokens.
    """
    if channel_branch and old_grid[0] * old_grid[1] != new_grid[0] * new_grid[1]:
        msg = (
            f"The checkpoint was trained on a grid of {old_grid[0]}x{old_grid[1]} tokens, the model has "
            f"{new_grid[0]}x{new_grid[1]}. With channel_branch=True layers are as wide as the grid has tokens: "
            "load it with the image_size it was trained with, or train with channel_branch=False."
        )
        raise ArchitectureMismatchError(msg)
    for key in _TABLES:
        state_dict[key] = resize_grid(state_dict[key], old_grid, new_grid)
