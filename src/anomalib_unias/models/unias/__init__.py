"""UniAS: Towards Accurate Unified Anomaly Segmentation (WACV 2025, arXiv 2501.12295)."""

from .lightning_model import UniAS
from .torch_model import UniASModel

__all__ = ["UniAS", "UniASModel"]
