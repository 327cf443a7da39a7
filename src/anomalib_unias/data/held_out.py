"""Hold normal images out of the training of a model, to see how it scores images that it has not seen."""

import torch
from anomalib.data import AnomalibDataset
from anomalib.data.utils import LabelName

from .errors import HeldOutError


class HeldOutOrder:
    """The order in which the normal images of a data set are held out.

    A larger share contains the images of every smaller one.

    Args:
        dataset (AnomalibDataset): Training images.
        seed (int): Seed of the order.
    """

    def __init__(self, dataset: AnomalibDataset, seed: int) -> None:
        samples = dataset.samples
        normal = samples[samples.label_index == LabelName.NORMAL]
        groups = normal.groupby("category").indices if "category" in normal else {dataset.name: range(len(normal))}
        generator = torch.Generator().manual_seed(seed)
        self._rows: dict[str, list[int]] = {}
        for category, rows in groups.items():
            order = torch.randperm(len(rows), generator=generator).tolist()
            self._rows[str(category)] = [int(normal.index[rows[position]]) for position in order]

    def first(self, fraction: float) -> set[int]:
        """Choose a share of the normal images of each category.

        Args:
            fraction (float): Share in ``(0, 1)``. At least one image of each category is chosen, and never all.

        Returns:
            set[int]: Rows of the data set.

        Raises:
            ValueError: If the fraction is out of its range.
            HeldOutError: If a category has only one normal image.
        """
        if not 0 < fraction < 1:
            msg = f"The share of images to hold out is between 0 and 1, got {fraction}."
            raise ValueError(msg)
        chosen: set[int] = set()
        for category, rows in self._rows.items():
            if len(rows) < 2:
                msg = (
                    f"Normal training images are to be held out, and {category!r} has only {len(rows)}. Add images, or "
                    "choose options that hold none out (CADA: targets='training')."
                )
                raise HeldOutError(msg)
            count = max(1, round(fraction * len(rows)))
            chosen |= set(rows[: min(count, len(rows) - 1)])
        return chosen
