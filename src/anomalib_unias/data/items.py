"""Image items and batches that know the category of each image."""

import warnings
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from anomalib.data import ImageBatch, ImageItem, NumpyImageBatch, NumpyImageItem

from anomalib_unias.compat.data import text_of_mask_path


@dataclass
class NumpyCategoryImageItem(NumpyImageItem):
    """NumPy version of :class:`CategoryImageItem`.

    Attributes:
        category (str): Name of the category. Defaults to ``""``.
        mask_valid (bool): Whether ``gt_mask`` may be used as pixel ground truth. Defaults to ``True``.
    """

    category: str = ""
    mask_valid: bool = True


@dataclass
class NumpyCategoryImageBatch(NumpyImageBatch):
    """NumPy version of :class:`CategoryImageBatch`.

    Attributes:
        category (list[str] | None): Name of the category of each image, length ``B``. Defaults to ``None``.
        mask_valid (np.ndarray | None): Boolean array ``(B,)``. Defaults to ``None``.
    """

    item_class: ClassVar[type[NumpyCategoryImageItem]] = NumpyCategoryImageItem

    category: list[str] | None = None
    mask_valid: torch.Tensor | None = None


@dataclass
class CategoryImageItem(ImageItem):
    """One image, its ground truth and its category.

    Attributes:
        category (str): Name of the category, e.g. ``"bottle"``. Defaults to ``""``.
        mask_valid (bool): Whether ``gt_mask`` may be used as pixel ground truth. ``True`` for normal images (their
            mask is truly zero) and for defective images with a mask; ``False`` for a defective image without a mask,
            whose ``gt_mask`` is a placeholder of zeros. Defaults to ``True``.

    Example:
        >>> item = CategoryImageItem(image=torch.rand(3, 8, 8), gt_label=torch.tensor(0), category="bottle")
        >>> item.category, item.mask_valid
        ('bottle', True)
    """

    numpy_class: ClassVar[type[NumpyImageItem]] = NumpyCategoryImageItem

    category: str = ""
    mask_valid: bool = True

    def __post_init__(self) -> None:
        """Turn the 0-d tensor that iterating over a batch yields into a ``bool``."""
        self.mask_valid = bool(self.mask_valid)

    @staticmethod
    def validate_mask_path(mask_path: str | None) -> str:
        """Convert a mask path to a string, empty if there is none."""
        return text_of_mask_path(mask_path)


@dataclass
class CategoryImageBatch(ImageBatch):
    """A batch whose images may come from different categories.

    Attributes:
        category (list[str] | None): Name of the category of each image, length ``B``. Defaults to ``None``.
        mask_valid (torch.Tensor | None): Boolean tensor ``(B,)``, see :class:`CategoryImageItem`. Pixel metrics leave
            out the images where it is ``False``. Defaults to ``None``.

    Example:
        >>> items = [CategoryImageItem(image=torch.rand(3, 8, 8), category=name) for name in ("bottle", "cable")]
        >>> batch = CategoryImageBatch.collate(items)
        >>> batch.category, batch.mask_valid.tolist(), [item.category for item in batch]
        (['bottle', 'cable'], [True, True], ['bottle', 'cable'])
    """

    item_class: ClassVar[type[ImageItem]] = CategoryImageItem
    numpy_class: ClassVar[type[NumpyImageBatch]] = NumpyCategoryImageBatch

    category: list[str] | None = None
    mask_valid: torch.Tensor | None = None

    @classmethod
    def collate(cls, items: list[ImageItem]) -> "CategoryImageBatch":
        """Make one batch of several items; images of different sizes are resized to the largest, with a warning.

        anomalib puts the ``Resize`` of the model's pre-processor into the data set. So sizes differ only if the model
        has no ``Resize``, or one that does not fix both sides.

        Args:
            items (list[ImageItem]): :class:`CategoryImageItem` with images ``(3, H, W)`` in [0, 1].

        Returns:
            CategoryImageBatch: The batch, images ``(B, 3, H, W)``.
        """
        sizes = {tuple(item.image.shape[-2:]): item.image_path for item in items if item.image is not None}
        if len(sizes) > 1:
            examples = ", ".join(f"{height}x{width} ({path})" for (height, width), path in sizes.items())
            warnings.warn(
                f"One batch holds images of different sizes: {examples}. They are resized to the largest one, so the "
                "size of the model's input depends on the batch. Give the model's pre-processor, or the datamodule's "
                "augmentations, a Resize with a fixed height and width.",
                stacklevel=2,
            )
        return cast("CategoryImageBatch", super().collate(items))
