"""Principal components of training features, from which linear layers can start instead of from random weights."""

from typing import NamedTuple

import torch

COMPONENT_BATCHES = 8
"""Number of batches of training images from whose features the components are computed."""

# Share of a component's standard deviation that one unit of a hidden state stands for at the start.
_OUTPUT_SCALE = 0.3
# Components with less than this share of the largest standard deviation are noise and are not amplified.
_SMALLEST_SHARE = 1e-3


class PrincipalComponents(NamedTuple):
    """Directions in which vectors vary most, the strongest first.

    Attributes:
        mean: Mean of the vectors ``(F,)``.
        directions: Orthogonal unit vectors ``(k, F)``.
        deviations: Standard deviation in each direction ``(k,)``.
    """

    mean: torch.Tensor
    directions: torch.Tensor
    deviations: torch.Tensor

    @classmethod
    def of(cls, vectors: torch.Tensor, count: int) -> "PrincipalComponents":
        """Compute the principal components.

        Args:
            vectors (torch.Tensor): ``(N, F)``.
            count (int): Number of components; fewer if there are fewer vectors or dimensions.

        Returns:
            PrincipalComponents: ``min(count, N, F)`` components.
        """
        mean = vectors.mean(dim=0)
        count = min(count, *vectors.shape)
        _, singular, directions = torch.pca_lowrank(vectors - mean, q=count, center=False)
        return cls(mean, directions.mT, singular / max(1, len(vectors) - 1) ** 0.5)

    def encoding(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Get a linear layer whose outputs are the components, with mean 0 and variance 1.

        Returns:
            tuple[torch.Tensor, torch.Tensor]: Weight ``(k, F)`` and bias ``(k,)``.
        """
        smallest = _SMALLEST_SHARE * self.deviations.max()
        weight = self.directions / self.deviations.clamp_min(smallest)[:, None]
        return weight, -weight @ self.mean

    def decoding(self) -> torch.Tensor:
        """Get the directions that the units of a hidden state are turned into by a linear layer.

        Returns:
            torch.Tensor: ``(k, F)``.
        """
        return _OUTPUT_SCALE * self.deviations[:, None] * self.directions
