"""The cheap forms of the decoder give what the order of the text gives."""

import copy
import math
import pickle

import onnxruntime
import openvino as ov
import pytest
import torch
from torch import nn

from anomalib_unias.deploy.openvino_core import FULL_PRECISION
from anomalib_unias.models.components import bilinear_matrix
from anomalib_unias.models.unias.components import pixel_decoder
from anomalib_unias.models.unias.components.patch_embedding import PatchEmbedding
from anomalib_unias.models.unias.components.pixel_decoder import FusionLevel
from anomalib_unias.models.unias.components.reconstruction import ResizeHead

GRIDS = [(14, 14), (7, 5), (3, 4), (2, 2)]


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def assert_equal_with_gradients(module, *images):
    for image in images:
        image.requires_grad_()
    results = []
    for forward in (module, module.plain):
        output = forward(*images)
        weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output).cos()
        results.append((output, *torch.autograd.grad((output * weight).sum(), [*images, *module.parameters()])))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("patch_size", [1, 2, 4, 8])
def test_head(grid, patch_size):
    assert_equal_with_gradients(ResizeHead(8, 5, patch_size).double(), randn(2, 8, *grid))


@pytest.mark.parametrize("patch_size", [1, 2, 8])
def test_patch_embedding(patch_size):
    assert_equal_with_gradients(PatchEmbedding(6, 8, patch_size).double(), randn(2, 6, 3 * patch_size, 4 * patch_size))


def fusion_level(channels):
    level = FusionLevel(channels, 8).double()
    for parameter in level.parameters():
        nn.init.normal_(parameter)
    return level


@pytest.mark.parametrize("size", [(6, 10), (2, 4), (2, 2)])
def test_fusion_level(size, monkeypatch):
    monkeypatch.setattr(pixel_decoder, "interpolate", None)  # nothing is resized
    level = fusion_level(channels=2)
    shallow, deeper = randn(2, 2, *size), randn(2, 8, *(side // 2 for side in size))
    level(shallow, deeper)
    monkeypatch.undo()
    assert_equal_with_gradients(level, shallow, deeper)


@torch.no_grad()
@pytest.mark.parametrize("deviation", [1, 0])
def test_statistics_of_an_image_that_is_far_from_zero(deviation):
    level = fusion_level(channels=2)
    shallow, deeper = deviation * randn(1, 2, 8, 8) + 1000, randn(1, 8, 4, 4)
    expected = level.plain(shallow, deeper).float()
    level, shallow, deeper = level.float(), shallow.float(), deeper.float()
    deviations = [(form(shallow, deeper) - expected).abs().max() for form in (level, level.plain)]
    assert deviations[0] <= 2 * deviations[1] + 1e-4


@pytest.mark.parametrize(
    ("channels", "small"), [(3, (4, 4)), (2, (3, 4)), (2, (8, 8))], ids=["wide", "not doubled", "not enlarged"]
)
def test_fusion_level_that_is_not_split(channels, small):
    level, shallow, deeper = fusion_level(channels), randn(1, channels, 8, 8), randn(1, 8, *small)
    assert torch.equal(level(shallow, deeper), level.plain(shallow, deeper))


def test_fusion_level_in_mixed_precision_is_not_split():
    level, shallow, deeper = fusion_level(channels=2).float(), torch.randn(1, 2, 8, 8) + 50, torch.randn(1, 8, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(level(shallow, deeper), level.plain(shallow, deeper))


@pytest.mark.parametrize("align_corners", [True, False])
def test_bilinear_matrix(align_corners):
    line = randn(1, 1, 5)
    expected = nn.functional.interpolate(line, size=13, mode="linear", align_corners=align_corners)
    torch.testing.assert_close(line @ bilinear_matrix(5, 13, line, align_corners).mT, expected)


@torch.no_grad()
@pytest.mark.parametrize("change", ["step", "load", "cast"])
def test_kept_kernels_follow_the_parameters(change):
    torch.manual_seed(0)
    head, image = ResizeHead(8, 5, 4).double().eval(), randn(1, 8, 4, 4)
    head(image)
    if change == "step":
        with torch.enable_grad():
            head(image).square().sum().backward()
        torch.optim.AdamW(head.parameters(), lr=0.1).step()
    elif change == "load":
        head.load_state_dict(ResizeHead(8, 5, 4).double().state_dict())
    else:
        head, image = head.float(), image.float()
    torch.testing.assert_close(head(image), head.plain(image), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_kept_kernels_are_neither_made_twice_nor_copied_nor_saved():
    head, image = ResizeHead(8, 5, 4), torch.randn(1, 8, 4, 4)
    size = len(pickle.dumps(head))
    head.eval()(image)
    kept = head.composed()
    head(image)
    assert all(first is second for first, second in zip(head.composed(), kept, strict=True))
    assert len(pickle.dumps(head)) < size + 100
    twin = copy.deepcopy(head)
    nn.init.zeros_(twin.convolutions[2].weight)
    torch.testing.assert_close(twin(image), twin.plain(image))
    assert "composed" not in "".join(head.state_dict())


def test_kernels_made_in_inference_mode_can_be_exported():
    head = ResizeHead(8, 5, 4)
    with torch.inference_mode():  # as Lightning does before it evaluates
        head.eval()
        head(torch.randn(1, 8, 4, 4))
    assert not any(buffer.is_inference() for buffer in head.buffers())
    torch.export.export(head, (torch.randn(1, 8, 4, 4),), strict=False)


@torch.no_grad()
def test_exported_graph_has_the_kernels_as_constants():
    head, image = ResizeHead(8, 5, 4).eval(), torch.randn(1, 8, 4, 4)
    nn.init.constant_(head.convolutions[0].bias, 0.5)
    head.eval()
    program = torch.export.export(head, (image,))
    torch.testing.assert_close(program.module()(image), head.plain(image), rtol=1e-4, atol=1e-5)
    kernels = {tuple(tensor.shape) for tensor in head.composed()}
    assert kernels <= {tuple(tensor.shape) for tensor in (*program.constants.values(), *program.state_dict.values())}
    largest = max(
        math.prod(node.meta["val"].shape) for node in program.graph.nodes if "conv" in node.name and "val" in node.meta
    )
    assert largest < 5 * 8 * 49 * 16


def test_gradients_in_eval_mode():
    assert_equal_with_gradients(ResizeHead(8, 5, 4).double().eval(), randn(1, 8, 3, 4))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_exported_fusion_level_takes_any_number_of_images(tmp_path):
    level = fusion_level(channels=2).float().eval()
    inputs = [(torch.randn(count, 2, 8, 6), torch.randn(count, 8, 4, 3)) for count in (2, 1, 3)]
    batch = torch.export.Dim("batch")
    path = tmp_path / "level.onnx"
    torch.onnx.export(level, inputs[0], path, dynamo=True, dynamic_shapes=({0: batch}, {0: batch}), optimize=False)
    runtime, compiled = onnxruntime.InferenceSession(path), ov.compile_model(path, "CPU", FULL_PRECISION)
    for images in inputs:
        arrays = [image.numpy() for image in images]
        names = [entry.name for entry in runtime.get_inputs()]
        (by_onnx,) = runtime.run(None, dict(zip(names, arrays, strict=True)))
        for answer in (by_onnx, compiled(arrays)[0]):
            torch.testing.assert_close(torch.from_numpy(answer), level.plain(*images), rtol=1e-4, atol=1e-4)
