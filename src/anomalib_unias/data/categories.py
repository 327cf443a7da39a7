"""Find the categories of a data set, and build the stock datamodule of each one."""

import inspect
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anomalib.data
from anomalib.data import AnomalibDataModule, UnknownDatamoduleError
from anomalib.data.datamodules import image as image_datamodules

from anomalib_unias.metrics.unified_results import SUMMARY_ROWS

from .errors import CategoryError

logger = logging.getLogger(__name__)

_ALL = "all"
# Separators, control characters, and bytes that are not UTF-8.
_NOT_IN_NAMES = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]")


def check_names(names: Sequence[str]) -> None:
    """Refuse category names that cannot be rows of the metrics table or names of folders.

    Args:
        names (Sequence[str]): Names of the categories.

    Raises:
        CategoryError: If there is no name, or a name is given twice, empty, reserved, or not a single folder name.
        TypeError: If a name is not a string.

    Example:
        >>> check_names(["bottle", "cable"])
    """
    if not names:
        msg = "No category given. Name at least one, or 'all'."
        raise CategoryError(msg)
    for name in names:
        _check_name(name)
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        msg = f"Categories given more than once: {repeated}. Each one may be given once."
        raise CategoryError(msg)


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        msg = f"Category names must be strings, got {name!r}. Quote it in YAML: '01'."
        raise TypeError(msg)
    if not name.strip():
        msg = f"Empty category name {name!r}. Name a category, or 'all'."
        raise CategoryError(msg)
    if name in SUMMARY_ROWS:
        msg = (
            f"A category cannot be called {name!r}: the rows {', '.join(SUMMARY_ROWS)} of the metrics are about all "
            "categories. Rename its folder, or give CombinedDataModule another name for it."
        )
        raise CategoryError(msg)
    if name in {".", ".."} or _NOT_IN_NAMES.search(name):
        msg = (
            f"Category name {name!r} is no name of a single folder: expected one in UTF-8 without '/', '\\' and "
            "control characters, not '.' or '..'. A folder elsewhere is given by a root, also in category_args."
        )
        raise CategoryError(msg)


def datamodule_class(name: str) -> type[AnomalibDataModule]:
    """Find a datamodule class by name.

    Args:
        name (str): Class in ``anomalib.data`` (``"MVTecAD"``, ``"Visa"``, ``"Folder"``, ...) or in this package
            (``"SyntheticProducts"``), or a dotted path to any other datamodule class.

    Returns:
        type[AnomalibDataModule]: The class.

    Raises:
        UnknownDatamoduleError: If there is no such class.
        ModuleNotFoundError: If the module of a dotted path does not exist.
        TypeError: If the class is not an image datamodule.
    """
    module_name, _, class_name = name.rpartition(".")
    modules = [import_module(module_name)] if module_name else [anomalib.data, import_module(__package__ or "")]
    found = next((getattr(module, class_name) for module in modules if hasattr(module, class_name)), None)
    if found is None:
        msg = (
            f"No datamodule {name!r}. Choose one of {sorted(image_datamodules.__all__)}, 'SyntheticProducts', or give "
            "the dotted path of your own class."
        )
        raise UnknownDatamoduleError(msg)
    if not (isinstance(found, type) and issubclass(found, AnomalibDataModule)) or _is_video_or_depth(found):
        msg = f"{name!r} is not an anomalib image datamodule. Choose one of {sorted(image_datamodules.__all__)}."
        raise TypeError(msg)
    return found


def resolve_categories(
    datamodule: type[AnomalibDataModule],
    requested: Sequence[str] | str,
    root: Path | str | None = None,
    elsewhere: Sequence[str] = (),
) -> list[str]:
    """Check the requested categories, or list them all.

    Args:
        datamodule (type[AnomalibDataModule]): Class of the datamodule.
        requested (Sequence[str] | str): Names, one name, or ``"all"`` for every category found in the root. If the
            root has none yet (data sets that are downloaded or generated later), ``"all"`` means those that the
            datamodule knows.
        root (Path | str | None): Root of the data set. Defaults to ``None``: the default of the datamodule.
        elsewhere (Sequence[str]): Categories with a directory of their own; they need not be in the root.
            Defaults to ``()``.

    Returns:
        list[str]: The names, in the requested order.

    Raises:
        CategoryError: If there is no category, or a category is given twice, unknown, or has an unusable name.
        TypeError: If a name is not a string.
    """
    found = _find_categories(datamodule, root)
    known = _known_categories(datamodule)
    if requested == _ALL:
        categories = found or known
        if not categories:
            msg = (
                f"No category of {datamodule.__name__} found in {_root_of(datamodule, root)}: expected one directory "
                "for each category. Check the root or name the categories."
            )
            raise CategoryError(msg)
        check_names(categories)
        logger.info("Categories of %s: %s.", datamodule.__name__, ", ".join(categories))
        return categories
    names = [requested] if isinstance(requested, str) else list(requested)
    check_names(names)
    _check_known(datamodule, names, {*found, *known, *elsewhere}, _root_of(datamodule, root))
    return names


