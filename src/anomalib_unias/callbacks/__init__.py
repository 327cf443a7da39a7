"""Callbacks around the training of a model."""

from .denormals import FlushDenormals
from .exact_resume import ExactResume
from .run_length import RunLength
from .training_data import TrainingData

__all__ = ["ExactResume", "FlushDenormals", "RunLength", "TrainingData"]
