"""Exports in the form that other programs demand; DL Streamer's converter is computed here, field by field."""

import runpy
import sys
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from anomalib_unias import cli
from anomalib_unias.deploy import ExportedModelError, adapt_export, describe_export
from anomalib_unias.deploy.model_info import read_model_info

write_toy_model = runpy.run_path(str(Path(__file__).with_name("exported_toy.py")))["write_toy_model"]
THRESHOLD = 0.5


def write_two_channel_model(path: Path, threshold: float = THRESHOLD, extra: bool = False) -> Path:
    """The map is the red channel, the score the largest green value: each can be above the threshold alone."""
    images = ops.parameter((1, 3, 4, 6), np.float32, name="input")
    images.output(0).set_names({"input"})
    red, green = (ops.gather(images, np.array([channel]), np.int64(1)) for channel in (0, 1))
    score = ops.reduce_max(green, np.array([1, 2, 3]))
    outputs = {
        "pred_score": score,
        "anomaly_map": red,
        "pred_label": ops.greater(score, np.float32(threshold)),
        "pred_mask": ops.greater(red, np.float32(threshold)),
    }
    if extra:
        outputs["out_of_range"] = ops.greater(score, np.float32(2))
    for name, node in outputs.items():
        node.output(0).set_names({name})
    ov.save_model(ov.Model([ops.result(each) for each in outputs.values()], [images]), path, compress_to_fp16=False)
    return path


def converted(path: Path, pixels: np.ndarray) -> tuple[str, float, np.ndarray]:
    """What DL Streamer makes of a model: label, confidence and mask."""
    model = ov.Core().read_model(path)
    info = read_model_info(model)
    assert info["model_type"] == "AnomalyDetection"
    assert info["task"] == "classification"
    assert info["reverse_input_channels"] == "true"
    assert info["scale_values"] == "255 255 255"
    assert info["resize_type"] == "standard"
    labels = info["labels"].split()
    assert labels == ["Normal", "Anomaly"]
    (output,) = model.outputs
    assert output.shape == (1, 1, 4, 6)
    assert output.element_type == ov.Type.f32
    scale = float(info["normalization_scale"])
    image, pixel = (np.clip(float(info[f"{kind}_threshold"]) / scale + 0.5, 0, 1) for kind in ("image", "pixel"))
    found = np.clip(ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(pixels)[0] / scale, 0, 1)
    score = found.max()
    return labels[int(score > image)], float(score), found > pixel


@pytest.mark.parametrize("threshold", [0.5, 0.75])
@pytest.mark.parametrize(("score", "peak"), [(0.9, 0.7), (0.55, 0.98), (0.9, 0.3), (0.2, 0.9), (0.3, 0.1), (0.1, 0.4)])
def test_dl_streamer_gives_the_answer_of_the_model(tmp_path, score, peak, threshold):
    path = write_two_channel_model(tmp_path / "model.xml", threshold)
    describe_export(path)
    path.write_text(path.read_text().replace('_threshold value="0.5"', f'_threshold value="{threshold}"'))
    adapted = adapt_export(path, tmp_path / "for" / "dl_streamer.xml", "dl_streamer")
    pixels = np.random.default_rng(1).random((1, 3, 4, 6), np.float32)
    pixels[:, 0] *= peak / pixels[:, 0].max()
    pixels[:, 1] *= score / pixels[:, 1].max()
    label, confidence, mask = converted(adapted, pixels)
    assert label == ("Anomaly" if score > threshold else "Normal")
    below, above = 0.5 * score / threshold, 0.5 + 0.5 * (score - threshold) / (1 - threshold)
    assert confidence == pytest.approx(above if score > threshold else below, abs=1e-5)
    if score > threshold and peak > threshold:
        np.testing.assert_array_equal(mask, pixels[:, :1] > threshold)


def test_dl_streamer_needs_a_size(tmp_path):
    with pytest.raises(ExportedModelError, match="images of any size.*--input_size"):
        adapt_export(write_toy_model(tmp_path / "model.xml"), tmp_path / "other.xml", "dl_streamer")


def test_model_api_takes_what_opencv_reads(tmp_path):
    path = write_toy_model(tmp_path / "model.xml")
    adapted = ov.Core().read_model(adapt_export(path, tmp_path / "model_api.xml", "model_api"))
    bgr = np.random.default_rng(0).integers(0, 256, (1, 7, 5, 3), np.uint8)
    found = ov.Core().compile_model(adapted, "CPU")(bgr)
    np.testing.assert_allclose(found["anomaly_map"][0, 0], bgr[0, ..., 2] / 255, atol=1e-6)
    info = read_model_info(adapted)
    assert info["embedded_processing"] == "True"
    assert not {"reverse_input_channels", "scale_values", "resize_type"} & info.keys()


def test_model_api_gets_four_outputs(tmp_path):
    path = write_two_channel_model(tmp_path / "model.xml", extra=True)
    adapted = ov.Core().read_model(adapt_export(path, tmp_path / "model_api.xml", "model_api"))
    assert {output.any_name for output in adapted.outputs} == {"pred_score", "pred_label", "anomaly_map", "pred_mask"}


@pytest.mark.parametrize("consumer", ["model_api", "dl_streamer"])
def test_an_output_is_missing(tmp_path, consumer):
    path = write_toy_model(tmp_path / "model.xml", score="value")
    with pytest.raises(ExportedModelError, match="has no pred_score"):
        adapt_export(path, tmp_path / "other.xml", consumer)


def test_bad_arguments(tmp_path):
    path = write_toy_model(tmp_path / "model.xml")
    with pytest.raises(ValueError, match="consumer must be one of model_api, dl_streamer, got 'x'"):
        adapt_export(path, tmp_path / "other.xml", "x")
    for output in (path, tmp_path / "other.onnx"):
        with pytest.raises(ValueError, match="output is a new IR"):
            adapt_export(path, output, "model_api")


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["anomalib-unias", *map(str, arguments)])
    cli.main()


def test_commands(tmp_path, monkeypatch):
    path = write_toy_model(tmp_path / "model.xml")
    run(monkeypatch, "describe", path)
    assert read_model_info(ov.Core().read_model(path))["model_type"] == "AnomalyDetection"
    run(monkeypatch, "adapt", path, tmp_path / "new.xml", "--consumer", "model_api")
    assert (tmp_path / "new.xml").is_file()
    with pytest.raises(SystemExit, match="images of any size"):
        run(monkeypatch, "adapt", path, tmp_path / "new.xml", "--consumer", "dl_streamer")
    with pytest.raises(SystemExit, match="does not exist"):
        run(monkeypatch, "describe", tmp_path / "none.xml")
