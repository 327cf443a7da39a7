import signal
import subprocess
import sys

import pytest

_TWO_MODELS = """
import os, signal
import numpy as np, openvino as ov
from openvino import opset13

def compiled(core):
    inputs = opset13.parameter([1, 3], np.float32)
    return core.compile_model(ov.Model([opset13.relu(inputs)], [inputs]), "CPU")

signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
first, second = compiled({core}), compiled({core})
del first
del second
os.kill(os.getpid(), signal.SIGUSR1)
"""


def _run(core: str, first: str = "") -> subprocess.CompletedProcess:
    code = first + _TWO_MODELS.replace("{core}", core)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_signal_is_handled_after_two_models_have_ended() -> None:
    first = "from anomalib_unias.deploy.openvino_core import openvino_core"
    assert _run("openvino_core()", first).stdout == "handled\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the CPU plugin brings a stack for signals on Linux only")
def test_openvino_still_breaks_signals() -> None:
    """Fails once OpenVINO keeps the stack of signals: then openvino_core() can go."""
    assert _run("ov.Core()").returncode == -signal.SIGSEGV
