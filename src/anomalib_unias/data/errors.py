"""Errors about the data of a category."""


class CategoryError(ValueError):
    """A category cannot be used: unknown, given twice, empty, or without normal images."""


class MissingMaskError(CategoryError):
    """Some, but not all, defective images of a category have a mask."""


class UnreadableImageError(OSError):
    """An image or mask file is damaged, or in a format that would be read wrongly."""


class MaskSizeError(ValueError):
    """A mask has another size than its image."""


class HeldOutError(ValueError):
    """There are too few normal images to hold some out of the training."""
