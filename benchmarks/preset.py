"""The arguments of the preset for CPUs."""

from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).parents[1] / "configs" / "model" / "unias_lite.yaml"


def lite_arguments() -> dict[str, Any]:
    """Read what ``configs/model/unias_lite.yaml`` gives to :class:`anomalib_unias.UniAS`."""
    arguments: dict[str, Any] = yaml.safe_load(_FILE.read_text())["model"]["init_args"]
    return arguments
