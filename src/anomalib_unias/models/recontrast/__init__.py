"""ReContrast: Domain-Specific Anomaly Detection via Contrastive Reconstruction (NeurIPS 2023, arXiv 2306.02602)."""

from .lightning_model import ReContrast
from .lite import ReContrastLite
from .torch_model import ReContrastModel

__all__ = ["ReContrast", "ReContrastLite", "ReContrastModel"]
