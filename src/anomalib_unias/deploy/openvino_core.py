"""The one OpenVINO core of the process."""

from functools import cache

import openvino as ov

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
