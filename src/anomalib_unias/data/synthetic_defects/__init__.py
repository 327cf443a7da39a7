"""Synthetic defects on normal images, made from normal images alone."""

from .dataset import SyntheticDefect, SyntheticDefects

__all__ = ["SyntheticDefect", "SyntheticDefects"]
