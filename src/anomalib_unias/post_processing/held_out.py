"""Normal images that are kept away from the training of a model, to see how it scores images it does not know."""

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import LabelName

from .calibration_data import CalibrationDataError


class HeldOutImages:
    """Takes part of the training images out of a datamodule, and puts them back.

    Args:
        datamodule (AnomalibDataModule): Set up for training.
        fraction (float): Share of the normal images of each category, in ``(0, 1)``; at least one image.
        seed (int): Which ones.

    Attributes:
        images: The images that were taken out.

    Raises:
        CalibrationDataError: If a category has a single normal image.
    """

    def __init__(self, datamodule: AnomalibDataModule, fraction: float, seed: int) -> None:
        self._datamodule = datamodule
        self._complete: AnomalibDataset = datamodule.train_data
        chosen = _choose(self._complete, fraction, seed)
        others = [index for index in range(len(self._complete)) if index not in chosen]
        self.images: AnomalibDataset = self._complete.subsample(sorted(chosen))
        datamodule.train_data = self._complete.subsample(others)

    def put_back(self) -> None:
        """Restore the training images of the datamodule."""
        self._datamodule.train_data = self._complete


def _choose(dataset: AnomalibDataset, fraction: float, seed: int) -> set[int]:
    samples = dataset.samples
    normal = samples[samples.label_index == LabelName.NORMAL]
    groups = normal.groupby("category").indices if "category" in normal else {dataset.name: range(len(normal))}
    generator = torch.Generator().manual_seed(seed)
    chosen: set[int] = set()
    for category, rows in groups.items():
        if len(rows) < 2:
            msg = (
                f"CADA holds out normal training images, and {category!r} has only {len(rows)}. "
                "Add images, or choose targets='training'."
            )
            raise CalibrationDataError(msg)
        order = torch.randperm(len(rows), generator=generator).tolist()
        count = max(1, round(fraction * len(rows)))
        chosen |= {int(normal.index[rows[position]]) for position in order[: min(count, len(rows) - 1)]}
    return chosen
