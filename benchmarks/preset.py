"""Parts that benchmarks share: random prototypes for the CPU preset, and its backbone for other models."""

import torch

from anomalib_unias import UniASModel

BACKBONE = "tf_efficientnet_lite0_pypi"
LAYERS = ["blocks.2", "blocks.4"]


def fit_random_prototypes(model: UniASModel) -> None:
    """Fill the prototypes of an untrained model with random values: a runtime could merge equal prototypes."""
    if model.prototypes is not None:
        views = model.prototypes.views.values()
        model.prototypes.fit([torch.randn(len(view.prototypes) + 1, len(view.mean)) for view in views])
