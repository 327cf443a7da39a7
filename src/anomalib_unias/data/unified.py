"""One datamodule for several categories of a data set, given by name, for the command line and YAML files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomalib.data.utils import TestSplitMode, ValSplitMode
from omegaconf import OmegaConf
from torchvision.transforms.v2 import Transform

from .categories import build_datamodule, datamodule_class, resolve_categories
from .combined import CombinedDataModule, data_set_name
from .errors import CategoryError
from .sampling import Sampling


class UnifiedDataModule(CombinedDataModule):
    """Trains and evaluates on several categories of one data set at once.

    Builds one stock datamodule for each category and joins them, see :class:`CombinedDataModule`. The constructor lists
    folders only, ``setup`` lists the images, and an image is read when it is used.

    Args:
        datamodule (str): Class in ``anomalib.data`` (``"MVTecAD"``, ``"Visa"``, ``"BTech"``, ``"MPDD"``, ``"RealIAD"``,
            ``"Folder"``, ...), ``"SyntheticProducts"``, or a dotted path. Defaults to ``"MVTecAD"``.
        categories (Sequence[str] | str): Names of the categories, or ``"all"`` for every one found in the root. Quote
            numbers (``"01"``). Defaults to ``"all"``.
        root (Path | str | None): Root of the data set. For classes without a ``category`` argument (``Folder``,
            ``Datumaro``) each category is the directory ``root/<category>``. Defaults to ``None``: the default of the
            datamodule.
        datamodule_args (dict[str, Any] | None): Further arguments of the datamodule, the same for all categories.
            Defaults to ``None``.
        category_args (dict[str, dict[str, Any]] | None): Further arguments for single categories; they override all
            others. Defaults to ``None``.
        sampling (Literal["natural", "balanced"]): Order of the training images: ``"natural"`` uses each image once per
            epoch, ``"balanced"`` draws all categories equally often. Defaults to ``"natural"``.
        train_batch_size (int): Batch size for training. Defaults to ``32``.
        eval_batch_size (int): Batch size for validation, test and prediction. Defaults to ``32``.
        num_workers (int): Number of processes that read images; 0 reads them in the main process. Defaults to ``8``.
        train_augmentations (Transform | None): Augmentations of training images. Defaults to ``None``.
        val_augmentations (Transform | None): Augmentations of validation images. Defaults to ``None``.
        test_augmentations (Transform | None): Augmentations of test images. Defaults to ``None``.
        augmentations (Transform | None): Augmentations where the three above are not given. Defaults to ``None``.
        test_split_mode (TestSplitMode | str | None): How each category gets its test images. Defaults to ``None``: the
            default of the datamodule.
        test_split_ratio (float | None): Fraction of the images of each category for the test set, if that is split off.
            Defaults to ``None``: the default of the datamodule.
        val_split_mode (ValSplitMode | str | None): How each category gets its validation images. Defaults to ``None``:
            the default of the datamodule, which is the test set itself for most of them.
        val_split_ratio (float | None): Fraction of the images of each category for the validation set. Defaults to
            ``None``: the default of the datamodule.
        seed (int | None): Seed of the splits and of the order of training images. The split of a category does not
            depend on the other categories. Defaults to ``None``.

    Raises:
        UnknownDatamoduleError: If there is no such datamodule.
        CategoryError: If there is no category, or a category is given twice, unknown, or has an unusable name.
        TypeError: If an argument does not fit the datamodule.

    Example:
        >>> datamodule = UnifiedDataModule("MVTecAD", ["bottle", "cable"], root="./datasets/MVTecAD")
        >>> datamodule.categories, datamodule.name, datamodule.category
        (['bottle', 'cable'], 'MVTecAD', 'unified')
    """

    def __init__(
        self,
        datamodule: str = "MVTecAD",
        categories: Sequence[str] | str = "all",
        root: Path | str | None = None,
        datamodule_args: dict[str, Any] | None = None,
        category_args: dict[str, dict[str, Any]] | None = None,
        sampling: Sampling = "natural",
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str | None = None,
        test_split_ratio: float | None = None,
        val_split_mode: ValSplitMode | str | None = None,
        val_split_ratio: float | None = None,
        seed: int | None = None,
    ) -> None:
        part_class = datamodule_class(datamodule)
        per_category: dict[str, dict[str, Any]] = _plain(category_args) or {}
        elsewhere = [category for category, arguments in per_category.items() if "root" in arguments]
        names = resolve_categories(part_class, _plain(categories), root, elsewhere)
        _check_category_args(per_category, names)
        shared = {
            "train_augmentations": train_augmentations,
            "val_augmentations": val_augmentations,
            "test_augmentations": test_augmentations,
            "augmentations": augmentations,
            "test_split_mode": test_split_mode,
            "test_split_ratio": test_split_ratio,
            "val_split_mode": val_split_mode,
            "val_split_ratio": val_split_ratio,
            "seed": seed,
        }
        shared = {name: value for name, value in shared.items() if value is not None} | (_plain(datamodule_args) or {})
        super().__init__(
            {name: build_datamodule(part_class, name, root, shared | per_category.get(name, {})) for name in names},
            name=data_set_name([part_class.__name__], Path(root).resolve()) if root and not elsewhere else None,
            sampling=sampling,
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
        )


def _plain(value: Any) -> Any:
    """Convert OmegaConf values, which the benchmark pipeline passes, to plain lists and dictionaries."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _check_category_args(per_category: Mapping[str, Any], names: Sequence[str]) -> None:
    unknown = sorted(set(per_category) - set(names))
    if unknown:
        msg = f"category_args names {unknown}, which are not among the categories {list(names)}."
        raise CategoryError(msg)
