"""Unified anomaly segmentation for anomalib: one model, one threshold, no class labels.

Names are imported when they are first used (PEP 562): importing this package alone
imports neither torch nor anomalib.
"""

from importlib import import_module

__version__ = "0.1.0"

_EXPORTS = {
    "CadaPostProcessor": "anomalib_unias.post_processing",
    "CategoryImageBatch": "anomalib_unias.data.items",
    "CategoryImageItem": "anomalib_unias.data.items",
    "CombinedDataModule": "anomalib_unias.data.combined",
    "EvaluationReport": "anomalib_unias.report",
    "ExportableResize": "anomalib_unias.pre_processing",
    "OrderPreservingPostProcessor": "anomalib_unias.post_processing",
    "ReContrast": "anomalib_unias.models.recontrast",
    "ReContrastLite": "anomalib_unias.models.recontrast",
    "ReContrastModel": "anomalib_unias.models.recontrast",
    "SyntheticDefects": "anomalib_unias.data.synthetic_defects",
    "SyntheticProducts": "anomalib_unias.data.synthetic",
    "ThroughputInferencer": "anomalib_unias.deploy",
    "UniAD": "anomalib_unias.models.uniad",
    "UniADLite": "anomalib_unias.models.uniad",
    "UniADModel": "anomalib_unias.models.uniad",
    "UniAS": "anomalib_unias.models.unias",
    "UniASLite": "anomalib_unias.models.unias",
    "UniASModel": "anomalib_unias.models.unias",
    "UnifiedDataModule": "anomalib_unias.data.unified",
    "UnifiedEvaluator": "anomalib_unias.metrics",
    "assemble": "anomalib_unias.assembly",
    "check_export_parity": "anomalib_unias.deploy",
    "make_exportable": "anomalib_unias.pre_processing",
}

__all__ = [
    "CadaPostProcessor",
    "CategoryImageBatch",
    "CategoryImageItem",
    "CombinedDataModule",
    "EvaluationReport",
    "ExportableResize",
    "OrderPreservingPostProcessor",
    "ReContrast",
    "ReContrastLite",
    "ReContrastModel",
    "SyntheticDefects",
    "SyntheticProducts",
    "ThroughputInferencer",
    "UniAD",
    "UniADLite",
    "UniADModel",
    "UniAS",
    "UniASLite",
    "UniASModel",
    "UnifiedDataModule",
    "UnifiedEvaluator",
    "__version__",
    "assemble",
    "check_export_parity",
    "make_exportable",
]


def __getattr__(name: str) -> object:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
