"""Exported models: parity with training, and inspection on a production line."""

from anomalib_unias.deploy.errors import ExportedModelError, InspectionError, UnreadableImageError
from anomalib_unias.deploy.parity import ParityReport, ParityRow, check_export_parity
from anomalib_unias.deploy.sources import ImageSource, find_images, watch_folder
from anomalib_unias.deploy.throughput_inferencer import Inspected, ThroughputInferencer

__all__ = [
    "ExportedModelError",
    "ImageSource",
    "Inspected",
    "InspectionError",
    "ParityReport",
    "ParityRow",
    "ThroughputInferencer",
    "UnreadableImageError",
    "check_export_parity",
    "find_images",
    "watch_folder",
]
