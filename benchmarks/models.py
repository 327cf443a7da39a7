"""The compared models, all with a frozen EfficientNet-Lite0 and images of 224x224."""

from typing import Any

import torch
from anomalib.models import Padim, Patchcore, Stfpm
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from benchmarks.preset import BACKBONE, LAYERS
from benchmarks.reverse_distillation import LiteReverseDistillation
from benchmarks.supersimplenet import LiteSupersimplenet
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_unias import ReContrastLite, UniADLite, UniASLite
from anomalib_unias.backbones import register_backbones
from anomalib_unias.models.components import farthest_points

SIZE = (224, 224)
PRESET = "unias_lite"
ONE_PASS = ("patchcore", "patchcore_10", "padim")
TRAINED = ("stfpm", "supersimplenet", "reverse_distillation")
# Models of this package, which are trained for their default number of steps.
PRESETS = {PRESET: UniASLite, "uniad_lite": UniADLite, "recontrast_lite": ReContrastLite}
MODELS = (*PRESETS, *ONE_PASS, *TRAINED)
# The other two presets take an hour on a CPU and have to be named explicitly.
BY_DEFAULT = (PRESET, *ONE_PASS, *TRAINED)

# Share of the patches that are kept; a tenth is anomalib's default.
_CORESETS = {"patchcore": 0.01, "patchcore_10": 0.1}
_PATCHES, _CHANNELS = 28 * 28, 40 + 112
# Patches that anomalib 2.7.0 compares with the memory bank at once.
_CHUNK = 1024
# Memory of the process without patches, in GB.
_REST = 2.0


class QuickPatchcore(Patchcore, AnomalibModule):  # AnomalibModule, so that anomalib finds it by its name
    """Chooses the same patches as anomalib's coreset, with distances that need no copy of all patches.

    Anomalib 2.7.0 copies all patches for every patch that it chooses.
    """

    def fit(self) -> None:
        """Choose the memory bank."""
        patches = torch.vstack(self.model.embedding_store)
        self.model.embedding_store.clear()
        chosen, _ = farthest_points(patches, int(len(patches) * self.coreset_sampling_ratio))
        self.model.memory_bank = patches[chosen]


def build(name: str, **arguments: Any) -> AnomalibModule:
    """Build a model that draws no pictures.

    Args:
        name (str): One of ``MODELS``.
        **arguments (Any): Arguments that every anomalib model has: ``post_processor``, ``evaluator``.

    Returns:
        AnomalibModule: The model, with its own post-processor unless another one is given.
    """
    register_backbones()
    arguments["visualizer"] = False
    if name in PRESETS:
        return PRESETS[name](**arguments)
    normalize = Normalize(mean=[0.5] * 3, std=[0.5] * 3)
    arguments["pre_processor"] = PreProcessor(Compose([Resize(SIZE, antialias=True), normalize]))
    if name in _CORESETS:
        return QuickPatchcore(backbone=BACKBONE, layers=LAYERS, coreset_sampling_ratio=_CORESETS[name], **arguments)
    if name == "padim":
        return Padim(backbone=BACKBONE, layers=LAYERS, n_features=100, **arguments)
    if name == "stfpm":
        return Stfpm(backbone=BACKBONE, layers=["blocks.1", *LAYERS], **arguments)
    if name == "supersimplenet":
        return LiteSupersimplenet(backbone=BACKBONE, layers=LAYERS, **arguments)
    return LiteReverseDistillation(**arguments)


def needed_gb(name: str, images: int) -> float:
    """Estimate the memory that a PatchCore needs.

    Training needs three times the memory of all patches: twice while they become one tensor, and once for their
    squares. A test needs the memory bank, and the distances of some patches to it.

    Args:
        name (str): One of ``MODELS``.
        images (int): Number of training images.

    Returns:
        float: Memory in GB; 0 for other models, whose memory hardly grows.

    Example:
        >>> round(needed_gb("patchcore_10", 734), 1), needed_gb("padim", 734)
        (3.0, 0.0)
    """
    if name not in _CORESETS:
        return 0.0
    patches = images * _PATCHES
    distances = 2 * _CHUNK * patches * _CORESETS[name]
    return _REST + 4 * max(3 * patches * _CHANNELS, patches * _CORESETS[name] * _CHANNELS + distances) / 1e9
