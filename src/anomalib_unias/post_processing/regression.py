"""The paper's small networks, which predict the statistics of normal images or the category."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

# The mean loss is checked every so many steps; training stops when it has not fallen by 1 % for this many checks in a
# row.
_CHECK_EVERY = 250
_PATIENCE = 4
_CLIP_NORM = 1.0
# The grid of a ResNet's last stage at 224 pixels, for which the paper's head is made; finer grids only cost memory.
_MAP_SIDE = 7


class FeatureHead(nn.Module):
    """Convolutions, pooling, dropout and linear layers, on maps that are pooled by :func:`shrink`.

    Args:
        channels (int): Channels of the feature map.
        outputs (int): Number of outputs.
        convolutions (int): 3x3 convolutions with as many output as input channels, 0 to 2.
        linear_layers (int): Linear layers, 1 to 3.
        hidden_dim (int): Width between linear layers.
        dropout (float): Dropout before the linear layers.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        convolutions: int = 1,
        linear_layers: int = 2,
        hidden_dim: int = 256,
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *(
                layer
                for _ in range(convolutions)
                for layer in (nn.Conv2d(channels, channels, kernel_size=3, padding=1), nn.ReLU())
            )
        )
        widths = [channels, *[hidden_dim] * (linear_layers - 1), outputs]
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        for index, (narrow, wide) in enumerate(itertools.pairwise(widths)):
            layers += [nn.ReLU()] * (index > 0) + [nn.Linear(narrow, wide)]
        self.linear = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Compute the outputs.

        Args:
            features (Tensor): ``(B, C, H, W)``.

        Returns:
            Tensor: ``(B, outputs)``.
        """
        return self.linear(self.convolutions(shrink(features)).mean(dim=(2, 3)))


def shrink(features: Tensor) -> Tensor:
    """Pool feature maps ``(B, C, H, W)`` to 7 to 13 positions per side, if there are more."""
    factors = [max(1, side // _MAP_SIDE) for side in features.shape[-2:]]
    return torch.nn.functional.avg_pool2d(features, factors) if max(factors) > 1 else features


def train_head(
    head: nn.Module,
    features: Tensor,
    normalization: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    learning_rate: float,
    max_steps: int,
    batch_size: int,
) -> int:
    """Train a head with SGD as in the paper (momentum 0.9, weight decay 1e-4).

    Args:
        head (nn.Module): Trained in place; left in eval mode and without gradients.
        features (Tensor): ``(N, C, H, W)`` of all images, any floating type; may be memory-mapped.
        normalization (nn.Module): Applied to the features of a batch before the head.
        loss (Callable[[Tensor, Tensor], Tensor]): Loss of predictions ``(b, outputs)`` and the indices ``(b,)`` of
            their images.
        learning_rate (float): Learning rate.
        max_steps (int): Maximum number of steps.
        batch_size (int): Images per step.

    Returns:
        int: Number of steps; fewer than ``max_steps`` if the loss stopped falling.

    Raises:
        FloatingPointError: If the parameters are not finite after training.
    """
    parameters = list(head.parameters())
    optimizer = torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, weight_decay=1e-4)
    head.train()
    order = torch.empty(0, dtype=torch.long)
    recent, best, stalled, step = 0.0, float("inf"), 0, 0
    while step < max_steps and stalled < _PATIENCE:
        if len(order) == 0:
            order = torch.randperm(len(features))
        chosen, order = order[:batch_size], order[batch_size:]
        value = loss(head(normalization(features[chosen].float())), chosen)
        optimizer.zero_grad()
        value.backward()
        # The published learning rate is high for features of unknown scale.
        nn.utils.clip_grad_norm_(parameters, _CLIP_NORM)
        optimizer.step()
        step += 1
        recent += value.item() / _CHECK_EVERY
        if step % _CHECK_EVERY == 0:
            stalled = 0 if recent < 0.99 * best else stalled + 1
            best, recent = min(best, recent), 0.0
    if not all(torch.isfinite(parameter).all() for parameter in parameters):
        msg = f"CADA's network diverged after {step} steps. Lower learning_rate (now {learning_rate})."
        raise FloatingPointError(msg)
    head.eval()
    head.requires_grad_(False)
    return step


def smooth_l1(predictions: Tensor, targets: Tensor) -> Tensor:
    """Smooth L1 loss, summed over outputs and averaged over images; linear beyond one unit of the targets.

    Args:
        predictions (Tensor): ``(B, 2)``.
        targets (Tensor): ``(B, 2)``, in units of their spread, which is the scale ``a`` of the paper.

    Returns:
        Tensor: Scalar.
    """
    return functional.smooth_l1_loss(predictions, targets, reduction="none").sum(dim=1).mean()


def category_table(targets: Tensor, categories: Sequence[str], trusted: Tensor) -> tuple[list[str], Tensor]:
    """Compute the mean of the targets of each category.

    Args:
        targets (Tensor): ``(N, 2)``.
        categories (Sequence[str]): Category of each image, length N.
        trusted (Tensor): Images that count, ``(N,)`` bool; in a category without such images, all count.

    Returns:
        tuple[list[str], Tensor]: Sorted names, and ``(K, 2)``.
    """
    names = sorted(set(categories))
    index = torch.tensor([names.index(category) for category in categories])
    rows = []
    for k in range(len(names)):
        of_category = index == k
        chosen = of_category & trusted
        rows.append(targets[chosen if chosen.any() else of_category].mean(dim=0))
    return names, torch.stack(rows)
