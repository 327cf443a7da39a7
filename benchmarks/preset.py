"""What the benchmarks share: arguments and made-up prototypes of the preset for CPUs, its backbone for others."""

from typing import Any

import torch

from anomalib_unias import UniASModel
from anomalib_unias.models.unias.lite import UNIAS_LITE

BACKBONE = "efficientnet_lite0"
LAYERS = ["blocks.2", "blocks.4"]


def lite_arguments() -> dict[str, Any]:
    """What the preset gives to UniAS, but for the post-processor."""
    return dict(UNIAS_LITE)


def make_up_prototypes(model: UniASModel) -> None:
    """Give a model without training as many prototypes as it has: a runtime compares with equal ones only once."""
    if model.prototypes is not None:
        views = model.prototypes.views.values()
        model.prototypes.fit([torch.randn(len(view.prototypes) + 1, len(view.mean)) for view in views])
