"""Keeps the rendered pictures on the disk, in the layout of MVTec AD."""

import json
import logging
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from .photographs import require_skimage
from .sample import SCENES, render

logger = logging.getLogger(__name__)

GENERATOR_VERSION = 1
"""To be raised whenever the same recipe gives other pictures than before."""

NAME = "anomalib-unias SyntheticProducts"
METADATA_FILE = "dataset.json"
README_FILE = "README.txt"

README = """\
SyntheticProducts, generator version {generator_version}, seed {render_seed}

These pictures are SYNTHETIC. They were drawn by a program, the package anomalib-unias, to try out
and to test anomaly detection without a download. Results on them say nothing about real products
and cannot be compared with published results on MVTec AD, VisA or other real data.

brick, gravel    views of two photographs that scikit-image ships (by CC0Textures, public domain, CC0),
                 tinted stone by stone and lit anew; the defects are drawn. Training and test pictures
                 are different views of the same photograph and may overlap.
circuit_board,   rendered from scratch as reliefs with colour and gloss, in varying position, light,
flange           focus and noise.

Layout, as in MVTec AD:
    <category>/train/good/000.png
    <category>/test/good/000.png, <category>/test/<kind of defect>/000.png
    <category>/ground_truth/<kind of defect>/000_mask.png

Every picture with a defect was rendered twice, without and with it, under the same noise. The mask
(255) is where the two differ; outside of it they are equal, bit by bit.

{metadata_file} holds the recipe and the list of all files. The folder is replaced when the same place
is asked for with another recipe, but only if it holds no other files.
"""


@dataclass(frozen=True)
class Recipe:
    """What decides the pictures, next to the version of the generator.

    Args:
        render_seed: Seed of everything that chance decides.
        train_good: Number of training pictures of each category.
        test_good: Number of test pictures without a defect of each category.
        test_defective: Number of test pictures with a defect of each category, shared among the kinds of defects.
        defect_draws: Defects that are drawn for a picture, of which the plainest is taken.

    Raises:
        ValueError: A number is negative, or there is nothing to train or to test with.
    """

    render_seed: int = 0
    train_good: int = 60
    test_good: int = 10
    test_defective: int = 20
    defect_draws: int = 1

    def __post_init__(self) -> None:
        smallest = {"render_seed": 0, "train_good": 1, "test_good": 1, "test_defective": 1, "defect_draws": 1}
        for name, least in smallest.items():
            if (given := getattr(self, name)) < least:
                msg = f"{name} must be at least {least}, got {given}."
                raise ValueError(msg)

    @property
    def name(self) -> str:
        """Name of a folder for these pictures only."""
        counts = f"{self.train_good}-{self.test_good}-{self.test_defective}"
        draws = f"-plainest{self.defect_draws}" if self.defect_draws > 1 else ""
        return f"v{GENERATOR_VERSION}-seed{self.render_seed}-{counts}{draws}"

    def counts(self, category: str) -> dict[str, int]:
        """Return the number of pictures in each folder of a category, for example ``{"train/good": 60}``."""
        kinds = sorted(SCENES[category].defects)
        each, more = divmod(self.test_defective, len(kinds))
        defective = {f"test/{kind}": each + (place < more) for place, kind in enumerate(kinds)}
        counts = {"train/good": self.train_good, "test/good": self.test_good, **defective}
        return {folder: count for folder, count in counts.items() if count}

    def metadata(self) -> dict[str, Any]:
        """Return what is stored beside the pictures."""
        return {
            "name": NAME,
            "generator_version": GENERATOR_VERSION,
            **asdict(self),
            "counts": {category: self.counts(category) for category in SCENES},
        }


def ensure_library(root: Path, recipe: Recipe) -> None:
    """Render all categories into a folder, unless the same pictures are there already.

    The pictures are written to a temporary folder beside ``root``, which then takes its place: there
    is never half a data set. A folder with the pictures of another recipe is replaced; a folder that
    holds anything else is left alone.

    Args:
        root: Folder of the data set; the categories are its sub-folders.
        recipe: Which pictures to render.

    Raises:
        FileExistsError: ``root`` holds files that are not pictures of this data set.
        ImportError: scikit-image is not installed.
        NotADirectoryError: ``root`` is a file.
    """
    root = root.resolve()
    if _is_complete(root, recipe):
        logger.info("Found the data set in %s.", root)
        return
    _refuse_foreign_files(root)
    require_skimage()
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        fresh = Path(scratch, "fresh")
        _write(fresh, recipe)
        if _is_complete(root, recipe):  # Another process was faster.
            return
        if root.exists():
            root.rename(Path(scratch, "old"))
        fresh.rename(root)
    logger.info("Wrote the data set to %s.", root)


def _is_complete(root: Path, recipe: Recipe) -> bool:
    metadata = _read_metadata(root)
    if metadata is None or any(metadata.get(key) != value for key, value in recipe.metadata().items()):
        return False
    return all((root / file).is_file() for file in metadata["files"])


def _read_metadata(root: Path) -> dict[str, Any] | None:
    """Return the metadata of a data set that this program wrote; None if there is none or it is damaged."""
    try:
        metadata = json.loads((root / METADATA_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(metadata, dict) and metadata.get("name") == NAME and isinstance(metadata.get("files"), list)
    return metadata if ours else None


def _refuse_foreign_files(root: Path) -> None:
    """Raise an error if replacing ``root`` would delete anything that this program did not write."""
    if root.exists() and not root.is_dir():
        msg = f"{root} is a file; the data set needs a folder. Choose another root."
        raise NotADirectoryError(msg)
    metadata = _read_metadata(root)
    ours = set(metadata["files"]) if metadata else set()
    foreign = sorted({path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()} - ours)
    if foreign:
        msg = (
            f"{root} holds {len(foreign)} files that do not belong to the built-in data set, for example {foreign[0]}. "
            "Nothing was changed. Choose another root, or move these files away."
        )
        raise FileExistsError(msg)
    if ours:
        logger.warning("Replacing the data set in %s: it was rendered from another recipe, or is incomplete.", root)


def _write(root: Path, recipe: Recipe) -> None:
    jobs = [
        (category, folder, index)
        for category in SCENES
        for folder, count in recipe.counts(category).items()
        for index in range(count)
    ]
    files = [METADATA_FILE, README_FILE]
    console = Console(stderr=True)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
        written = threads.map(partial(_write_sample, root, recipe), jobs)
        for paths in track(written, "Rendering the built-in data set", total=len(jobs), console=console):
            files.extend(paths)
    metadata = recipe.metadata()
    readme = README.format(**metadata, metadata_file=METADATA_FILE)
    (root / README_FILE).write_text(readme, encoding="utf-8")
    libraries = {name: version(name) for name in ("numpy", "pillow", "scikit-image")}
    metadata["rendered_with"] = {**libraries, "opencv": cv2.__version__}
    metadata["files"] = sorted(files)
    (root / METADATA_FILE).write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")


def _write_sample(root: Path, recipe: Recipe, job: tuple[str, str, int]) -> list[str]:
    """Write one picture, and its mask if it has a defect; return their paths relative to ``root``."""
    category, folder, index = job
    sample = render(category, folder, index, recipe.render_seed, recipe.defect_draws)
    kind = folder.rpartition("/")[2]
    pictures = {f"{category}/{folder}/{index:03d}.png": sample.image}
    if kind != "good":
        pictures[f"{category}/ground_truth/{kind}/{index:03d}_mask.png"] = sample.mask.astype(np.uint8) * 255
    for file, picture in pictures.items():
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, compress_level=1)
    return list(pictures)
