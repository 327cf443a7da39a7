"""Exports say what they are."""

import logging
import re
import runpy
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from anomalib.models import Padim
from anomalib.post_processing import PostProcessor
from onnx import TensorProto, helper

from anomalib_unias.deploy import ExportedModelError, ThroughputInferencer, adapt_export, describe_export
from anomalib_unias.deploy.model_info import OUTPUTS, model_info, read_model_info

write_toy_model = runpy.run_path(str(Path(__file__).with_name("exported_toy.py")))["write_toy_model"]
# What Model API, Model Server and DL Streamer look for.
DESCRIPTION = {
    "model_type": "AnomalyDetection",
    "task": "segmentation",
    "labels": "Normal Anomaly",
    "image_threshold": "0.5",
    "pixel_threshold": "0.5",
    "normalization_scale": "1.0",
    "reverse_input_channels": "True",
    "scale_values": "255 255 255",
    "resize_type": "standard",
}


def read(path: Path) -> dict[str, str]:
    return read_model_info(ov.Core().read_model(path))


def write_onnx(path: Path, outputs: tuple[str, ...] = OUTPUTS) -> Path:
    """All outputs are the input."""
    shape = ["batch", 3, "height", "width"]
    images = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outputs]
    nodes = [helper.make_node("Identity", ["input"], [name]) for name in outputs]
    model = helper.make_model(helper.make_graph(nodes, "toy", [images], results))
    helper.set_model_props(model, {"author": "somebody"})
    onnx.save(model, path)
    return path


def test_an_ir_is_described_and_its_weights_are_left(tmp_path):
    path = write_toy_model(tmp_path / "model.xml", rows=np.eye(8, dtype=np.float32), shape=(-1, 3, 8, -1))
    weights, written = path.with_suffix(".bin").read_bytes(), path.with_suffix(".bin").stat().st_mtime_ns
    assert read(path) == {}
    assert describe_export(path).items() >= DESCRIPTION.items()
    assert read(path).items() >= DESCRIPTION.items()
    assert read(path)["producer"].startswith("anomalib-unias ")
    assert (path.with_suffix(".bin").read_bytes(), path.with_suffix(".bin").stat().st_mtime_ns) == (weights, written)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    pixels = np.random.default_rng(0).random((1, 3, 8, 5), np.float32)
    found = ov.Core().compile_model(path, "CPU")(pixels)
    np.testing.assert_allclose(found["anomaly_map"], pixels[:, :1])


def test_a_description_is_replaced(tmp_path):
    path = write_toy_model(tmp_path / "model.xml")
    describe_export(path)
    model = Padim(backbone="resnet18", pre_trained=False, post_processor=PostProcessor(image_sensitivity=0.25))
    described = describe_export(path, model)
    assert (described["image_threshold"], described["pixel_threshold"]) == ("0.75", "0.5")
    assert described["model_name"] == "Padim"
    assert read(path) == described
    assert path.read_text().count("<model_info>") == 1


def test_an_onnx_file_is_described(tmp_path):
    path = write_onnx(tmp_path / "model.onnx")
    describe_export(path)
    described = describe_export(path)
    found = {each.key: each.value for each in onnx.load(path).metadata_props}
    assert found == {"author": "somebody"} | {f"model_info {key}": value for key, value in described.items()}
    assert described.items() >= DESCRIPTION.items()


def test_weights_in_a_file_of_their_own_stay_there(tmp_path):
    weights = onnx.numpy_helper.from_array(np.array([3], np.float32), "weights")
    images, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("input", "pred_score"))
    node = helper.make_node("Mul", ["input", "weights"], ["pred_score"])
    model = helper.make_model(helper.make_graph([node], "toy", [images], [result], [weights]))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    written = (tmp_path / "model.onnx.data").read_bytes()
    describe_export(path)
    assert (tmp_path / "model.onnx.data").read_bytes() == written
    assert onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[0]) == [3.0]


def test_raw_scores_have_the_thresholds_of_the_model():
    model = Padim(backbone="resnet18", pre_trained=False, post_processor=PostProcessor(enable_normalization=False))
    model.post_processor._image_threshold.fill_(3.25)
    model.post_processor._pixel_threshold.fill_(7)
    info = model_info(OUTPUTS, model)
    assert (info["image_threshold"], info["pixel_threshold"]) == ("3.25", "7")


def test_without_labels_there_are_no_thresholds():
    info = model_info(["pred_score"])
    assert info["task"] == "classification"
    assert not {"image_threshold", "pixel_threshold"} & info.keys()


def test_no_export_of_anomalib(tmp_path):
    with pytest.raises(ExportedModelError, match=r"outputs \['boxes'\], expected a 'pred_score'"):
        describe_export(write_onnx(tmp_path / "model.onnx", ("boxes",)))
    (tmp_path / "text.xml").write_text("no")
    with pytest.raises(ExportedModelError, match="is no model that OpenVINO reads"):
        describe_export(tmp_path / "text.xml")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        describe_export(tmp_path / "none.xml")


@pytest.mark.parametrize("consumer", ["line", "adapt"])
@pytest.mark.parametrize("suffix", [".xml", ".onnx"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (None, "it has no description; it is treated as an export of anomalib"),
        ({"description_format": "9"}, "its description has the format 9, this version supports 1"),
        ({"image_threshold": None}, "its description has no image_threshold, although it labels images"),
        ({}, ""),
    ],
)
def test_each_consumer_warns_of_a_problem_in_one_sentence(tmp_path, caplog, consumer, suffix, change, sentence):
    path = tmp_path / f"model{suffix}"
    (write_toy_model if suffix == ".xml" else write_onnx)(path)
    if change is not None:
        describe_export(path)
        rewrite(path, change)
    with caplog.at_level(logging.WARNING, "anomalib_unias"):
        if consumer == "line":
            ThroughputInferencer(path, cache_dir=tmp_path)
        else:
            adapt_export(path, tmp_path / "adapted.xml", "model_api")
    messages = [record.message for record in caplog.records]
    assert [message.startswith(f"{path}: {sentence}") for message in messages] == ([True] if sentence else [])


def rewrite(path: Path, change: dict[str, str | None]) -> None:
    """Change the description of an export; ``None`` removes a key."""
    if path.suffix == ".xml":
        for key, value in change.items():
            new = "" if value is None else f'<{key} value="{value}" />'
            path.write_text(re.sub(rf"<{key} value=.*? ?/>", new, path.read_text()))
        return
    content = onnx.load(path)
    found = {each.key: each.value for each in content.metadata_props}
    found |= {f"model_info {key}": value for key, value in change.items()}
    helper.set_model_props(content, {key: value for key, value in found.items() if value is not None})
    onnx.save(content, path)


def test_the_line_says_that_there_are_no_thresholds(tmp_path, caplog):
    path = write_onnx(tmp_path / "model.onnx", ("pred_score", "anomaly_map"))
    with caplog.at_level(logging.WARNING, "anomalib_unias"):
        ThroughputInferencer(path, cache_dir=tmp_path)
    assert "exported without thresholds" in caplog.text
