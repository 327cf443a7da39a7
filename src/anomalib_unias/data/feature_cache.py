"""Features of a frozen network, computed once and stored in a file."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from anomalib.data import AnomalibDataset, ImageBatch, ImageItem
from anomalib.data.utils import LabelName
from anomalib.pre_processing import PreProcessor
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from rich.progress import track
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from .feature_files import (
    FeatureCacheError,
    find_rows,
    image_identity,
    open_features,
    remove_unfinished,
    write_features,
)
from .items import CategoryImageBatch, CategoryImageItem

Extract = Callable[[torch.Tensor], Sequence[torch.Tensor]]

_FIXED_TRANSFORMS = (
    v2.Resize,
    v2.CenterCrop,
    v2.Pad,
    v2.Normalize,
    v2.Grayscale,
    v2.ToDtype,
    v2.ToImage,
    v2.Identity,
)


@dataclass
class FeatureItem(CategoryImageItem):
    """A training image of which only the features are used; ``image`` is a placeholder.

    Attributes:
        features (torch.Tensor | None): Features of all levels in one row ``(N,)``, half precision.
            Defaults to ``None``.
    """

    features: torch.Tensor | None = None


@dataclass
class FeatureBatch(CategoryImageBatch):
    """A batch of :class:`FeatureItem`.

    Attributes:
        features (torch.Tensor | None): ``(B, N)``, half precision. Defaults to ``None``.
    """

    item_class = FeatureItem
    features: torch.Tensor | None = None


class FeatureDataset(AnomalibDataset):
    """A data set that gives stored features of normal images instead of the images.

    Args:
        dataset (AnomalibDataset): Data set that the features were computed from.
        features (np.ndarray): ``(len(dataset), N)``, half precision, possibly memory-mapped.
    """

    def __init__(self, dataset: AnomalibDataset, features: np.ndarray) -> None:
        super().__init__(augmentations=dataset.augmentations)
        self.images = dataset
        self._features = features
        self._samples = dataset.samples

    @property
    def collate_fn(self) -> Callable[[list[ImageItem]], ImageBatch]:
        """Function that makes a :class:`FeatureBatch` from a list of items."""
        return FeatureBatch.collate

    def __getitem__(self, index: int) -> FeatureItem:
        """Read the features of one image.

        Args:
            index (int): Row in ``samples``.

        Returns:
            FeatureItem: Features, label, path and category.
        """
        sample = self.samples.iloc[index]
        return FeatureItem(
            image=torch.zeros(3, 1, 1),
            gt_label=torch.tensor(int(sample.label_index == LabelName.ABNORMAL)),
            image_path=sample.image_path,
            category=sample.get("category", ""),
            features=torch.from_numpy(np.array(self._features[index])),
        )


def flatten_features(features: Sequence[torch.Tensor]) -> torch.Tensor:
    """Flatten the feature maps of all levels into one row per image.

    Args:
        features (Sequence[torch.Tensor]): Feature maps ``(B, C_l, H_l, W_l)`` of each level.

    Returns:
        torch.Tensor: ``(B, N)``.
    """
    return torch.cat([feature.flatten(1) for feature in features], dim=1)


def is_deterministic(dataset: AnomalibDataset, pre_processor: nn.Module | None = None) -> bool:
    """Tell whether a model gets the same input each time an image is read.

    Args:
        dataset (AnomalibDataset): Data set of one or several categories.
        pre_processor (nn.Module | None): Pre-processor of the model. Defaults to ``None``: the model has none.

    Returns:
        bool: Whether all transforms are known to draw no random numbers.
    """
    parts: Iterable[AnomalibDataset] = getattr(dataset, "datasets", {"": dataset}).values()
    # A pre-processor of another class may do anything.
    fixed = pre_processor is None or (type(pre_processor) is PreProcessor and _is_fixed(pre_processor.transform))
    return fixed and all(_is_fixed(part.augmentations) for part in parts)


def _is_fixed(transform: Any) -> bool:
    if transform is None:
        return True
    if isinstance(transform, v2.Compose):
        return all(_is_fixed(step) for step in transform.transforms)
    return isinstance(transform, _FIXED_TRANSFORMS)


def cached_features(
    dataset: AnomalibDataset,
    extract: Extract,
    identity: str,
    *,
    folder: Path | None,
    limit: float | None = None,
    batch_size: int = 16,
    num_workers: int = 0,
) -> FeatureDataset:
    """Compute the features of all images, or read them from the files of earlier runs.

    Stored features are reused while the image (path, size, times of change and some bytes), its transforms and
    ``identity`` stay the same. If some images are new or have changed, only their features are computed, and a new file
    is written. A damaged file is written again.

    Args:
        dataset (AnomalibDataset): Data set without random transforms.
        extract (Callable[[torch.Tensor], Sequence[torch.Tensor]]): Computes the feature maps ``(B, C_l, H_l, W_l)`` of
            all levels from images ``(B, 3, H, W)`` in [0, 1].
        identity (str): What else the features depend on: weights, normalisation.
        folder (Path | None): Folder of the files; ``None`` keeps the features in memory.
        limit (float | None): Largest size in GB. Defaults to ``None``: no limit in memory, nine tenths of the free
            space on disk.
        batch_size (int): Number of images at a time. Defaults to ``16``.
        num_workers (int): Number of processes that read images. Defaults to ``0``.

    Returns:
        FeatureDataset: The data set with features instead of images.

    Raises:
        FeatureCacheError: If the features exceed the limit or the space on disk, if half precision cannot hold them,
            or if the folder cannot be written.
    """
    compute = partial(_rows, dataset, extract, batch_size=batch_size, num_workers=num_workers)
    if folder is None:
        shape = (len(dataset), _length(dataset, extract))
        _check_size(shape, "in memory", limit)
        array = np.empty(shape, np.float16)
        start = 0
        for rows in compute(range(len(dataset))):
            array[start : start + len(rows)] = rows
            start += len(rows)
        return FeatureDataset(dataset, array)

    remove_unfinished(folder)
    keys = _keys(dataset, identity)
    path = folder / f"{hashlib.sha256(b''.join(keys)).hexdigest()[:32]}.npy"
    stored = open_features(path, len(dataset))
    if stored is None:
        cached = find_rows(folder, keys)
        length = len(next(iter(cached.values()))) if cached else _length(dataset, extract)
        _check_size((len(dataset), length), f"in {path}", limit)
        if cached:
            rank_zero_info("Those of %d images are read from earlier files.", sum(key in cached for key in keys))
        write_features(path, keys, length, _in_order(keys, cached, compute))
        stored = open_features(path, len(dataset))
    else:
        rank_zero_info("Frozen features of %d images are read from %s.", len(dataset), path)
    if stored is None:
        msg = f"The features that were just written to {path} cannot be read."
        raise FeatureCacheError(msg)
    return FeatureDataset(dataset, stored)


def weights_identity(module: nn.Module) -> str:
    """Digest of the weights of a network.

    Args:
        module (nn.Module): The network.

    Returns:
        str: Hexadecimal digest.
    """
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def _keys(dataset: AnomalibDataset, identity: str) -> list[bytes]:
    """Digest of everything that the features of an image depend on, 32 bytes per image."""
    parts: Mapping[str, AnomalibDataset] = getattr(dataset, "datasets", {"": dataset})
    common = {category: f"{identity}|{part.augmentations!r}|".encode() for category, part in parts.items()}
    categories = dataset.samples.category if len(common) > 1 else [next(iter(common))] * len(dataset)
    return [
        hashlib.sha256(common[category] + image_identity(Path(image_path))).digest()
        for category, image_path in zip(categories, dataset.samples.image_path, strict=True)
    ]


def _in_order(
    keys: Sequence[bytes], cached: Mapping[bytes, np.ndarray], compute: Callable[[list[int]], Iterator[np.ndarray]]
) -> Iterator[np.ndarray]:
    """Features of all images in order, ``(1, N)`` each; those that are not known are computed."""
    computed = chain.from_iterable(compute([index for index, key in enumerate(keys) if key not in cached]))
    for key in keys:
        yield (cached[key] if key in cached else next(computed))[None]


def _length(dataset: AnomalibDataset, extract: Extract) -> int:
    image = cast("torch.Tensor", dataset[0].image)
    return flatten_features(extract(image.unsqueeze(0))).shape[1]


def _check_size(shape: tuple[int, int], location: str, limit: float | None) -> None:
    """Log the size of the features before they are computed, and refuse a size above the limit."""
    size = 2e-9 * shape[0] * shape[1]
    if limit is not None and size > limit:
        msg = f"The features of {shape[0]} images need {size:.3g} GB, the limit of the cache is {limit:g} GB."
        raise FeatureCacheError(msg)
    rank_zero_info("Storing the frozen features of %d images %s: %.3g GB.", shape[0], location, size)


@torch.no_grad()
def _rows(
    dataset: AnomalibDataset, extract: Extract, indices: Sequence[int], *, batch_size: int, num_workers: int
) -> Iterator[np.ndarray]:
    """Features of some images, ``(B, N)`` at a time, half precision."""
    chosen = Subset(dataset, indices)
    loader = DataLoader(chosen, batch_size, num_workers=num_workers, collate_fn=dataset.collate_fn)
    for batch in track(loader, description="Frozen features"):
        rows = flatten_features(extract(batch.image)).half().cpu()
        if not torch.isfinite(rows).all():
            msg = f"The features of {batch.image_path} do not fit into half precision, or are not finite."
            raise FeatureCacheError(msg)
        yield rows.numpy()