def build_datamodule(
    datamodule: type[AnomalibDataModule],
    category: str,
    root: Path | str | None,
    arguments: Mapping[str, Any],
) -> AnomalibDataModule:
    """Create the datamodule of one category.

    A class with an argument ``category`` gets the name of the category and the root. For any other class (``Folder``,
    ``Datumaro``, ...) a category is a data set of its own in the directory ``root/category``.

    Args:
        datamodule (type[AnomalibDataModule]): Class of the datamodule.
        category (str): Name of the category.
        root (Path | str | None): Root of the data set; ``None`` for the default of the datamodule.
        arguments (Mapping[str, Any]): Further arguments; they override ``root`` and ``category``.

    Returns:
        AnomalibDataModule: The datamodule, not set up yet.

    Raises:
        TypeError: If the class does not take one of the arguments, or a required argument is missing.
    """
    parameters = inspect.signature(datamodule).parameters
    values = dict(arguments)
    if "category" in parameters:
        values.setdefault("category", category)
    elif "name" in parameters:
        values.setdefault("name", category)
    if root is not None:
        values.setdefault("root", root if "category" in parameters else Path(root) / category)
    unknown = sorted(set(values) - set(parameters))
    if unknown:
        msg = f"{datamodule.__name__} takes no argument {', '.join(unknown)}. It takes {', '.join(parameters)}."
        raise TypeError(msg)
    return datamodule(**values)


def _is_video_or_depth(datamodule: type) -> bool:
    return datamodule.__module__.startswith(("anomalib.data.datamodules.video", "anomalib.data.datamodules.depth"))


def _root_of(datamodule: type[AnomalibDataModule], root: Path | str | None) -> Path | None:
    if root is None:
        root = getattr(inspect.signature(datamodule).parameters.get("root"), "default", None)
    return Path(root) if isinstance(root, str | Path) else None


def _find_categories(datamodule: type[AnomalibDataModule], root: Path | str | None) -> list[str]:
    """List the categories on disk.

    If the class has an argument ``category``: directories with a ``train`` folder or a name that the datamodule knows,
    in the root or in the folders where ``Visa`` and ``RealIAD`` keep them. Otherwise: all directories of the root.
    """
    directory = _root_of(datamodule, root)
    if directory is None or not directory.is_dir():
        return []
    if "category" not in inspect.signature(datamodule).parameters:
        return sorted(path.name for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    known = _known_categories(datamodule)
    candidates = [path for pattern in ("*", "visa_pytorch/*", "realiad_*/*") for path in directory.glob(pattern)]
    return sorted({path.name for path in candidates if (path / "train").is_dir() or path.name in known})


def _known_categories(datamodule: type[AnomalibDataModule]) -> list[str]:
    """Category names that the class lists itself, or that anomalib lists in the module of its data set."""
    declared = getattr(datamodule, "CATEGORIES", None)
    if declared is not None:
        return list(declared)
    for base in datamodule.__mro__:
        dataset_module = base.__module__.replace(".datamodules.image.", ".datasets.image.")
        if dataset_module != base.__module__ and find_spec(dataset_module):
            return list(getattr(import_module(dataset_module), "CATEGORIES", []))
    return []


def _check_known(datamodule: type[AnomalibDataModule], names: list[str], known: set[str], root: Path | None) -> None:
    unknown = [name for name in names if name not in known]
    # Without a root and without a list there is nothing to compare with; a wrong name fails at set-up.
    if not unknown or not known:
        return
    hints = [match for name in unknown for match in get_close_matches(name, known, n=1)]
    hint = f" Did you mean {hints}?" if hints else ""
    msg = f"Unknown categories {unknown} of {datamodule.__name__} in {root}. There are {sorted(known)}.{hint}"
    raise CategoryError(msg)
