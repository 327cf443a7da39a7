"""What the benchmarks share: made-up prototypes of the preset for CPUs, its backbone for others."""

import torch

from anomalib_unias import UniASModel

BACKBONE = "tf_efficientnet_lite0_pypi"
LAYERS = ["blocks.2", "blocks.4"]


def make_up_prototypes(model: UniASModel) -> None:
    """Give a model without training as many prototypes as it has: a runtime compares with equal ones only once."""
    if model.prototypes is not None:
        views = model.prototypes.views.values()
        model.prototypes.fit([torch.randn(len(view.prototypes) + 1, len(view.mean)) for view in views])
