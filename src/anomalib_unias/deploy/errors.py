"""Errors of exported models."""

from anomalib_unias.data.errors import UnreadableImageError

__all__ = ["ExportedModelError", "InspectionError", "UnreadableImageError"]


class ExportedModelError(ValueError):
    """A file is not an exported model of anomalib that can inspect images one by one."""


class InspectionError(ValueError):
    """An inspection cannot begin: its files get in the way of each other, or what it should go on with is damaged."""
