"""Exported models: parity with training, and inspection on a production line."""

from anomalib_unias.deploy.adaptation import adapt_export
from anomalib_unias.deploy.batches import BatchInspector
from anomalib_unias.deploy.errors import ExportedModelError, InspectionError, UnreadableImageError
from anomalib_unias.deploy.inspection import run_inspection
from anomalib_unias.deploy.model_info import describe_export
from anomalib_unias.deploy.mqtt import MqttSink
from anomalib_unias.deploy.parity import ParityReport, ParityRow, check_export_parity
from anomalib_unias.deploy.sinks import Sink
from anomalib_unias.deploy.sources import ImageSource, find_images, watch_folder
from anomalib_unias.deploy.streams import watch_stream
from anomalib_unias.deploy.throughput_inferencer import Inspected, ThroughputInferencer
from anomalib_unias.deploy.webhook import WebhookSink

__all__ = [
    "BatchInspector",
    "ExportedModelError",
    "ImageSource",
    "Inspected",
    "InspectionError",
    "MqttSink",
    "ParityReport",
    "ParityRow",
    "Sink",
    "ThroughputInferencer",
    "UnreadableImageError",
    "WebhookSink",
    "adapt_export",
    "check_export_parity",
    "describe_export",
    "find_images",
    "run_inspection",
    "watch_folder",
    "watch_stream",
]
