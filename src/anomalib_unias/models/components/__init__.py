"""Components that the models of this package share."""

from .attention import AttentionLayer, FeedForward, TransformerEncoderLayer
from .checkpoint import ArchitectureMismatchError, resize_grid
from .detector import ClippedGradients, LRSchedule, UnifiedDetector, backbone_pre_processor, check_schedule
from .farthest_points import farthest_points
from .feature_jitter import FeatureJitter
from .frozen_features import FeatureCache, FrozenFeatures
from .image_score import ImageScore, check_image_score, score_of_map
from .maps import bilinear_matrix, gaussian_blur, resize_map
from .position import neighbor_mask, sine_position_encoding, token_grid
from .preset import CalibratedPreset, with_defaults, without_defaults
from .principal_components import COMPONENT_BATCHES, PrincipalComponents

__all__ = [
    "COMPONENT_BATCHES",
    "ArchitectureMismatchError",
    "AttentionLayer",
    "CalibratedPreset",
    "ClippedGradients",
    "FeatureCache",
    "FeatureJitter",
    "FeedForward",
    "FrozenFeatures",
    "ImageScore",
    "LRSchedule",
    "PrincipalComponents",
    "TransformerEncoderLayer",
    "UnifiedDetector",
    "backbone_pre_processor",
    "bilinear_matrix",
    "check_image_score",
    "check_schedule",
    "farthest_points",
    "gaussian_blur",
    "neighbor_mask",
    "resize_grid",
    "resize_map",
    "score_of_map",
    "sine_position_encoding",
    "token_grid",
    "with_defaults",
    "without_defaults",
]
