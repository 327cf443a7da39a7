"""The data set that is built in: products and defects made by a program, no download."""

from pathlib import Path

from anomalib.data.datamodules.image.mvtecad import MVTecAD
from anomalib.data.utils import TestSplitMode, ValSplitMode
from anomalib.utils.path import resolve_dataset_root
from torchvision.transforms.v2 import Transform

from .built_in.library import Recipe, ensure_library
from .built_in.products import PRODUCTS


class SyntheticProducts(MVTecAD):
    """Four synthetic products with synthetic defects, made on the first use.

    For trying things out and for tests: results on them say nothing about real products. The textures ``brick`` and
    ``gravel`` are views of photographs that scikit-image ships; ``circuit_board`` and ``flange`` are drawn. Position,
    light, focus and noise vary. The defects are those of :class:`~.synthetic_defects.SyntheticDefects`, by shape:
    ``large``, ``patch``, ``piece``, ``spot``, ``stroke``; many are small or of low contrast.

    The pictures are RGB, 256x256, in the layout of MVTec AD, so that ``MVTecAD(root=..., category=...)``
    reads them too. The same ``render_seed`` gives the same files, byte by byte, on the same machine
    with the same versions of the libraries. All categories are written at once.

    Args:
        root: Folder of the data set. Written if it is missing or empty, an error if it holds anything else.
            Defaults to ``None``: a folder for this recipe below anomalib's cache of data sets.
        category: One of ``CATEGORIES``.
            Defaults to ``"brick"``.
        train_batch_size: Training batch size.
            Defaults to ``8``.
        eval_batch_size: Validation and test batch size.
            Defaults to ``8``.
        num_workers: Number of processes that load images.
            Defaults to ``0``.
        train_augmentations: Augmentations of the training images.
            Defaults to ``None``.
        val_augmentations: Augmentations of the validation images.
            Defaults to ``None``.
        test_augmentations: Augmentations of the test images.
            Defaults to ``None``.
        augmentations: Augmentations where none are given for the stage.
            Defaults to ``None``.
        test_split_mode: How the test set is made.
            Defaults to ``TestSplitMode.FROM_DIR``.
        test_split_ratio: Share of the training images for testing, if there are no test images.
            Defaults to ``0.2``.
        val_split_mode: How the validation set is made.
            Defaults to ``ValSplitMode.SAME_AS_TEST``.
        val_split_ratio: Share of the images for validation.
            Defaults to ``0.5``.
        seed: Seed of the splits.
            Defaults to ``None``.
        render_seed: Seed of the pictures.
            Defaults to ``0``.
        train_good: Number of training images per category.
            Defaults to ``60``.
        test_good: Number of test images without a defect per category.
            Defaults to ``10``.
        test_defective: Number of test images with a defect per category.
            Defaults to ``20``.
        defect_draws: Defects that are drawn for an image, of which the plainest is taken; more make an easier data set.
            Defaults to ``1``.

    Raises:
        ValueError: The category is not known, or a number of images is not positive.

    Example:
        >>> from anomalib_unias.data import SyntheticProducts
        >>> SyntheticProducts.CATEGORIES
        ('brick', 'circuit_board', 'flange', 'gravel')
        >>> datamodule = SyntheticProducts(category="flange")
        >>> datamodule.category
        'flange'
    """

    CATEGORIES: tuple[str, ...] = tuple(PRODUCTS)

    def __init__(
        self,
        root: Path | str | None = None,
        category: str = "brick",
        train_batch_size: int = 8,
        eval_batch_size: int = 8,
        num_workers: int = 0,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
        render_seed: int = 0,
        train_good: int = 60,
        test_good: int = 10,
        test_defective: int = 20,
        defect_draws: int = 1,
    ) -> None:
        if category not in self.CATEGORIES:
            msg = f"Unknown category {category!r}. Choose one of: {', '.join(self.CATEGORIES)}."
            raise ValueError(msg)
        self.recipe = Recipe(render_seed, train_good, test_good, test_defective, defect_draws)
        super().__init__(
            root=resolve_dataset_root(root, f"SyntheticProducts/{self.recipe.name}"),
            category=category,
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Make all categories, unless they are there already.

        Raises:
            FileExistsError: ``root`` holds anything else, pictures of another recipe too. It is left alone.
            ImportError: scikit-image is not installed.
            NotADirectoryError: ``root`` is a file.
        """
        ensure_library(self.root, self.recipe)
