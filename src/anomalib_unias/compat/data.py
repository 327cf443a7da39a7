"""Datamodules and data sets of anomalib."""

import random
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anomalib.data import MPDD, AnomalibDataModule, AnomalibDataset, Folder, MVTecAD, Tabular, Visa
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng


def set_up_for_test(datamodule: AnomalibDataModule) -> None:
    """Set a datamodule up as the trainer of a test would.

    After any other set-up, anomalib 2.7.0 draws random splits again.

    Args:
        datamodule (AnomalibDataModule): Datamodule whose data exist.
    """
    datamodule.setup(TrainerFn.TESTING)


def mvtec_directory(datamodule: AnomalibDataModule) -> Path | None:
    """Find the directory of a category in MVTec layout.

    Args:
        datamodule (AnomalibDataModule): Datamodule of a category.

    Returns:
        Path | None: The directory; ``None`` for datamodules of other layouts.
    """
    if isinstance(datamodule, Visa):
        return Path(datamodule.split_root) / datamodule.category
    return Path(datamodule.root) / datamodule.category if isinstance(datamodule, MVTecAD | MPDD) else None


def image_level_folder(category: str, datamodule: AnomalibDataModule) -> Folder | None:
    """Replace the datamodule of a category in MVTec layout that has defective images but no mask at all.

    anomalib 2.7.0 cannot read such a category as ``MVTecAD``, ``Visa`` or ``MPDD``: it assigns the masks it found to
    the defective images and stops when the numbers differ.

    Args:
        category (str): Name of the category.
        datamodule (AnomalibDataModule): Its datamodule.

    Returns:
        Folder | None: The same images with the same splits; ``None`` if the datamodule can be used as it is.
    """
    directory = mvtec_directory(datamodule)
    if directory is None:
        return None
    tests = sorted(path for path in (directory / "test").glob("*") if path.is_dir() and any(path.iterdir()))
    defects = [f"test/{path.name}" for path in tests if path.name != "good"]
    if not defects or any(path.is_file() for path in (directory / "ground_truth").rglob("*")):
        return None
    return Folder(
        name=category,
        root=directory,
        normal_dir="train/good",
        abnormal_dir=defects,
        normal_test_dir="test/good" if len(tests) > len(defects) else None,
        train_augmentations=datamodule.train_augmentations,
        val_augmentations=datamodule.val_augmentations,
        test_augmentations=datamodule.test_augmentations,
        test_split_mode=datamodule.test_split_mode,
        test_split_ratio=datamodule.test_split_ratio,
        val_split_mode=datamodule.val_split_mode,
        val_split_ratio=datamodule.val_split_ratio,
        seed=datamodule.seed,
    )


def loosen_column_types(datamodule: AnomalibDataModule) -> None:
    """Let the table of a ``Tabular`` datamodule have mask paths relative to a root.

    anomalib 2.7.0 writes ``Path`` objects into the column ``mask_path`` of ``Tabular``. It fails if pandas 3 has read
    the table from a file, because the column then holds strings only.

    Args:
        datamodule (AnomalibDataModule): Datamodule of a category; a ``Tabular`` one is changed.
    """
    if isinstance(datamodule, Tabular):
        datamodule._unprocessed_samples = pd.DataFrame(datamodule._unprocessed_samples).astype(object)


def use_dataloader_test_data(datamodule: AnomalibDataModule) -> None:
    """Set the test data of a datamodule to those of its test loader.

    ``MVTecAD2`` of anomalib 2.7.0 chooses its test set in ``test_dataloader``; its ``test_data`` differ.

    Args:
        datamodule (AnomalibDataModule): Datamodule that is set up; its ``test_data`` may be replaced.
    """
    if type(datamodule).test_dataloader is not AnomalibDataModule.test_dataloader:
        datamodule.test_data = datamodule.test_dataloader().dataset


def fill_missing_masks(dataset: AnomalibDataset) -> None:
    """Replace missing mask paths by empty strings.

    With pandas 3 they are NaN in ``MVTecAD2`` of anomalib 2.7.0, which then cannot read a normal image.

    Args:
        dataset (AnomalibDataset): Data set; its ``samples`` are changed.
    """
    replace_column(dataset, "mask_path", dataset.samples.mask_path.fillna(""))


def replace_column(dataset: AnomalibDataset, name: str, values: pd.Series | str) -> None:
    """Replace a column of the data frame of a data set and keep its task.

    anomalib 2.7.0 keeps the task in the attributes of the data frame, and setting ``samples`` loses it.

    Args:
        dataset (AnomalibDataset): Data set to change.
        name (str): Name of the column.
        values (pd.Series | str): New values, or one for all rows.
    """
    task = dataset.task
    dataset.samples = dataset.samples.assign(**{name: values})
    dataset.samples.attrs["task"] = task


def text_of_mask_path(path: Any) -> str:
    """Convert the path of a mask to a string.

    anomalib 2.7.0 collates a mix of paths and ``None`` to the string ``"None"``.

    Args:
        path (Any): Path or ``None``.

    Returns:
        str: The path; empty if there is none.
    """
    return str(path or "")


def keep_synthetic_files(owner: object, dataset: AnomalibDataset, category: str) -> None:
    """Keep the temporary files of synthetic defects as long as another object exists.

    In anomalib 2.7.0 any copy of such a data set deletes the files when it is deleted itself, even in a worker process.
    Their directory gets the name of the category, because anomalib names pictures after the directory of the image,
    which is the same for all categories.

    Args:
        owner (object): Object; the files are deleted together with it.
        dataset (AnomalibDataset): Data set; changed if it is one of synthetic defects.
        category (str): Name of the category.
    """
    if not isinstance(dataset, SyntheticAnomalyDataset):
        return
    dataset._cleanup = False
    before, after = dataset.im_dir, dataset.root / f"{category}_synthetic"
    if before.exists():
        before.rename(after)
        weakref.finalize(owner, shutil.rmtree, dataset.root, ignore_errors=True)
    paths = dataset.samples.image_path.str.replace(str(before), str(after), regex=False)
    replace_column(dataset, "image_path", paths)
    dataset.im_dir = after


def combine_augmentations(datamodule: AnomalibDataModule, trainer: Trainer | None) -> None:
    """Let a datamodule combine its augmentations with the ``Resize`` of the model, as it does when a trainer uses it.

    anomalib 2.7.0 does so in a private function, and for the model of its own trainer.

    Args:
        datamodule (AnomalibDataModule): Datamodule that is set up and part of another one.
        trainer (Trainer | None): Trainer of that other datamodule.
    """
    datamodule.trainer = trainer
    datamodule._update_augmentations()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that anomalib 2.7.0 uses for synthetic defects, and restore them afterwards.

    Args:
        seed (int): Seed for Python, NumPy and torch.

    Yields:
        None: Nothing.
    """
    with isolate_rng(include_cuda=False):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # pandas' sample and anomalib's generator use it
        torch.manual_seed(seed)
        yield
