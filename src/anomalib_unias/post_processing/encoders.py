"""Encoders in anomalib's models, whose features distinguish products."""

from typing import Any

import torch
from anomalib.models.components import AnomalibModule
from torch import Tensor, nn

FEATURE_LAYERS: dict[str, str] = {
    "AnomalyDINO": "feature_encoder",
    "Cfa": "feature_extractor",
    "Cflow": "encoder",
    "Csflow": "feature_extractor.feature_extractor",
    "Dfm": "feature_extractor",
    "Dinomaly": "encoder",
    "Draem": "reconstructive_subnetwork.encoder",
    "Dsr": "discrete_latent_model._encoder_t",
    "EfficientAd": "teacher",
    "Fastflow": "feature_extractor",
    "FoundAD": "encoder._model.norm",
    "Fre": "feature_extractor",
    "GeneralAD": "feature_extractor.pretrained_model.norm",
    "Glass": "forward_modules.feature_aggregator",
    "InpFormer": "encoder",
    "L2BT": "teacher",
    "MHPatchcore": "feature_extractor",
    "Padim": "feature_extractor",
    "Patchcore": "feature_extractor",
    "Patchflow": "feature_extractor",
    "Rad": "feature_extractor",
    "ReContrast": "frozen_encoder",
    "ReverseDistillation": "encoder",
    "Stfpm": "teacher_model",
    "Supersimplenet": "feature_extractor.feature_extractor",
    "Uflow": "feature_extractor",
    "UniAD": "backbone",
    "UniAS": "backbone",
    "UniNet": "teachers.source_teacher",
}
"""Class of an anomalib model -> name of the encoder in its ``model``."""


class FeatureLayerError(ValueError):
    """The encoder of a model is unknown, or its output cannot be used."""


def find_feature_layer(module: AnomalibModule, name: str | None = None) -> nn.Module:
    """Find the sub-module whose output describes an image.

    Args:
        module (AnomalibModule): The model.
        name (str | None): Name of the sub-module in ``module.model``. ``None`` takes the name in
            :data:`FEATURE_LAYERS`. Defaults to ``None``.

    Returns:
        nn.Module: The encoder.

    Raises:
        FeatureLayerError: If there is no default, or no such sub-module; the message lists candidates.
    """
    model = module.model
    known = (FEATURE_LAYERS.get(base.__name__) for base in type(module).__mro__)
    chosen = name or next(filter(None, known), None)
    layers = dict(model.named_modules())
    if chosen in layers and chosen:
        return layers[chosen]
    candidates = [layer for layer in layers if layer and layer.count(".") < 2][:20]
    problem = f"has no sub-module {chosen!r}" if chosen else "has no known encoder"
    msg = (
        f"{type(module).__name__}.model {problem}. Set feature_layer of CadaPostProcessor to the sub-module that "
        f"encodes the image; candidates: {', '.join(candidates)}."
    )
    raise FeatureLayerError(msg)


def feature_maps(output: Any) -> list[Tensor]:
    """Convert the output of an encoder to a list of feature maps.

    Args:
        output (Any): A tensor, or a list, tuple or dictionary of them, shallow to deep: maps ``(B, C, H, W)``, tokens
            ``(B, N, C)`` or vectors ``(B, C)``. Tokens that do not fill a square (class tokens) are left out.

    Returns:
        list[Tensor]: Maps ``(B, C, H, W)``, shallow to deep.

    Raises:
        FeatureLayerError: If there is no such tensor in it.
    """
    maps = [_as_map(tensor) for tensor in _tensors(output) if tensor.ndim in {2, 3, 4}]
    if not maps:
        msg = (
            f"The feature layer puts out {type(output).__name__} without any tensor of 2 to 4 dimensions. "
            "Choose another feature_layer."
        )
        raise FeatureLayerError(msg)
    return maps


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [tensor for part in output for tensor in _tensors(part)]
    return []


def _as_map(tensor: Tensor) -> Tensor:
    if tensor.ndim == 2:
        return tensor[:, :, None, None]
    if tensor.ndim == 3:
        side = int(tensor.shape[1] ** 0.5)
        tokens = tensor[:, tensor.shape[1] - side * side :]
        return tokens.transpose(1, 2).unflatten(2, (side, side))
    return tensor


class FeatureTap:
    """Forward hook that keeps the first output of an encoder until it is taken."""

    def __init__(self) -> None:
        self._kept: Any = None

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Keep ``output``."""
        del module, inputs
        if self._kept is None:
            self._kept = output

    def clear(self) -> None:
        """Forget what was kept."""
        self._kept = None

    def take(self, batch_size: int) -> list[Tensor]:
        """Return the features of the last forward pass and forget them.

        Args:
            batch_size (int): Number of images in the batch.

        Returns:
            list[Tensor]: Maps ``(B, C, H, W)``, float32, shallow to deep.

        Raises:
            FeatureLayerError: If the encoder was not called, or not with the images.
        """
        output, self._kept = self._kept, None
        if output is None:
            msg = (
                "The feature layer was not called in the forward pass of the model. Set feature_layer of "
                "CadaPostProcessor to a sub-module whose forward is called."
            )
            raise FeatureLayerError(msg)
        maps = [tensor.detach().to(torch.float32) for tensor in feature_maps(output)]
        if not torch.compiler.is_compiling() and any(len(tensor) != batch_size for tensor in maps):
            msg = (
                f"The feature layer puts out {len(maps[0])} features for {batch_size} images: it works on parts of "
                "images. Choose another feature_layer."
            )
            raise FeatureLayerError(msg)
        return maps
