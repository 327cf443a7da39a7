"""Features of a frozen network, computed once and kept in a file."""

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from anomalib.data import AnomalibDataset, ImageBatch, ImageItem
from anomalib.data.utils import LabelName
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from rich.progress import track
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from .items import CategoryImageBatch, CategoryImageItem

logger = logging.getLogger(__name__)

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
_CHUNK = 2**24


class FeatureCacheError(RuntimeError):
    """Features that cannot be kept: no space, or values that half precision cannot hold."""


@dataclass
class FeatureItem(CategoryImageItem):
    """A training image of which only the features are needed.

    Attributes:
        features: The features of all levels in one row ``(N,)``, half precision; ``image`` is a placeholder.
    """

    features: torch.Tensor | None = None


@dataclass
class FeatureBatch(CategoryImageBatch):
    """A batch of :class:`FeatureItem`.

    Attributes:
        features: ``(B, N)``, half precision.
    """

    item_class = FeatureItem
    features: torch.Tensor | None = None


class FeatureDataset(AnomalibDataset):
    """Reads the features of a data set of normal images from a file instead of its images.

    Args:
        dataset (AnomalibDataset): The data set whose features these are.
        features (np.ndarray): ``(len(dataset), N)``, half precision, possibly memory-mapped.
    """

    def __init__(self, dataset: AnomalibDataset, features: np.ndarray) -> None:
        super().__init__(augmentations=dataset.augmentations)
        self.images = dataset
        self._features = features
        self._samples = dataset.samples

    @property
    def collate_fn(self) -> Callable[[list[ImageItem]], ImageBatch]:
        """Function that makes a :class:`FeatureBatch` of a list of items."""
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
    """Put the maps of all levels into one row per image.

    Args:
        features (Sequence[torch.Tensor]): ``(B, C_l, H_l, W_l)`` for each level.

    Returns:
        torch.Tensor: ``(B, N)``.
    """
    return torch.cat([feature.flatten(1) for feature in features], dim=1)


def is_deterministic(dataset: AnomalibDataset) -> bool:
    """Tell whether an image of the data set is the same each time that it is read.

    Args:
        dataset (AnomalibDataset): Also one of several categories.

    Returns:
        bool: Whether all transforms are known to draw no random numbers.
    """
    parts: Iterable[AnomalibDataset] = getattr(dataset, "datasets", {"": dataset}).values()
    return all(_is_fixed(part.augmentations) for part in parts)


def _is_fixed(transform: Any) -> bool:
    if transform is None:
        return True
    if isinstance(transform, v2.Compose):
        return all(_is_fixed(step) for step in transform.transforms)
    return isinstance(transform, _FIXED_TRANSFORMS)


def cached_features(
    dataset: AnomalibDataset,
    extract: Callable[[torch.Tensor], Sequence[torch.Tensor]],
    identity: str,
    *,
    folder: Path | None,
    batch_size: int = 16,
    num_workers: int = 0,
) -> FeatureDataset:
    """Compute the features of all images, or take them from the file that an earlier run has left.

    The file belongs to these images (path, size and time of change of each), these transforms and ``identity``;
    when one of them changes, another file is made. A damaged file is made anew.

    Args:
        dataset (AnomalibDataset): Data set without random transforms.
        extract (Callable[[torch.Tensor], Sequence[torch.Tensor]]): Features of images ``(B, 3, H, W)`` in [0, 1].
        identity (str): What else the features depend on: weights, normalisation.
        folder (Path | None): Where files are kept; ``None`` keeps the features in memory.
        batch_size (int): Images at a time. Defaults to ``16``.
        num_workers (int): Processes that read images. Defaults to ``0``.

    Returns:
        FeatureDataset: The data set with features for images.

    Raises:
        FeatureCacheError: If the features do not fit on the disk, or not into half precision.
    """
    if folder is None:
        length = _length(dataset, extract)
        array = np.empty((len(dataset), length), np.float16)
        _announce(array, "in memory")
        _fill(array, dataset, extract, batch_size, num_workers)
        return FeatureDataset(dataset, array)

    path = folder / f"{_key(dataset, identity)}.npy"
    stored = _open(path)
    if stored is None or len(stored) != len(dataset):
        _build(path, dataset, extract, batch_size, num_workers)
        stored = _open(path)
    else:
        rank_zero_info("Frozen features of %d images come from %s.", len(dataset), path)
    return FeatureDataset(dataset, cast("np.ndarray", stored))


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


def _key(dataset: AnomalibDataset, identity: str) -> str:
    digest = hashlib.sha256(identity.encode())
    for part in getattr(dataset, "datasets", {"": dataset}).values():
        digest.update(repr(part.augmentations).encode())
    for image_path in dataset.samples.image_path:
        stat = Path(image_path).stat()
        digest.update(f"{Path(image_path).resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _length(dataset: AnomalibDataset, extract: Callable[[torch.Tensor], Sequence[torch.Tensor]]) -> int:
    image = cast("torch.Tensor", dataset[0].image)
    return flatten_features(extract(image.unsqueeze(0))).shape[1]


def _announce(array: np.ndarray, where: str) -> None:
    rank_zero_info("Keeping the frozen features of %d images %s: %.0f MB.", len(array), where, array.nbytes / 1e6)


def _build(
    path: Path,
    dataset: AnomalibDataset,
    extract: Callable[[torch.Tensor], Sequence[torch.Tensor]],
    batch_size: int,
    num_workers: int,
) -> None:
    length = _length(dataset, extract)
    path.parent.mkdir(parents=True, exist_ok=True)
    needed, free = 2 * length * len(dataset), shutil.disk_usage(path.parent).free
    if needed > 0.9 * free:
        msg = f"The features need {needed / 1e9:.1f} GB in {path.parent}, where {free / 1e9:.1f} GB are free."
        raise FeatureCacheError(msg)
    # Several processes may build the same file at the same time; the last one wins, with the same content.
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        array = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float16, shape=(len(dataset), length))
        _announce(array, f"in {path}")
        _fill(array, dataset, extract, batch_size, num_workers)
        array.flush()
        _checksum_path(path).write_text(json.dumps({"crc32": _checksum(array)}))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@torch.no_grad()
def _fill(
    array: np.ndarray,
    dataset: AnomalibDataset,
    extract: Callable[[torch.Tensor], Sequence[torch.Tensor]],
    batch_size: int,
    num_workers: int,
) -> None:
    loader = DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=dataset.collate_fn)
    start = 0
    for batch in track(loader, description="Frozen features"):
        rows = flatten_features(extract(batch.image)).half().cpu()
        if not torch.isfinite(rows).all():
            msg = f"The features of {batch.image_path} do not fit into half precision, or are not finite."
            raise FeatureCacheError(msg)
        array[start : start + len(rows)] = rows.numpy()
        start += len(rows)


def _open(path: Path) -> np.ndarray | None:
    try:
        array = np.load(path, mmap_mode="r")
        expected = json.loads(_checksum_path(path).read_text())["crc32"]
    except (OSError, ValueError, KeyError):
        return None
    if _checksum(array) != expected:
        logger.warning("%s is damaged; its features are computed again.", path)
        return None
    return array


def _checksum_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _checksum(array: np.ndarray) -> int:
    value = 0
    for rows in np.array_split(array, max(1, array.nbytes // _CHUNK)):
        value = zlib.crc32(rows.tobytes(), value)
    return value
