"""Runs a trained model on normal images and collects the data that a calibration is fitted to."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from anomalib.data import AnomalibDataset, ImageBatch, InferenceBatch
from anomalib.data.utils import LabelName
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Subset

from .calibration import image_scores
from .clusters import image_descriptors
from .regression import shrink

_PIXELS = 1001


class CalibrationDataError(ValueError):
    """The data or the model do not allow a calibration: there are no normal images, for example, or no anomaly maps."""


@dataclass
class CalibrationData:
    """Features, anomaly-map statistics and scores of normal images.

    Attributes:
        descriptors: Mean features ``(N, D)``, float32.
        statistics: Mean, maximum, standard deviation and minimum of the anomaly map, ``(N, 4)``, float32.
        scores: Image scores ``(N,)``, float32.
        categories: Category of each image, or ``None`` if the data set has none.
        unseen: Which images the model was not trained on, ``(N,)`` bool.
        maps: Deepest feature maps, see :func:`shrink`, ``(N, C, H, W)``, float16; ``None`` if they are not kept.
        pixels: Pixels of the anomaly map, see :func:`pixel_sample`, ``(N, P)``, float32; ``None`` if they are not kept.
    """

    descriptors: Tensor
    statistics: Tensor
    scores: Tensor
    categories: list[str] | None
    unseen: Tensor
    maps: Tensor | None = None
    pixels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.statistics)

    @property
    def trusted(self) -> Tensor:
        """Images whose statistics are used as targets, ``(N,)`` bool: the unseen ones, or all if none is unseen."""
        return self.unseen if self.unseen.any() else torch.ones_like(self.unseen)

    def __add__(self, other: "CalibrationData") -> "CalibrationData":
        """Concatenate two sets of images of one model."""
        both = self.categories is not None and other.categories is not None
        return CalibrationData(
            descriptors=torch.cat([self.descriptors, other.descriptors]),
            statistics=torch.cat([self.statistics, other.statistics]),
            scores=torch.cat([self.scores, other.scores]),
            categories=[*(self.categories or ()), *(other.categories or ())] if both else None,
            unseen=torch.cat([self.unseen, other.unseen]),
            maps=_both(self.maps, other.maps),
            pixels=_both(self.pixels, other.pixels),
        )


def _both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return torch.cat([first, second]) if first is not None and second is not None else None


@dataclass
class _Row:
    index: int
    descriptor: Tensor
    statistics: Tensor
    score: Tensor
    category: str | None
    map: Tensor | None
    pixels: Tensor | None


ModelOutput = tuple[Sequence[Tensor], InferenceBatch]


def collect(
    dataset: AnomalibDataset,
    like: DataLoader,
    run: Callable[[ImageBatch], ModelOutput],
    *,
    unseen: bool,
    keep_maps: bool,
    keep_pixels: bool,
    rank: int = 0,
    processes: int = 1,
    progress: Callable[[DataLoader], Iterable[ImageBatch]] = iter,
) -> CalibrationData:
    """Run a model on the normal images of a data set.

    Args:
        dataset (AnomalibDataset): Images; defective ones are left out.
        like (DataLoader): Loader whose batch size, workers and collate function are used.
        run (Callable[[ImageBatch], ModelOutput]): Computes the features and the output for a batch.
        unseen (bool): Whether the model was not trained on these images.
        keep_maps (bool): Whether to keep the deepest feature maps.
        keep_pixels (bool): Whether to keep pixels of the anomaly maps.
        rank (int): Index of this process. Defaults to ``0``.
        processes (int): Number of processes that share the work; all of them get all results. Defaults to ``1``.
        progress (Callable[[DataLoader], Iterable[ImageBatch]]): Shows the progress. Defaults to showing nothing.

    Returns:
        CalibrationData: In the order of the data set, whatever the number of processes.

    Raises:
        CalibrationDataError: If there is no normal image, no anomaly map, or a map that is not finite.
    """
    normal = [index for index, label in enumerate(dataset.samples.label_index) if label == LabelName.NORMAL]
    if not normal:
        msg = (
            f"CADA calibrates with normal images, and none of the {len(dataset)} images of {dataset.name} is labelled "
            "normal. Add normal images or choose other targets."
        )
        raise CalibrationDataError(msg)
    indices = normal[rank::processes]
    loader = DataLoader(
        Subset(dataset, indices),
        batch_size=like.batch_size,
        num_workers=like.num_workers,
        collate_fn=like.collate_fn,
    )
    rows: list[_Row] = []
    for batch in progress(loader):
        paths = batch.image_path
        features, output = run(batch)
        pixels = pixel_sample(output) if keep_pixels else None
        rows += _rows(
            indices[len(rows) :], paths, features, output, getattr(batch, "category", None), keep_maps, pixels
        )
    return _join(_gather(rows, processes), unseen=unseen)


def _rows(
    indices: Sequence[int],
    paths: Sequence[str] | None,
    features: Sequence[Tensor],
    output: InferenceBatch,
    categories: Sequence[str] | None,
    keep_maps: bool,
    pixels: Tensor | None,
) -> list[_Row]:
    statistics, scores = map_statistics(output).cpu(), image_scores(output).cpu()
    if not torch.isfinite(statistics).all():
        broken = [path for path, row in zip(paths or (), statistics, strict=False) if not torch.isfinite(row).all()]
        msg = f"The anomaly maps of {broken or 'some images'} are not finite: the model has not been trained well."
        raise CalibrationDataError(msg)
    descriptors = image_descriptors(features).cpu()
    pooled = shrink(features[-1]).half().cpu() if keep_maps else None
    return [
        _Row(
            index=indices[i],
            # Not a view, which would send its whole batch to other processes.
            descriptor=descriptors[i].clone(),
            statistics=statistics[i].clone(),
            score=scores[i].clone(),
            category=categories[i] if categories else None,
            map=pooled[i].clone() if pooled is not None else None,
            pixels=pixels[i].clone() if pixels is not None else None,
        )
        for i in range(len(statistics))
    ]


def map_statistics(output: InferenceBatch) -> Tensor:
    """Compute mean, maximum, standard deviation and minimum of anomaly maps.

    Args:
        output (InferenceBatch): Output with maps ``(B, 1, H, W)`` or ``(B, H, W)``.

    Returns:
        Tensor: ``(B, 4)``, float32.

    Raises:
        CalibrationDataError: If there are no maps.
    """
    if output.anomaly_map is None:
        msg = "The model gives no anomaly map, which CADA calibrates. Use a model that localises defects."
        raise CalibrationDataError(msg)
    pixels = output.anomaly_map.flatten(1).float()
    return torch.stack([pixels.mean(dim=1), pixels.amax(dim=1), pixels.std(dim=1), pixels.amin(dim=1)], dim=1)


def pixel_sample(output: InferenceBatch) -> Tensor:
    """Select pixels of anomaly maps, evenly spaced by rank, from the highest to the lowest score.

    Args:
        output (InferenceBatch): Output with maps ``(B, 1, H, W)`` or ``(B, H, W)``.

    Returns:
        Tensor: ``(B, P)``, float32, on the CPU; P is 1,001, or the number of pixels if that is smaller.
    """
    pixels = cast("Tensor", output.anomaly_map).flatten(1).float().sort(dim=1, descending=True).values
    ranks = torch.linspace(0, pixels.shape[1] - 1, min(_PIXELS, pixels.shape[1])).round().long()
    return pixels[:, ranks.to(pixels.device)].cpu()


def _gather(rows: list[_Row], processes: int) -> list[_Row]:
    if processes == 1:
        return rows
    gathered: list[list[_Row]] = [[] for _ in range(processes)]
    distributed.all_gather_object(gathered, rows)
    return sorted((row for part in gathered for row in part), key=lambda row: row.index)


def _join(rows: Sequence[_Row], *, unseen: bool) -> CalibrationData:
    categories = [row.category for row in rows if row.category is not None]
    maps = [row.map for row in rows if row.map is not None]
    pixels = [row.pixels for row in rows if row.pixels is not None]
    return CalibrationData(
        descriptors=torch.stack([row.descriptor for row in rows]),
        statistics=torch.stack([row.statistics for row in rows]),
        scores=torch.stack([row.score for row in rows]),
        categories=categories if len(categories) == len(rows) else None,
        unseen=torch.full((len(rows),), unseen),
        maps=torch.stack(maps) if maps else None,
        pixels=torch.stack(pixels) if pixels else None,
    )


def evaluated_like(dataset: AnomalibDataset, example: AnomalibDataset | None) -> AnomalibDataset:
    """Copy a set of training images with the transform of evaluation images.

    Args:
        dataset (AnomalibDataset): Training images, perhaps with random augmentations.
        example (AnomalibDataset | None): Evaluation images whose transform is used; ``None`` changes nothing.

    Returns:
        AnomalibDataset: A copy.
    """
    dataset = copy.deepcopy(dataset)
    if example is not None:
        dataset.augmentations = example.augmentations
    return dataset


def normal_images(dataset: AnomalibDataset) -> AnomalibDataset:
    """Select the normal images of a data set."""
    return dataset.subsample(np.flatnonzero(dataset.samples.label_index == LabelName.NORMAL).tolist())


def at_most(count: int, dataset: AnomalibDataset, seed: int) -> AnomalibDataset:
    """Limit a data set to ``count`` images, drawn at random."""
    if len(dataset) <= count:
        return dataset
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    return dataset.subsample(order[:count].sort().values.tolist())
