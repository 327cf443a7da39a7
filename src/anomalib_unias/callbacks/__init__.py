"""What happens around the training of a model."""

from .denormals import FlushDenormals
from .training_data import TrainingData

__all__ = ["FlushDenormals", "TrainingData"]
