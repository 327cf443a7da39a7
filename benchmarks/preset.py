"""What the benchmarks share: arguments and made-up prototypes of the preset for CPUs, its backbone for others."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from anomalib.post_processing import PostProcessor

from anomalib_unias import UniASModel

BACKBONE = "efficientnet_lite0"
LAYERS = ["blocks.2", "blocks.4"]
_FILE = Path(__file__).parents[1] / "configs" / "model" / "unias_lite.yaml"


def lite_arguments() -> dict[str, Any]:
    """Read what ``configs/model/unias_lite.yaml`` gives to UniAS, but for the post-processor."""
    arguments: dict[str, Any] = yaml.safe_load(_FILE.read_text())["model"]["init_args"]
    return {name: value for name, value in arguments.items() if name != "post_processor"}


def lite_post_processor() -> PostProcessor:
    """Build the post-processor of ``configs/model/unias_lite.yaml``."""
    module, _, name = yaml.safe_load(_FILE.read_text())["model"]["init_args"]["post_processor"][
        "class_path"
    ].rpartition(".")
    built: PostProcessor = getattr(import_module(module), name)()
    return built


def make_up_prototypes(model: UniASModel) -> None:
    """Give a model without training as many prototypes as it has: a runtime compares with equal ones only once."""
    if model.prototypes is not None:
        views = model.prototypes.views.values()
        model.prototypes.fit([torch.randn(len(view.prototypes) + 1, len(view.mean)) for view in views])
