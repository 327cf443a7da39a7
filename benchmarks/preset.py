"""Parts that benchmarks share: random prototypes for the CPU preset, and its backbone for other models."""

import torch

from anomalib_unias import UniASModel
from anomalib_unias.models.unias.components import Patches
from anomalib_unias.post_processing.clusters import ImageClusters

BACKBONE = "tf_efficientnet_lite0_pypi"
LAYERS = ["blocks.2", "blocks.4"]


def fit_random_prototypes(model: UniASModel, kinds: int = 4) -> None:
    """Fill the prototypes of an untrained model with random values: a runtime could merge equal prototypes."""
    if model.prototypes is None:
        return
    clusters = model.prototypes.kinds = ImageClusters(len(model.prototypes.kinds.origin), 64, kinds)
    clusters.projection.normal_()
    clusters.centers.normal_()
    for view in model.prototypes.list_views():
        kind = torch.arange(kinds).repeat_interleave(view.prototypes.shape[1] + 1)
        patches = torch.randn(len(kind), view.prototypes.shape[2])
        view.fit(Patches(patches, kind, torch.arange(len(kind))), range(kinds))
