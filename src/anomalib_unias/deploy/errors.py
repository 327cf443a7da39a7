"""Errors of exported models."""


class UnreadableImageError(RuntimeError):
    """An image is missing, is broken, or is not what the model takes."""


class ExportedModelError(ValueError):
    """A file is not an exported model of anomalib that can inspect images one by one."""
