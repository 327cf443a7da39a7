"""Training loss of UniAS."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import cosine_similarity, mse_loss


def reconstruction_errors(target: torch.Tensor, reconstruction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared error and cosine distance of one level.

    Args:
        target (torch.Tensor): Features ``(B, C, H, W)``.
        reconstruction (torch.Tensor): ``(B, C, H, W)``.

    Returns:
        tuple[torch.Tensor, torch.Tensor]: Mean squared error over all elements, and mean cosine distance in
        [0, 2] over all pixels.
    """
    distance = 1 - cosine_similarity(target, reconstruction, dim=1)
    return mse_loss(reconstruction, target), distance.mean()


class UniASLoss(nn.Module):
    """Squared error plus cosine distance, added over the levels.

    This is the loss that the paper states; the published code adds the cosine *similarity* by mistake.

    Args:
        flatten_cosine (bool): Take one cosine per image and level, over channels and pixels together, instead
            of one per pixel. Defaults to ``False``.
    """

    def __init__(self, flatten_cosine: bool = False) -> None:
        super().__init__()
        self.flatten_cosine = flatten_cosine

    def forward(self, targets: Sequence[torch.Tensor], reconstructions: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute the loss.

        Args:
            targets (Sequence[torch.Tensor]): Features ``(B, C_l, H_l, W_l)`` of each level.
            reconstructions (Sequence[torch.Tensor]): The same shapes.

        Returns:
            torch.Tensor: Scalar.
        """
        total = targets[0].new_zeros(())
        for target, reconstruction in zip(targets, reconstructions, strict=True):
            squared, cosine = reconstruction_errors(target, reconstruction)
            if self.flatten_cosine:
                cosine = (1 - cosine_similarity(target.flatten(1), reconstruction.flatten(1), dim=1)).mean()
            total = total + squared + cosine
        return total
