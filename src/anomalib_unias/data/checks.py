"""Check what the datamodules of the categories found on disk, without reading images."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import LabelName, is_within_directory

from anomalib_unias.compat.data import fill_missing_masks, mvtec_directory, replace_column

from .dataset import UnifiedDataset
from .errors import CategoryError, MissingMaskError

logger = logging.getLogger(__name__)

_SHOWN = 5


@contextmanager
def naming_category(category: str, datamodule: AnomalibDataModule) -> Iterator[None]:
    """Turn any error of a stock datamodule into one that names the category and the reason.

    Args:
        category (str): Name of the category.
        datamodule (AnomalibDataModule): Its datamodule.

    Raises:
        MissingMaskError: If it fails because masks and defective images do not match.
        CategoryError: If it fails for another reason.
    """
    try:
        yield
    except CategoryError:
        raise
    except Exception as error:
        raise _explain(category, datamodule, error) from error


def check_training_data(category: str, dataset: AnomalibDataset) -> None:
    """Make sure that a category can be trained on.

    Args:
        category (str): Name of the category.
        dataset (AnomalibDataset): Its training data.

    Raises:
        CategoryError: If there is no training image, or no normal one.
    """
    if not len(dataset):
        msg = f"Category {category!r} has no training images. Add normal images to it or leave it out."
        raise CategoryError(msg)
    if not dataset.has_normal:
        msg = f"Category {category!r} has no normal images among its {len(dataset)} training images. Add some."
        raise CategoryError(msg)


def resolve_masks(category: str, datasets: Iterable[AnomalibDataset]) -> None:
    """Make a category image-level only if none of its defective images has a mask.

    Args:
        category (str): Name of the category.
        datasets (Iterable[AnomalibDataset]): Its training, validation and test data; their ``samples`` may be changed.

    Raises:
        MissingMaskError: If some defective images have a mask and others do not.
    """
    datasets = list(datasets)
    for dataset in datasets:
        fill_missing_masks(dataset)
    defective = pd.concat([data.samples[data.samples.label_index == LabelName.ABNORMAL] for data in datasets])
    missing = [
        image for image, mask in zip(defective.image_path, defective.mask_path, strict=True) if not _has_mask_file(mask)
    ]
    if not missing:
        return
    if len(missing) < len(defective):
        raise _missing_masks(category, missing)
    for dataset in datasets:
        replace_column(dataset, "mask_path", "")
        dataset.samples.attrs["task"] = TaskType.CLASSIFICATION


def warn_about_evaluation(datasets: Mapping[str, AnomalibDataset], joined: UnifiedDataset) -> None:
    """Log what the metrics cannot measure on this test data, one line per reason.

    Args:
        datasets (Mapping[str, AnomalibDataset]): Test data of each category.
        joined (UnifiedDataset): The same data as one data set.
    """
    reasons = {
        "no defective test image: AUROC, AP, F1 and missed defects are undefined": lambda data: data.has_anomalous,
        "no normal test image (test_split_mode 'none' drops them): AUROC and false alarms are undefined": lambda data: (
            data.has_normal
        ),
    }
    if joined.task == TaskType.SEGMENTATION:
        reasons[
            "no masks (image-level only): the defective images carry an empty gt_mask with mask_valid=False; "
            "UnifiedEvaluator leaves them out, anomalib's own pixel metrics treat them as normal"
        ] = lambda data: not data.has_anomalous or data.task != TaskType.CLASSIFICATION
    for reason, condition in reasons.items():
        affected = [category for category, dataset in datasets.items() if not condition(dataset)]
        if affected:
            logger.warning("Categories %s have %s.", affected, reason)


def _explain(category: str, datamodule: AnomalibDataModule, error: Exception) -> CategoryError:
    directory = mvtec_directory(datamodule)
    if directory and not any((directory / "train" / "good").glob("*")):
        return CategoryError(
            f"Category {category!r} has no normal images: {directory / 'train' / 'good'} is empty or missing. Put "
            "images of good products there, check the root, or leave the category out."
        )
    missing = _images_without_mask(directory) if directory else []
    if missing:
        return _missing_masks(category, missing)
    return CategoryError(f"Category {category!r} of {type(datamodule).__name__} cannot be set up: {error}")


def _images_without_mask(directory: Path) -> list[str]:
    """Defective images in MVTec layout without a mask of a matching name.

    As in anomalib 2.7.0, a link to a file outside the data set does not count as a mask.
    """
    masks = [
        path for path in directory.glob("ground_truth/*/*") if path.is_file() and is_within_directory(directory, path)
    ]
    return sorted(
        str(image)
        for image in directory.glob("test/*/*")
        if image.parent.name != "good"
        and not any(image.stem in mask.stem for mask in masks if mask.parent.name == image.parent.name)
    )


def _has_mask_file(mask_path: object) -> bool:
    paths = [mask_path] if isinstance(mask_path, str) else mask_path
    return isinstance(paths, list) and bool(paths) and all(path and Path(path).is_file() for path in paths)


def _missing_masks(category: str, images: list[str]) -> MissingMaskError:
    more = f" and {len(images) - _SHOWN} more" if len(images) > _SHOWN else ""
    return MissingMaskError(
        f"Category {category!r} has defective images without a mask: {', '.join(images[:_SHOWN])}{more}. Add their "
        "masks, or remove all masks of the category to use it on image level only."
    )
