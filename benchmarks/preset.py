"""What the benchmarks share: the arguments of the preset for CPUs, and its backbone for the other models."""

from pathlib import Path
from typing import Any

import yaml

BACKBONE = "efficientnet_lite0"
LAYERS = ["blocks.2", "blocks.4"]
_FILE = Path(__file__).parents[1] / "configs" / "model" / "unias_lite.yaml"


def lite_arguments() -> dict[str, Any]:
    """Read what ``configs/model/unias_lite.yaml`` gives to :class:`anomalib_unias.UniAS`."""
    arguments: dict[str, Any] = yaml.safe_load(_FILE.read_text())["model"]["init_args"]
    return arguments
