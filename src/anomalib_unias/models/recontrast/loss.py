"""Training loss of ReContrast: cosine distance of whole images, without gradients from easy positions."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import cosine_similarity

FIRST_ALPHA, LAST_ALPHA = -3.0, 1.0
_WARM_UP = 0.1


def mining_strength(step: int, steps: int) -> float:
    """How hard a position must be to give a gradient, in standard deviations above the mean distance.

    Args:
        step (int): Number of completed steps.
        steps (int): Length of the run in steps.

    Returns:
        float: -3 at the start, which leaves out practically no position; 1 after a tenth of the run.

    Example:
        >>> mining_strength(0, 2000), mining_strength(150, 2000), mining_strength(999, 2000)
        (-3.0, 0.0, 1.0)
    """
    return min(FIRST_ALPHA + (LAST_ALPHA - FIRST_ALPHA) * step / (_WARM_UP * steps), LAST_ALPHA)


def cosine_distance(target: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    """Cosine distance at every position.

    Args:
        target (torch.Tensor): ``(B, C, H, W)``.
        reconstruction (torch.Tensor): ``(B, C, H, W)``.

    Returns:
        torch.Tensor: ``(B, H, W)``, in [0, 2].
    """
    return 1 - cosine_similarity(target, reconstruction, dim=1)


def mine(target: torch.Tensor, reconstruction: torch.Tensor, strength: float) -> torch.Tensor:
    """Pass gradients only through the hard positions of a reconstruction. Its values do not change.

    Args:
        target (torch.Tensor): ``(B, C, H, W)``.
        reconstruction (torch.Tensor): ``(B, C, H, W)``.
        strength (float): A position is hard if its distance is at least this many standard deviations above the mean,
            both over all positions of the batch.

    Returns:
        torch.Tensor: ``(B, C, H, W)``, equal to ``reconstruction``; easy positions are detached from the autograd
        graph.
    """
    with torch.no_grad():
        distance = cosine_distance(target, reconstruction)
        hard = distance >= distance.mean() + strength * distance.std()
    return torch.where(hard.unsqueeze(1), reconstruction, reconstruction.detach())


class ReContrastLoss(nn.Module):
    """One cosine distance per image and level, over all features; summed over levels, averaged over the two pairs."""

    def forward(
        self,
        targets: Sequence[Sequence[torch.Tensor]],
        reconstructions: Sequence[Sequence[torch.Tensor]],
        strength: float | None = None,
    ) -> torch.Tensor:
        """Compute the loss.

        Args:
            targets (Sequence[Sequence[torch.Tensor]]): Features of an encoder for each pair, ``(B, C_l, H_l, W_l)`` for
                each level. They get no gradient.
            reconstructions (Sequence[Sequence[torch.Tensor]]): The same shapes.
            strength (float | None): Strength of the mining, see :func:`mine`; ``None`` for no mining. Defaults to
                ``None``.

        Returns:
            torch.Tensor: Scalar in [0, 2 * levels].
        """
        total = reconstructions[0][0].new_zeros(())
        for pair in zip(targets, reconstructions, strict=True):
            for target, reconstruction in zip(*pair, strict=True):
                total = total + _global_distance(target.detach(), reconstruction, strength)
        return total / len(targets)


def _global_distance(target: torch.Tensor, reconstruction: torch.Tensor, strength: float | None) -> torch.Tensor:
    if strength is not None:
        reconstruction = mine(target, reconstruction, strength)
    return (1 - cosine_similarity(target.flatten(1), reconstruction.flatten(1), dim=1)).mean()
