"""The one OpenVINO core of the process."""

from functools import cache
from pathlib import Path

import openvino as ov

from anomalib_unias.deploy.errors import ExportedModelError

FULL_PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
"""Unless told otherwise, OpenVINO uses bfloat16 on CPUs that support it; a model file cannot change that."""


@cache
def openvino_core() -> ov.Core:
    """Get the core that all models of the process share.

    The CPU plugin of OpenVINO 2026.4 installs its own signal stack and restores the previous one when its core is
    destroyed. If two cores are destroyed in the order of their creation, the restored stack no longer exists, and the
    next signal, such as that of a data-loader worker that exits, is a segmentation fault. A core that is never
    destroyed restores nothing.

    Returns:
        ov.Core: The same core at each call.
    """
    return ov.Core()


def read_export(path: str | Path) -> ov.Model:
    """Read an exported model.

    Args:
        path (str | Path): ``*.xml`` or ``*.onnx``.

    Returns:
        ov.Model: The model.

    Raises:
        FileNotFoundError: If there is no such file.
        ExportedModelError: If OpenVINO cannot read it.
    """
    if not Path(path).is_file():
        msg = f"{path} does not exist: expected a model exported by anomalib, *.xml or *.onnx."
        raise FileNotFoundError(msg)
    try:
        return openvino_core().read_model(path)
    except RuntimeError as error:
        msg = f"{path} is no model that OpenVINO reads: expected an export of anomalib, *.xml or *.onnx. {error}"
        raise ExportedModelError(msg) from error
