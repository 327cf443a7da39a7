"""UniAD: A Unified Model for Multi-class Anomaly Detection (NeurIPS 2022, arXiv 2206.03687)."""

from .lightning_model import UniAD
from .lite import UniADLite
from .torch_model import UniADModel

__all__ = ["UniAD", "UniADLite", "UniADModel"]
