"""Join the data sets of several categories into one."""

from collections.abc import Callable, Mapping

import pandas as pd
import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataset, DatasetItem, ImageItem
from anomalib.data.utils import LabelName
from PIL import Image
from torchvision.transforms.v2 import Transform
from torchvision.tv_tensors import Mask

from .errors import MaskSizeError
from .items import CategoryImageBatch, CategoryImageItem
from .reading import check_header, read_header, unreadable


class UnifiedDataset(AnomalibDataset):
    """Joins one data set per category and adds the category to every item.

    The data frame ``samples`` has the rows of all data sets and two more columns: ``category``, and ``row``, the row of
    the image in the data set of its category. That data set reads the image.

    Args:
        datasets (Mapping[str, AnomalibDataset]): Image data set of each category.

    Example:
        >>> UnifiedDataset({"bottle": bottle_data, "cable": cable_data})[0].category  # doctest: +SKIP
        'bottle'
    """

    def __init__(self, datasets: Mapping[str, AnomalibDataset]) -> None:
        self._datasets: dict[str, AnomalibDataset] = {}
        super().__init__()
        self._datasets.update(datasets)
        frames = [
            dataset.samples.assign(category=category, row=range(len(dataset)))
            for category, dataset in self._datasets.items()
        ]
        self.samples = pd.concat(frames, ignore_index=True)
        tasks = {dataset.task for dataset in self._datasets.values()}
        self.samples.attrs["task"] = TaskType.SEGMENTATION if TaskType.SEGMENTATION in tasks else tasks.pop()

    @property
    def datasets(self) -> dict[str, AnomalibDataset]:
        """Data set of each category."""
        return self._datasets

    @property
    def augmentations(self) -> Transform | None:
        """Transform of the first category; assigning a transform sets it for all categories."""
        return next(iter(self._datasets.values())).augmentations

    @augmentations.setter
    def augmentations(self, augmentations: Transform | None) -> None:
        for dataset in self._datasets.values():
            dataset.augmentations = augmentations

    @property
    def collate_fn(self) -> Callable[[list[ImageItem]], CategoryImageBatch]:
        """Function that makes a :class:`CategoryImageBatch` from a list of items."""
        return CategoryImageBatch.collate

    def __getitem__(self, index: int) -> CategoryImageItem:
        """Read one image.

        Args:
            index (int): Row in ``samples``.

        Returns:
            CategoryImageItem: Image ``(3, H, W)`` in [0, 1], after the augmentations. If any category has masks, every
            item has a ``gt_mask`` ``(H, W)``; see :class:`CategoryImageItem` for defective images without a mask.

        Raises:
            UnreadableImageError: If the image or its mask is damaged, or the image has more than 8 bits per channel.
            MaskSizeError: If mask and image differ in size.
        """
        sample = self.samples.iloc[index]
        masks = _mask_paths(sample)
        _check_headers(sample.image_path, masks)
        try:
            item = self._datasets[sample.category][int(sample.row)]
        except Exception as error:
            for path in (sample.image_path, *masks):
                _decode(path, cause=error)
            raise
        return self._with_category(item, sample.category, is_normal=sample.label_index == LabelName.NORMAL)

    def _with_category(self, item: DatasetItem, category: str, *, is_normal: bool) -> CategoryImageItem:
        values = dict(vars(item))
        values["mask_valid"] = is_normal or item.gt_mask is not None
        if item.gt_mask is None and self.task == TaskType.SEGMENTATION:
            values["gt_mask"] = Mask(torch.zeros(values["image"].shape[-2:], dtype=torch.bool))
        return CategoryImageItem(**values, category=category)


def _mask_paths(sample: pd.Series) -> list[str]:
    """Paths of the masks of a defective image; MVTec LOCO has several per image."""
    if sample.label_index != LabelName.ABNORMAL or not sample.mask_path:
        return []
    return [sample.mask_path] if isinstance(sample.mask_path, str) else list(sample.mask_path)


def _check_headers(image_path: str, mask_paths: list[str]) -> None:
    """Refuse files that would be read wrongly without an error; only headers are read."""
    size = check_header(image_path)
    for mask_path in mask_paths:
        mask_size, _ = read_header(mask_path)
        if mask_size != size:
            msg = (
                f"Mask {mask_path} is {mask_size[0]}x{mask_size[1]} (width x height) but its image {image_path} is "
                f"{size[0]}x{size[1]}. Masks must have the size of their image: replace the mask or the image."
            )
            raise MaskSizeError(msg)


def _decode(path: str, cause: Exception) -> None:
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:
        raise unreadable(path, error) from cause
