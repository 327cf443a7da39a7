"""The server of ``examples/serving`` says the same of an export as the inspection line."""

import sys
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from anomalib_unias.deploy.model_info import export_problems, set_model_info

EXAMPLE = Path(__file__).parents[3] / "examples" / "serving" / "openvino_runtime.py"
DESCRIPTION = {"description_format": "1", "image_threshold": "0.5"}


@pytest.fixture
def example(monkeypatch):
    """The functions of the example, without the server that it is part of."""
    for name in ("mlserver", "mlserver.codecs", "mlserver.types", "mlserver.utils"):
        parts = dict.fromkeys(("NumpyCodec", "InferenceRequest", "InferenceResponse", "get_model_uri"))
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(MLModel=object, **parts))
    return run_path(str(EXAMPLE))


def model_with(description, *names):
    images = ops.parameter((-1, 3, 8, 8), np.float32, name="input")
    score = ops.reduce_max(images, np.array([1, 2, 3]))
    nodes = [score if name == "pred_score" else ops.greater(score, np.float32(0.5)) for name in names]
    for name, node in zip(names, nodes, strict=True):
        node.output(0).set_names({name})
    model = ov.Model([ops.result(node) for node in nodes], [images], "toy")
    set_model_info(model, description)
    return model


@pytest.mark.parametrize(
    ("description", "names", "words"),
    [
        ({}, ("pred_score", "pred_label"), "it has no description"),
        ({**DESCRIPTION, "description_format": "2"}, ("pred_score", "pred_label"), "its description has the format 2"),
        ({"description_format": "1"}, ("pred_score",), "it was exported without thresholds"),
        (DESCRIPTION, ("pred_score", "pred_label"), None),
    ],
)
def test_same_problems_as_the_line(example, description, names, words):
    model = model_with(description, *names)
    for found in (example["export_problems"](model), export_problems(model)):
        assert [line[: len(words or "")] for line in found] == ([words] if words else [])


@pytest.mark.parametrize(("output", "flag"), [(None, None), (np.array([True]), True), (np.array([[0]]), False)])
def test_client_has_no_label_for_a_model_without_threshold(output, flag):
    client = run_path(str(EXAMPLE.with_name("client.py")))
    assert client["_flag"](output) is flag
