"""Post-processors for anomalib models."""

from anomalib_unias.post_processing.order_preserving import OrderPreservingPostProcessor

__all__ = ["OrderPreservingPostProcessor"]
