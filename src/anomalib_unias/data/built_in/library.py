"""Write the images to disk, in the layout of MVTec AD."""

import json
import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from .pictures import KINDS, picture
from .products import PRODUCTS

logger = logging.getLogger(__name__)

GENERATOR_VERSION = 2
"""Increase this whenever the same recipe gives other images than before."""

RECIPE_FILE = "dataset.json"
_ABOUT = (
    "SYNTHETIC pictures of the package anomalib-unias, to try out and to test anomaly detection without a download. "
    "Results on them say nothing about real products. brick and gravel are views of photographs that scikit-image "
    "ships (by CC0Textures, public domain, CC0), and may overlap; flange and circuit_board are drawn. Defects are made "
    "from these pictures too."
)


@dataclass(frozen=True)
class Recipe:
    """Parameters that determine the images, together with the version of the generator.

    Args:
        render_seed (int): Seed of all random choices. Defaults to ``0``.
        train_good (int): Number of training images per category. Defaults to ``60``.
        test_good (int): Number of test images without a defect per category. Defaults to ``10``.
        test_defective (int): Number of test images with a defect per category, divided among the kinds of defects.
            Defaults to ``20``.
        defect_draws (int): Number of defects drawn for each image, of which the most visible one is used.
            Defaults to ``1``.

    Raises:
        ValueError: If the seed is negative, or another number is less than 1.
    """

    render_seed: int = 0
    train_good: int = 60
    test_good: int = 10
    test_defective: int = 20
    defect_draws: int = 1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            minimum = 0 if name == "render_seed" else 1
            if value < minimum:
                msg = f"{name} must be at least {minimum}, got {value}."
                raise ValueError(msg)

    @property
    def name(self) -> str:
        """Name of a folder for these images only."""
        counts = f"{self.train_good}-{self.test_good}-{self.test_defective}"
        draws = f"-plainest{self.defect_draws}" if self.defect_draws > 1 else ""
        return f"v{GENERATOR_VERSION}-seed{self.render_seed}-{counts}{draws}"

    @property
    def counts(self) -> dict[str, int]:
        """Number of images in each folder of a category, for example ``{"train/good": 60}``."""
        each, more = divmod(self.test_defective, len(KINDS))
        defective = {f"test/{kind}": each + (position < more) for position, kind in enumerate(KINDS)}
        counts = {"train/good": self.train_good, "test/good": self.test_good, **defective}
        return {folder: count for folder, count in counts.items() if count}

    def described(self) -> dict[str, Any]:
        """Content of the file that is stored with the images."""
        return {"about": _ABOUT, "generator_version": GENERATOR_VERSION, **asdict(self)}


def ensure_library(root: Path, recipe: Recipe) -> None:
    """Write the images of all categories to a folder, unless they are there already.

    They are written to a temporary folder beside ``root``, which then replaces ``root``: the data set is complete or
    missing, never half written. Existing files are never deleted.

    Args:
        root (Path): Folder of the data set; the categories are its sub-folders.
        recipe (Recipe): Parameters of the images.

    Raises:
        FileExistsError: If ``root`` has other content, also images of another recipe.
        ImportError: If scikit-image is not installed.
        NotADirectoryError: If ``root`` is a file.
    """
    root = root.resolve()
    if _holds(root, recipe):
        logger.info("Found the data set in %s.", root)
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        fresh = Path(scratch, "fresh")
        _require_free(root)
        _write(fresh, recipe)
        if _holds(root, recipe):  # Another process was faster.
            return
        _require_free(root)
        fresh.replace(root)  # replaces an empty folder too, completely or not at all
    logger.info("Wrote the data set to %s.", root)


def _holds(root: Path, recipe: Recipe) -> bool:
    try:
        return bool(json.loads((root / RECIPE_FILE).read_text(encoding="utf-8")) == recipe.described())
    except (OSError, ValueError):
        return False


def _require_free(root: Path) -> None:
    if root.exists() and not root.is_dir():
        msg = f"{root} is a file; the data set needs a folder. Choose another root."
        raise NotADirectoryError(msg)
    if root.exists() and any(root.iterdir()):
        msg = (
            f"{root} holds other files than the built-in data set that is asked for, for example "
            f"{next(root.iterdir()).name}. Nothing was changed. Choose another root, or move these files away."
        )
        raise FileExistsError(msg)


def _write(root: Path, recipe: Recipe) -> None:
    jobs = [
        (category, folder, index)
        for category in PRODUCTS
        for folder, count in recipe.counts.items()
        for index in range(count)
    ]
    for category, folder, index in track(jobs, "Drawing the built-in data set", console=Console(stderr=True)):
        drawn = picture(category, folder, index, recipe.render_seed, recipe.defect_draws)
        _save(drawn.image, root / category / folder / f"{index:03d}.png")
        kind = folder.rpartition("/")[2]
        if kind != "good":
            mask = drawn.mask.astype(np.uint8) * 255
            _save(mask, root / category / "ground_truth" / kind / f"{index:03d}_mask.png")
    (root / RECIPE_FILE).write_text(json.dumps(recipe.described(), indent=1) + "\n", encoding="utf-8")


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)
