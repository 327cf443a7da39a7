"""The order in which training images of several categories are drawn."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch.utils.data import RandomSampler, Sampler, WeightedRandomSampler

Sampling = Literal["natural", "balanced"]


def training_sampler(categories: Sequence[str], sampling: Sampling, seed: int | None = None) -> Sampler[int]:
    """Build the sampler of the training loader.

    Both samplers draw ``len(categories)`` indices per epoch. Lightning keeps the balance on several devices: it
    replaces the natural sampler by ``DistributedSampler``, and distributes the indices of the balanced sampler over the
    processes. All processes draw the same indices if ``seed`` is set.

    Args:
        categories (Sequence[str]): Category of each training image.
        sampling (Literal["natural", "balanced"]): ``"natural"`` visits every image once; ``"balanced"`` draws with
            replacement, so that each category is expected equally often, whatever its number of images.
        seed (int | None): Seed of the order. Defaults to ``None``: torch's global generator.

    Returns:
        Sampler[int]: A sampler of indices into ``categories``.

    Raises:
        ValueError: If ``sampling`` is neither of the two.

    Example:
        >>> sampler = training_sampler(["bottle"] * 90 + ["cable"] * 10, "balanced", seed=0)
        >>> 35 < sum(index >= 90 for index in sampler) < 65
        True
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    if sampling == "natural":
        return RandomSampler(categories, generator=generator)
    if sampling == "balanced":
        counts = Counter(categories)
        weights = [1 / counts[category] for category in categories]
        return WeightedRandomSampler(weights, num_samples=len(categories), generator=generator)
    msg = f"Unknown sampling {sampling!r}; choose 'natural' or 'balanced'."
    raise ValueError(msg)
