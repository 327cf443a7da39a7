"""One datamodule for many categories, and the built-in data set.

Names are imported when they are first used (PEP 562).
"""

from importlib import import_module

_EXPORTS = {
    "SyntheticProducts": "anomalib_unias.data.synthetic",
    "UnifiedDataModule": "anomalib_unias.data.unified",
}

__all__ = ["SyntheticProducts", "UnifiedDataModule"]


def __getattr__(name: str) -> object:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
