"""Training loss of UniAD."""

import torch
from torch import nn
from torch.nn.functional import mse_loss


class UniADLoss(nn.Module):
    """Mean squared error over all elements, as in the published code; the paper sums it over the channels."""

    def forward(self, target: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            target (torch.Tensor): Features ``(B, C, h, w)``, without noise.
            reconstruction (torch.Tensor): The same shape.

        Returns:
            torch.Tensor: Scalar.
        """
        return mse_loss(reconstruction, target)
