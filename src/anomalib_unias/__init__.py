"""Unified anomaly segmentation for anomalib: one model, one threshold, no class label.

Names are imported when they are first used (PEP 562): importing this package alone
imports neither torch nor anomalib.
"""

from importlib import import_module

__version__ = "0.1.0"

_EXPORTS = {
    "CategoryImageBatch": "anomalib_unias.data.items",
    "CategoryImageItem": "anomalib_unias.data.items",
    "CombinedDataModule": "anomalib_unias.data.combined",
    "OrderPreservingPostProcessor": "anomalib_unias.post_processing",
    "SyntheticProducts": "anomalib_unias.data.synthetic",
    "UniAS": "anomalib_unias.models.unias",
    "UniASModel": "anomalib_unias.models.unias",
    "UnifiedDataModule": "anomalib_unias.data.unified",
    "UnifiedEvaluator": "anomalib_unias.metrics",
}

__all__ = [
    "CategoryImageBatch",
    "CategoryImageItem",
    "CombinedDataModule",
    "OrderPreservingPostProcessor",
    "SyntheticProducts",
    "UniAS",
    "UniASModel",
    "UnifiedDataModule",
    "UnifiedEvaluator",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
