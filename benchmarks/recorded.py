"""Outputs of a trained model for the test images, kept on disk."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from anomalib.models.components import AnomalibModule
from benchmarks.groups import Group
from torch import Tensor

_BATCH = 16


@dataclass
class Recorded:
    """Uncalibrated anomaly maps, masks, scores, labels and categories of the test images.

    Args:
        maps (np.memmap): Anomaly maps ``(N, H, W)``, float32.
        masks (np.memmap): Ground-truth masks ``(N, H, W)``, bool.
        scores (Tensor): Image scores ``(N,)``.
        labels (Tensor): Whether an image is defective ``(N,)``, bool.
        categories (list[str]): Category of each image.
    """

    maps: np.memmap
    masks: np.memmap
    scores: Tensor
    labels: Tensor
    categories: list[str]

    def batches(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield batches of images: their indices, maps and masks."""
        for first in range(0, len(self.categories), _BATCH):
            rows = slice(first, first + _BATCH)
            yield rows, torch.from_numpy(np.array(self.maps[rows])), torch.from_numpy(np.array(self.masks[rows]))


@torch.no_grad()
def record(
    model: AnomalibModule, group: Group, seed: int, folder: Path, after_batch: Callable[[int, list[str]], None]
) -> Recorded:
    """Run a model on the test images.

    Args:
        model (AnomalibModule): Trained model.
        group (Group): Group whose test images are used.
        seed (int): Seed.
        folder (Path): Folder for the maps and masks.
        after_batch (Callable[[int, list[str]], None]): Called after each batch with its size and categories.

    Returns:
        Recorded: Outputs, which can be read as long as the folder exists.
    """
    datamodule = group.datamodule(seed)
    datamodule.prepare_data()
    datamodule.setup()
    scores, labels, categories = [], [], []
    files = {"maps": folder / "maps.f32", "masks": folder / "masks.bool"}
    size: tuple[int, ...] = ()
    with files["maps"].open("wb") as map_file, files["masks"].open("wb") as mask_file:
        for item in datamodule.test_dataloader():
            images, masks = model.pre_processor.transform(item.image, item.gt_mask)
            output = model.model.eval()(images)
            maps = output.anomaly_map.reshape(len(images), *output.anomaly_map.shape[-2:]).float()
            after_batch(len(images), item.category)
            maps.numpy().tofile(map_file)
            masks.bool().numpy().tofile(mask_file)
            size = tuple(maps.shape[1:])
            scores.append(output.pred_score.flatten().float())
            labels.append(item.gt_label.bool())
            categories += item.category
    shape = (len(categories), *size)
    return Recorded(
        maps=np.memmap(files["maps"], np.float32, "r", shape=shape),
        masks=np.memmap(files["masks"], bool, "r", shape=shape),
        scores=torch.cat(scores),
        labels=torch.cat(labels),
        categories=categories,
    )
