"""The cheap forms of the decoder give what the order of the text gives."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from anomalib_unias.models.unias.components.composition import bilinear_matrix
from anomalib_unias.models.unias.components.patch_embedding import PatchEmbedding
from anomalib_unias.models.unias.components.reconstruction import ResizeHead

GRIDS = [(14, 14), (7, 5), (3, 4), (2, 2)]


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def assert_equal_with_gradients(module, image):
    image.requires_grad_()
    results = []
    for forward in (module, module.plain):
        output = forward(image)
        weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output).cos()
        results.append((output, *torch.autograd.grad((output * weight).sum(), [image, *module.parameters()])))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("patch_size", [1, 2, 4, 8])
def test_head(grid, patch_size):
    assert_equal_with_gradients(ResizeHead(8, 5, patch_size).double(), randn(2, 8, *grid))


@pytest.mark.parametrize("patch_size", [1, 2, 8])
def test_patch_embedding(patch_size):
    assert_equal_with_gradients(PatchEmbedding(6, 8, patch_size).double(), randn(2, 6, 3 * patch_size, 4 * patch_size))


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
