"""Initialisation with the principal components of the training features instead of random weights."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn.functional import unfold

from anomalib_unias.models.components import PrincipalComponents

from .decoder import UniASDecoder
from .patch_embedding import PatchEmbedding
from .reconstruction import TransposedHead


@torch.no_grad()
def start_from_principal_components(
    decoder: UniASDecoder, inputs: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]
) -> None:
    """Initialise patch embeddings and transposed heads with the principal components of their patches.

    The first outputs of a patch embedding become the principal components of the patches, with unit variance. The
    hidden channels of a transposed head stand for the principal components of what it reconstructs, and its bias for
    their mean. The decoder then only has to learn the mapping from one to the other. Embeddings of single pixels and
    resize heads keep their random weights. Not part of the paper.

    Args:
        decoder (UniASDecoder): Changed in place.
        inputs (Sequence[torch.Tensor]): Filtered features of some training images ``(N, 2 C_l, H_l, W_l)``, all
            levels, shallow to deep.
        targets (Sequence[torch.Tensor]): Reconstruction targets ``(N, C_l, H_l, W_l)``, all levels, shallow to deep.
    """
    for index, step, head in zip(decoder.reconstructed, decoder.steps, decoder.heads, strict=True):
        embedding = cast("PatchEmbedding", step.patch_embedding).embedding
        if isinstance(embedding, nn.Conv2d) and embedding.in_channels == inputs[index].shape[1]:
            weight, bias = _principal_components(inputs[index], embedding).encoding()
            embedding.weight[: len(weight)] = weight.view(-1, *embedding.weight.shape[1:])
            cast("nn.Parameter", embedding.bias)[: len(bias)] = bias
        if isinstance(head, TransposedHead):
            weight = _principal_components(targets[index], head).decoding()
            head.weight[: len(weight)] = weight.view(-1, *head.weight.shape[1:])
            cast("nn.Parameter", head.bias).copy_(targets[index].mean(dim=(0, 2, 3)))


def _principal_components(images: torch.Tensor, layer: nn.Conv2d | nn.ConvTranspose2d) -> PrincipalComponents:
    """Principal components of the patches that a layer reads or writes."""
    patches = unfold(images, layer.kernel_size, stride=layer.stride).mT.flatten(0, 1)
    return PrincipalComponents.of(patches, layer.weight.shape[0])
