"""UniAS: Towards Accurate Unified Anomaly Segmentation (WACV 2025, arXiv 2501.12295)."""

from .lightning_model import UniAS
from .lite import UniASLite
from .torch_model import UniASModel

__all__ = ["UniAS", "UniASLite", "UniASModel"]
