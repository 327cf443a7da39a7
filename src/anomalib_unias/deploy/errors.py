"""Errors of exported models."""

from anomalib_unias.data.errors import UnreadableImageError

__all__ = ["ExportedModelError", "InspectionError", "UnreadableImageError"]


class ExportedModelError(ValueError):
    """A file is not an exported model of anomalib that can inspect images one by one."""


class InspectionError(ValueError):
    """An inspection cannot begin, because of its arguments, a missing package or a damaged file of results."""
