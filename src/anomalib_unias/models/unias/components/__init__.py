"""The parts of UniAS, in the order in which the data passes them."""

from .attention import DualAttentionBlock
from .decoder import UniASDecoder
from .feature_filter import FeatureFilter, FeatureScaler
from .local_block import MultiGranularityBlock, build_local_block
from .patch_embedding import PatchEmbedding
from .pixel_decoder import PixelDecoder
from .prototype_selection import PrototypeSelection
from .prototypes import NormalPrototypes, Patches, image_numbers
from .query import LearnedQuery, SampleAwareQuery
from .reconstruction import ResizeHead, TransposedHead

__all__ = [
    "DualAttentionBlock",
    "FeatureFilter",
    "FeatureScaler",
    "LearnedQuery",
    "MultiGranularityBlock",
    "NormalPrototypes",
    "PatchEmbedding",
    "Patches",
    "PixelDecoder",
    "PrototypeSelection",
    "ResizeHead",
    "SampleAwareQuery",
    "TransposedHead",
    "UniASDecoder",
    "build_local_block",
    "image_numbers",
]
