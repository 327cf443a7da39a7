"""Pre-processing that is the same in training and after export."""

from anomalib_unias.pre_processing.conversion import exportable_transform, make_exportable
from anomalib_unias.pre_processing.resize import ExportableResize, interpolation_matrix, resize_by_matrices

__all__ = [
    "ExportableResize",
    "exportable_transform",
    "interpolation_matrix",
    "make_exportable",
    "resize_by_matrices",
]
