"""The one OpenVINO core of the process."""

from functools import cache
from pathlib import Path

import openvino as ov

from anomalib_unias.deploy.errors import ExportedModelError

FULL_PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
"""OpenVINO computes in bfloat16 on a CPU that can, unless told otherwise, and a model file cannot tell it."""


@cache
def openvino_core() -> ov.Core:
    """Give the core that all models of the process share.

    The CPU plugin of OpenVINO 2026.4 brings a stack for signals, and with its core's end puts back the one it found.
    When two cores end in the order in which they began, that is a stack that is gone: the next signal, such as that of
    a worker of a data loader that ends, is a segmentation fault. A core that never ends does not put anything back.

    Returns:
        ov.Core: The same at each call.
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
