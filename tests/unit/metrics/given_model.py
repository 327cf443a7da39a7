"""A model that returns the anomaly maps it is given, so that every metric of a run is known beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch, ImageItem, InferenceBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset


@dataclass
class CategoryBatch(ImageBatch):
    """Batch with the two optional fields of the evaluator."""

    category: list[str] = field(default_factory=list)
    mask_valid: torch.Tensor | None = None


class GivenMaps(nn.Module):
    """The first channel of an image is its anomaly map, the highest value of it the image score."""

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        maps = images[:, :1]
        return InferenceBatch(pred_score=maps.amax(dim=(1, 2, 3)), anomaly_map=maps)


class GivenModel(AnomalibModule):
    def __init__(self, evaluator: Evaluator | bool = True, post_processor: PostProcessor | bool = True) -> None:
        super().__init__(pre_processor=False, post_processor=post_processor, evaluator=evaluator, visualizer=False)
        self.model = GivenMaps()

    @property
    def trainer_arguments(self) -> dict:
        return {}

    @property
    def learning_type(self) -> LearningType:
        return LearningType.ONE_CLASS

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None: ...

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> ImageBatch:  # noqa: ARG002
        return batch.update(**self.model(batch.image)._asdict())

    def configure_optimizers(self) -> None: ...


@dataclass
class GivenImages(Dataset):
    """Anomaly maps ``(N, H, W)`` with masks, categories, and which of the masks are known."""

    maps: np.ndarray
    masks: np.ndarray
    categories: Sequence[str] | None = None
    mask_valid: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> tuple[int, ImageItem]:
        mask = torch.from_numpy(self.masks[index])
        image = torch.from_numpy(self.maps[index]).float().expand(3, -1, -1)
        item = ImageItem(image=image, gt_mask=mask, gt_label=mask.any(), image_path=f"{index:03}.png")
        return index, item

    @property
    def labels(self) -> np.ndarray:
        return self.masks.any(axis=(1, 2))

    def loader(self, batch_size: int = 4, order: Sequence[int] | None = None) -> DataLoader:
        return DataLoader(self, batch_size=batch_size, sampler=order, collate_fn=partial(collate, self))


def collate(images: GivenImages, items: list[tuple[int, ImageItem]]) -> ImageBatch:
    batch = ImageBatch.collate([item for _, item in items])
    if images.categories is None:
        return batch
    indices = [index for index, _ in items]
    valid = None if images.mask_valid is None else torch.from_numpy(images.mask_valid[indices])
    fields = {"image": batch.image, "gt_mask": batch.gt_mask, "gt_label": batch.gt_label}
    return CategoryBatch(
        **fields,
        image_path=batch.image_path,
        category=[images.categories[index] for index in indices],
        mask_valid=valid,
    )


def make_images(seed: int = 0, count: int = 12, size: int = 16, categories: Sequence[str] = ("a", "b")) -> GivenImages:
    """Noise with a square defect in every third image; the level differs between categories."""
    rng = np.random.default_rng(seed)
    maps = rng.random((count, size, size)).astype(np.float32)
    masks = np.zeros((count, size, size), dtype=bool)
    names = [categories[index % len(categories)] for index in range(count)]
    for index in range(count):
        if index % 3 == 0:
            top, left = rng.integers(0, size - 5, 2)
            masks[index, top : top + 4, left : left + 5] = True
            maps[index][masks[index]] += 0.5 * rng.random()
        maps[index] += categories.index(names[index])
    return GivenImages(maps, masks, names)


def make_trainer(**arguments: object) -> Trainer:
    """A quiet trainer on one CPU."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(**{"accelerator": "cpu", "devices": 1, **quiet, **arguments})
