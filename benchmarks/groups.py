"""Groups of products; one model is trained for each group."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomalib_unias import UnifiedDataModule

_BUILT_IN = {"datamodule": "SyntheticProducts", "datamodule_args": {"test_good": 40, "test_defective": 40}}


@dataclass(frozen=True)
class Group:
    """Products for which one model is trained.

    Args:
        name (str): Name in the tables.
        root (Path | None): Folder with categories in the layout of MVTec AD. ``None`` for the built-in products.
        categories (tuple[str, ...]): Names of the categories. Defaults to ``()``: all.
        train_images (int | None): Number of training images of each category, the first ones by name. Defaults to
            ``None``: all.
    """

    name: str
    root: Path | None
    categories: tuple[str, ...] = ()
    train_images: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Group":
        """Read ``NAME=DIR``, ``NAME=DIR:category,category``, or either with ``@4`` for four training images of each.

        Args:
            text (str): Text from the command line.

        Returns:
            Group: A group whose folders exist.

        Raises:
            argparse.ArgumentTypeError: If the text has another form, or a folder is missing.

        Example:
            >>> Group.parse("mine=src")
            Group(name='mine', root=PosixPath('src'), categories=(), train_images=None)
            >>> Group.parse("few=src@4").train_images
            4
        """
        name, equals, location = text.partition("=")
        location, at, number = location.partition("@")
        folder, _, names = location.partition(":")
        if not (name and equals and folder) or (at and not (number.isdigit() and int(number) > 0)):
            msg = f"expected NAME=DIR or NAME=DIR:category,category, and @NUMBER of training images, got {text!r}"
            raise argparse.ArgumentTypeError(msg)
        group = cls(name, Path(folder), tuple(filter(None, names.split(","))), int(number) if at else None)
        for path in (group.root, *(Path(folder) / category for category in group.categories)):
            if not path.is_dir():
                msg = (
                    f"group {name!r}: {path} is not a folder; expected categories in the layout of MVTec AD in {folder}"
                )
                raise argparse.ArgumentTypeError(msg)
        return group

    def arguments(self) -> dict[str, Any]:
        """Get the arguments of ``UnifiedDataModule`` that select the images, as plain values."""
        data: dict[str, Any] = {"datamodule": "MVTecAD", "root": str(self.root.resolve())} if self.root else _BUILT_IN
        return {**data, "categories": list(self.categories) or "all"}

    def datamodule(self, seed: int, train_batch_size: int = 8) -> UnifiedDataModule:
        """Build a datamodule with all images of the group.

        Args:
            seed (int): Seed of the order of the training images.
            train_batch_size (int): Batch size in training. Defaults to ``8``.

        Returns:
            UnifiedDataModule: Not set up yet.
        """
        return _FewImages(
            self.train_images,
            **self.arguments(),
            train_batch_size=train_batch_size,
            eval_batch_size=16,
            num_workers=0,
            seed=seed,
        )


class _FewImages(UnifiedDataModule):
    """A datamodule that uses only the first training images of each category."""

    def __init__(self, train_images: int | None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.train_images = train_images

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        if self.train_images is not None:
            self.train_data.samples = self.train_data.samples.groupby("category").head(self.train_images)


BUILT_IN = Group("built_in", None)
