"""Defects that are made on normal images, from nothing but normal images."""

from .dataset import SyntheticDefect, SyntheticDefects

__all__ = ["SyntheticDefect", "SyntheticDefects"]
