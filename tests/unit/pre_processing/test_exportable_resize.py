"""The exportable resize against torchvision's, in every runtime."""

import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.models import Padim
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize
from torchvision.transforms.v2.functional import resize
from torchvision.tv_tensors import Mask

from anomalib_unias.pre_processing import (
    ExportableResize,
    exportable_transform,
    interpolation_matrix,
    make_exportable,
    resize_by_matrices,
)

SIZES = [(200, 333), (64, 96), (50, 40), (1500, 2000), (65, 1), (97, 211)]
NETWORK = (64, 96)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """ONNX file of a pre-processor as anomalib builds and exports it."""
    path = tmp_path_factory.mktemp("resize") / "resize.onnx"
    export(PreProcessor(transform=Compose([ExportableResize(NETWORK), Normalize([0.5], [0.5])])), path)
    return path


def export(module, path):
    names = {0: "batch", 2: "height", 3: "width"}
    dimensions = {axis: torch.export.Dim(name) for axis, name in names.items()}
    torch.onnx.export(
        module.eval(),
        (torch.zeros(2, 3, 224, 224),),
        str(path),
        dynamo=True,
        dynamic_shapes=(dimensions,),
        input_names=["input"],
        output_names=["output"],
        verbose=False,
    )


def noise(size):
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


def expected(image):
    return (resize(image, list(NETWORK), antialias=True) * 2 - 1).numpy()


@pytest.mark.parametrize("size", SIZES)
def test_matrices_resize_as_torchvision(size):
    torch.testing.assert_close(
        resize_by_matrices(noise(size), NETWORK), resize(noise(size), list(NETWORK), antialias=True), atol=5e-6, rtol=0
    )


@pytest.mark.parametrize("lengths", [(7, 3), (3, 7), (5, 5), (2000, 448)])
def test_rows_of_the_matrix_are_means(lengths):
    matrix = interpolation_matrix(*lengths)
    assert matrix.shape == lengths[::-1]
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(lengths[1]))


def test_onnxruntime(exported):
    session = pytest.importorskip("onnxruntime").InferenceSession(exported)
    for size in SIZES:
        (found,) = session.run(None, {"input": noise(size).numpy()})
        np.testing.assert_allclose(found, expected(noise(size)), atol=2e-5)


@pytest.mark.parametrize(("hint", "tolerance"), [("f32", 2e-5), ("bf16", 0.05)])
def test_openvino(exported, hint, tolerance):
    compiled = ov.Core().compile_model(exported, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    for size in SIZES:
        np.testing.assert_allclose(compiled(noise(size).numpy())[0], expected(noise(size)), atol=tolerance)


def test_openvino_compiles_before_a_convolution_for_one_size_and_any_batch(tmp_path):
    normalize = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    resized = PreProcessor(transform=Compose([ExportableResize(NETWORK), normalize]))
    model = torch.nn.Sequential(resized, torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    export(model, tmp_path / "model.onnx")
    converted = ov.convert_model(tmp_path / "model.onnx")
    converted.reshape([-1, 3, 100, 120])
    found = ov.Core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(noise((100, 120)).numpy())[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, model(noise((100, 120))).numpy(), atol=1e-4)


def test_torchvision_resize_still_differs_after_export(tmp_path):
    """Fails as soon as anomalib exports anti-aliasing and OpenVINO computes it: then this package need not."""
    transform = Compose([Resize(list(NETWORK), antialias=True), Normalize([0.5], [0.5])])
    export(PreProcessor(transform=transform), tmp_path / "resize.onnx")
    compiled = ov.Core().compile_model(tmp_path / "resize.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    image = noise((500, 700))
    assert np.abs(compiled(image.numpy())[0] - expected(image)).max() > 0.1


def test_inference_in_torch_is_anti_aliased():
    """anomalib sets ``antialias`` of its copy to false."""
    image = noise((300, 500))
    found = PreProcessor(transform=ExportableResize(NETWORK))(image)
    torch.testing.assert_close(found, resize(image, list(NETWORK), antialias=True))


def test_masks_keep_their_values():
    mask = Mask((torch.rand(1, 300, 500) > 0.5).int())
    assert set(ExportableResize(NETWORK)(mask).unique().tolist()) == {0, 1}


def test_checkpoint_keeps_it():
    saved = PreProcessor(transform=Compose([ExportableResize(NETWORK), CenterCrop(32)])).checkpoint_config()
    restored = PreProcessor()
    restored.load_checkpoint_config(saved)
    assert isinstance(restored.transform.transforms[0], ExportableResize)
    assert restored.transform.transforms[0].size == list(NETWORK)


@pytest.mark.parametrize("size", [224, (224,), (0, 5)])
def test_size_must_be_height_and_width(size):
    with pytest.raises(ValueError, match="height and a width"):
        ExportableResize(size)


def test_conversion_replaces_anti_aliased_bilinear_only():
    keep = [Resize([8, 8], antialias=False), Resize([8, 8], interpolation="nearest"), Resize([8]), CenterCrop(4)]
    found = exportable_transform(Compose([Resize([8, 9]), Compose([Resize((7, 7))]), *keep])).transforms
    assert isinstance(found[0], ExportableResize)
    assert found[0].size == [8, 9]
    assert isinstance(found[1].transforms[0], ExportableResize)
    assert found[2:] == keep


def test_any_model_can_be_made_exportable():
    model = Padim(backbone="resnet18", pre_trained=False)
    image = torch.rand(1, 3, 700, 500)
    in_training = model.pre_processor.transform(image)
    assert (model.pre_processor(image) - in_training).abs().max() > 0.1
    assert make_exportable(model)
    torch.testing.assert_close(model.pre_processor(image), in_training)
    assert not make_exportable(model)
    assert not make_exportable(Padim(backbone="resnet18", pre_trained=False, pre_processor=False))
