"""Combine the datamodules of several categories into one."""

import os
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

from anomalib.data import AnomalibDataModule
from anomalib.data.utils import TestSplitMode, ValSplitMode
from lightning.pytorch.utilities.types import EVAL_DATALOADERS, TRAIN_DATALOADERS
from torch.utils.data import DataLoader

from anomalib_unias.compat.data import (
    combine_augmentations,
    image_level_folder,
    keep_synthetic_files,
    loosen_column_types,
    seeded,
    use_dataloader_test_data,
)

from .categories import check_names
from .checks import (
    check_training_data,
    naming_category,
    resolve_masks,
    warn_about_evaluation,
)
from .dataset import UnifiedDataset
from .sampling import Sampling, training_sampler

_Mode = TypeVar("_Mode", TestSplitMode, ValSplitMode)

_SUBSETS = ("train_data", "val_data", "test_data")


class CombinedDataModule(AnomalibDataModule):
    """Trains and evaluates on several ready-made datamodules, one for each category.

    Each datamodule makes its own splits and keeps its own augmentations. Batch sizes, workers and the order of the
    images are set here. Batches are :class:`~anomalib_unias.data.items.CategoryImageBatch`.

    Args:
        datamodules (dict[str, AnomalibDataModule]): Image datamodule of each category; they may be of different
            classes.
        name (str | None): Name of the data set, part of the results path. anomalib 2.7.0 keeps the pictures of two
            categories apart only if it finds this name in the path of the images. Defaults to ``None``: the class of
            the datamodules if it occurs in their path, else the directory that contains them all.
        sampling (Literal["natural", "balanced"]): Order of the training images: ``"natural"`` uses each image once per
            epoch, ``"balanced"`` draws all categories equally often. Defaults to ``"natural"``.
        train_batch_size (int): Batch size for training. Defaults to ``32``.
        eval_batch_size (int): Batch size for validation, test and prediction. Defaults to ``32``.
        num_workers (int): Number of processes that read images; 0 reads them in the main process. Defaults to ``8``.
        seed (int | None): Seed of the order of training images and of synthetic defects; the splits use the seeds of
            the datamodules. Defaults to ``None``: the global seed.

    Raises:
        ValueError: If there is no datamodule, or ``sampling`` is unknown.
        CategoryError: If a category name cannot be used: it is empty, has a path separator, or is ``mean``, ``mixed``
            or ``gap``, which are rows of the metrics.

    Example:
        >>> from anomalib.data import Folder, MVTecAD
        >>> datamodule = CombinedDataModule({
        ...     "bottle": MVTecAD(root="./datasets/MVTecAD", category="bottle"),
        ...     "lid": Folder(name="lid", root="./datasets/lid", normal_dir="good", abnormal_dir="bad"),
        ... })
        >>> datamodule.categories, datamodule.name, datamodule.category
        (['bottle', 'lid'], 'datasets', 'unified')
    """

    def __init__(
        self,
        datamodules: dict[str, AnomalibDataModule],
        name: str | None = None,
        sampling: Sampling = "natural",
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        seed: int | None = None,
    ) -> None:
        if not datamodules:
            msg = "No datamodules given. Give one for each category."
            raise ValueError(msg)
        check_names(list(datamodules))
        training_sampler(list(datamodules), sampling)  # an unknown name fails here, not when training starts
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            test_split_mode=_common_mode(part.test_split_mode for part in datamodules.values()),
            val_split_mode=_common_mode(part.val_split_mode for part in datamodules.values()),
            seed=seed,
        )
        self.datamodules = dict(datamodules)
        self.sampling = sampling
        parts = datamodules.values()
        self._name = name or data_set_name((type(part).__name__ for part in parts), _common_directory(parts))
        self.category = "unified"

    @property
    def name(self) -> str:  # type: ignore[override]  # a plain attribute in Lightning, a property in anomalib
        """Name of the data set."""
        return self._name

    @property
    def categories(self) -> list[str]:
        """Names of the categories."""
        return list(self.datamodules)

    @property
    def validates_on_test(self) -> bool:
        """Whether some category uses its test images for validation, so that thresholds are fitted on them."""
        return any(part.val_split_mode == ValSplitMode.SAME_AS_TEST for part in self.datamodules.values())

    def prepare_data(self) -> None:
        """Download or generate the data of all categories.

        Raises:
            CategoryError: If that fails for a category.
        """
        for category, part in self.datamodules.items():
            with naming_category(category, part):
                part.prepare_data()

    def train_dataloader(self) -> TRAIN_DATALOADERS:
        """Loader of the training images, in the order set by ``sampling`` and ``seed``."""
        return DataLoader(
            dataset=self.train_data,
            sampler=training_sampler(list(self.train_data.samples.category), self.sampling, self.seed),
            batch_size=self.train_batch_size,
            num_workers=self.num_workers,
            collate_fn=self.external_collate_fn or self.train_data.collate_fn,
        )

    def val_dataloader(self) -> EVAL_DATALOADERS:
        """Loader of the validation images; an empty list if no category has any, so that validation is skipped."""
        return super().val_dataloader() if hasattr(self, "val_data") else []

    def _setup(self, _stage: str | None = None) -> None:
        for category, part in self.datamodules.items():
            with naming_category(category, part):
                self.datamodules[category] = self._set_up_part(category, part, _stage)
        self.train_data = self._join("train_data")
        self.test_data = self._join("test_data")
        if any(hasattr(part, "val_data") for part in self.datamodules.values()):
            self.val_data = self._join("val_data")
        test_datasets = {category: part.test_data for category, part in self.datamodules.items()}
        warn_about_evaluation(test_datasets, self.test_data)

    def _set_up_part(self, category: str, part: AnomalibDataModule, stage: str | None) -> AnomalibDataModule:
        part = image_level_folder(category, part) or part
        loosen_column_types(part)
        with nullcontext() if self.seed is None else seeded(self.seed):
            part.setup(stage)
        use_dataloader_test_data(part)
        check_training_data(category, part.train_data)
        datasets = [getattr(part, subset) for subset in _SUBSETS if hasattr(part, subset)]
        resolve_masks(category, datasets)
        for dataset in datasets:
            keep_synthetic_files(self, dataset, category)
        return part

    def _create_test_split(self) -> None:
        """Do nothing: each datamodule splits its own data."""

    def _create_val_split(self) -> None:
        """Do nothing: each datamodule splits its own data."""

    def _update_augmentations(self) -> None:
        """Let each datamodule combine its own augmentations with the ``Resize`` of the model."""
        for part in self.datamodules.values():
            combine_augmentations(part, self.trainer)

    def _join(self, subset: str) -> UnifiedDataset:
        parts = self.datamodules.items()
        return UnifiedDataset({category: getattr(part, subset) for category, part in parts if hasattr(part, subset)})


