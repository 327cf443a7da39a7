"""Metrics for many categories at once, in bounded memory, and the evaluator that reports them."""

from anomalib_unias.metrics.evaluator import UnifiedEvaluator
from anomalib_unias.metrics.pixel_metrics import PIXEL_METRICS, PixelMetrics, PixelTable, pixel_metrics
from anomalib_unias.metrics.thresholds import F1Threshold, FalseAlarmThreshold
from anomalib_unias.metrics.unified_results import METRICS, UnifiedResults, image_metrics, summarize

__all__ = [
    "METRICS",
    "PIXEL_METRICS",
    "F1Threshold",
    "FalseAlarmThreshold",
    "PixelMetrics",
    "PixelTable",
    "UnifiedEvaluator",
    "UnifiedResults",
    "image_metrics",
    "pixel_metrics",
    "summarize",
]
