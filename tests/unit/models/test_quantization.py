"""Quantisation of a small UniAS: its map survives, what is not the network keeps its precision."""

import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.data import Folder
from anomalib.deploy import CompressionType
from anomalib.metrics import AUROC, F1Score
from PIL import Image

from anomalib_unias import UniAS
from anomalib_unias.models.components.quantization import outside_decoder


@pytest.fixture(scope="module")
def datamodule(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, count in {"train": 3, "good": 2, "bad": 2}.items():
        (root / name).mkdir()
        for index in range(count):
            pixels = rng.integers(0, 255, (60 + 8 * index, 90, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return Folder(
        name="noise",
        root=root,
        normal_dir="train",
        normal_test_dir="good",
        abnormal_dir="bad",
        num_workers=0,
        val_split_mode="same_as_test",
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = UniAS(
        backbone="resnet18",
        pre_trained=False,
        image_size=(64, 96),
        hidden_dim=16,
        num_heads=2,
        feedforward_dim=32,
        encoder_layers=1,
        neighbor_mask_size=3,
        levels=[2, 3],
        channel_branch=False,
    ).eval()
    for buffer in model.post_processor.buffers():
        buffer.fill_(0.5)
    return model


@pytest.fixture(scope="module")
def onnx_file(model, tmp_path_factory):
    """The slow step, done once."""
    model.train()
    model.model.backbone.eval()
    path = model.to_onnx(tmp_path_factory.mktemp("onnx"))
    assert model.training, "exporting leaves the training mode as it was"
    assert model.model.decoder.training
    assert not model.model.backbone.training
    model.eval()
    return path


@pytest.fixture
def exported_once(onnx_file, monkeypatch):
    monkeypatch.setattr(UniAS, "to_onnx", lambda *_args, **_options: onnx_file)


def run(path, image):
    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(image)["anomaly_map"]


def types_of(model):
    return {node.get_type_name() for node in model.get_ordered_ops()}


@pytest.mark.usefixtures("exported_once")
@pytest.mark.parametrize("kind", ["FP16", "INT8", "INT8_PTQ"])
def test_compressed_models_keep_their_map(model, datamodule, tmp_path, kind):
    image = torch.rand(1, 3, 100, 120, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(image).anomaly_map.numpy()
    path = model.to_openvino(tmp_path, compression_type=CompressionType[kind], datamodule=datamodule)
    found = run(path, image.numpy())
    assert found.shape == expected.shape
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9
    quantised = "FakeQuantize" in types_of(ov.Core().read_model(path))
    assert quantised == (kind == "INT8_PTQ")


@pytest.mark.usefixtures("exported_once")
def test_only_the_decoder_is_quantised(model, tmp_path):
    exported = ov.Core().read_model(model.to_openvino(tmp_path))
    outside = set(outside_decoder(exported).names)
    layers = [node for node in exported.get_ordered_ops() if node.get_type_name() == "Convolution"]
    frozen = [node for node in layers if node.get_friendly_name() in outside and node.output(0).partial_shape[1] != 1]
    compared = [  # the last stage is what the decoder sees, but does not reconstruct
        name
        for name, module in model.model.backbone.named_modules()
        if isinstance(module, torch.nn.Conv2d) and "layer3" not in name
    ]
    assert len(frozen) == len(compared)
    assert len(layers) - len(frozen) > 10, "the layers of the decoder are quantised"
    resizing = [node for node in exported.get_ordered_ops() if node.get_type_name() == "MatMul"][:2]
    assert all(node.get_friendly_name() in outside for node in resizing)


@pytest.mark.usefixtures("exported_once")
def test_accuracy_control_asks_the_validation_images(datamodule, model, tmp_path, monkeypatch):
    import nncf

    asked = {}

    def quantize(exported, calibration, validation, validate, **options):
        compiled = ov.Core().compile_model(exported, "CPU")
        asked["metric"] = validate(compiled, validation.get_data())
        asked["again"] = validate(compiled, validation.get_data())
        asked["images"] = sum(1 for _ in calibration.get_inference_data())
        asked.update(options)
        return exported

    monkeypatch.setattr(nncf, "quantize_with_accuracy_control", quantize)
    model.to_openvino(
        tmp_path,
        compression_type=CompressionType.INT8_ACQ,
        datamodule=datamodule,
        metric=F1Score(fields=["pred_label", "gt_label"]),
        max_drop=0.02,
    )
    assert asked["metric"] == asked["again"]
    assert 0 <= asked["metric"] <= 1
    assert asked["images"] == 3 + 4
    assert asked["max_drop"] == 0.02
    assert asked["model_type"] == nncf.ModelType.TRANSFORMER


@pytest.mark.usefixtures("exported_once")
def test_accuracy_control(datamodule, model, tmp_path):
    path = model.to_openvino(
        tmp_path,
        compression_type=CompressionType.INT8_ACQ,
        datamodule=datamodule,
        metric=AUROC(fields=["pred_score", "gt_label"]),
        max_drop=0.5,
    )
    assert "FakeQuantize" in types_of(ov.Core().read_model(path))


def test_bad_arguments_are_refused_before_the_export(model, datamodule, tmp_path, monkeypatch):
    monkeypatch.setattr(UniAS, "to_onnx", None)
    for kind in (CompressionType.INT8_PTQ, CompressionType.INT8_ACQ):
        with pytest.raises(ValueError, match="give a datamodule"):
            model.to_openvino(tmp_path, compression_type=kind)
    with pytest.raises(ValueError, match=r"max_drop .* got 2\.0"):
        model.to_openvino(tmp_path, compression_type=CompressionType.INT8_ACQ, datamodule=datamodule, max_drop=2.0)