def _common_mode(modes: Iterable[_Mode]) -> _Mode | None:
    distinct = set(modes)
    return distinct.pop() if len(distinct) == 1 else None


def data_set_name(classes: Iterable[str], directory: Path | None) -> str:
    """Choose a name for a data set that should occur in the path of its images.

    Args:
        classes (Iterable[str]): Names of the datamodule classes.
        directory (Path | None): Resolved directory that contains all images; ``None`` if there is none.

    Returns:
        str: The class name if it occurs in the path, else the name of the directory, else the class names.

    Example:
        >>> data_set_name(["Visa"], Path("/datasets/visa")), data_set_name(["Folder"], Path("/datasets/line"))
        ('Visa', 'line')
    """
    names = sorted(set(classes))
    if directory is None:
        return "+".join(names)
    if len(names) == 1 and names[0].lower() in (part.lower() for part in directory.parts):
        return names[0]
    return directory.name or "+".join(names)


def _common_directory(parts: Iterable[AnomalibDataModule]) -> Path | None:
    roots = [getattr(part, "root", None) for part in parts]
    resolved = [Path(root).resolve() for root in roots if root]
    # Different drives of Windows have no common path.
    if len(resolved) < len(roots) or len({path.anchor for path in resolved}) > 1:
        return None
    return Path(os.path.commonpath([str(path) for path in resolved]))
