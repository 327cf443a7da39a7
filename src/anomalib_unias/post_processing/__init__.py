"""Post-processors for anomalib models."""

from anomalib_unias.post_processing.cada import CadaPostProcessor
from anomalib_unias.post_processing.calibration import MissingCalibrationError
from anomalib_unias.post_processing.calibration_data import CalibrationDataError
from anomalib_unias.post_processing.encoders import FeatureLayerError
from anomalib_unias.post_processing.order_preserving import OrderPreservingPostProcessor
from anomalib_unias.post_processing.published import CategoryNeededError

__all__ = [
    "CadaPostProcessor",
    "CalibrationDataError",
    "CategoryNeededError",
    "FeatureLayerError",
    "MissingCalibrationError",
    "OrderPreservingPostProcessor",
]
