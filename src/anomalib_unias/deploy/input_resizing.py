"""Takes the resizing out of the start of an exported model, and does it faster."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import openvino as ov
from openvino import Output
from openvino import opset13 as ops
from scipy.sparse import csr_array

from anomalib_unias.deploy.openvino_core import FULL_PRECISION, openvino_core
from anomalib_unias.pre_processing import interpolation_matrix

# Sizes of the noise images on which both ways of resizing are compared, if the model takes images of any size.
_PROBED = ((90, 65), (410, 333))


def cut_resizing(model: ov.Model) -> tuple[ov.Model, tuple[int, int]] | None:
    """Cut anti-aliased resizing off the start of a model.

    In the model, resizing is two matrix products (see ``ExportableResize``), which give the same result in every
    runtime. Most of the coefficients are 0, so :func:`resize` gives the same result in less time.

    Args:
        model (ov.Model): Model for one image ``(1, 3, H, W)``. It is not changed.

    Returns:
        tuple[ov.Model, tuple[int, int]] | None: A model for a resized image, and the height and width of that image;
        ``None`` if the model begins with something else, or if its result on noise images differs from :func:`resize`.
    """
    model = model.clone()
    resized = _resized(model)
    if resized is None:
        return None
    size = (resized.partial_shape[2].get_length(), resized.partial_shape[3].get_length())
    uses = resized.get_target_inputs()
    probe = openvino_core().compile_model(
        ov.Model([ops.result(resized)], model.get_parameters()), "CPU", FULL_PRECISION
    )
    for pixels in _probes(model):
        found = probe(pixels[None].transpose(0, 3, 1, 2).astype(np.float32) / 255)[0]
        if not np.allclose(found, resize(pixels, size), atol=1e-4):
            return None
    start = ops.parameter([1, 3, *size], np.float32, name="resized")
    for use in uses:
        use.replace_source_output(start.output(0))
    _fix_batch(model.input(0).get_node().output(0))
    try:
        return ov.Model(model.get_results(), [start]), size
    except RuntimeError:  # something else depends on the size of the original image
        return None


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image of bytes, with the same result as ``ExportableResize``.

    Args:
        pixels (np.ndarray): RGB ``(H, W, 3)``, uint8.
        size (tuple[int, int]): Height and width of the result.

    Returns:
        np.ndarray: ``(1, 3, *size)`` in [0, 1], float32.
    """
    rows, columns = (_sparse_matrix(*lengths) for lengths in zip(pixels.shape[:2], size, strict=True))
    lines = rows @ pixels.reshape(len(pixels), -1).astype(np.float32)
    lines = lines.reshape(size[0], -1, 3).swapaxes(0, 1).reshape(pixels.shape[1], -1)
    resized = (columns @ lines).reshape(size[1], size[0], 3).transpose(2, 1, 0)
    return np.ascontiguousarray(resized[None] / np.float32(255))


@lru_cache(maxsize=64)
def _sparse_matrix(length: int, new_length: int) -> csr_array:
    return csr_array(interpolation_matrix(length, new_length).numpy())


def _resized(model: ov.Model) -> Output | None:
    """Find the last tensor ``(1, 3, h, w)`` of fixed size to which only products and reshapes lead from the input."""
    output, found = model.input(0).get_node().output(0), None
    while True:
        uses = [use for use in output.get_target_inputs() if use.get_node().get_type_name() != "ShapeOf"]
        if len(uses) != 1 or uses[0].get_node().get_type_name() not in {"MatMul", "Reshape"}:
            return found
        output = uses[0].get_node().output(0)
        shape = output.partial_shape
        if shape.rank.get_length() == 4 and shape[1] == 3 and shape[2].is_static and shape[3].is_static:
            found = output


def _fix_batch(images: Output) -> None:
    """Replace the number of images, where the graph reads it, by the constant 1."""
    shapes = [use.get_node() for use in images.get_target_inputs() if use.get_node().get_type_name() == "ShapeOf"]
    for gather in [use.get_node() for shape in shapes for use in shape.output(0).get_target_inputs()]:
        index = gather.input_value(1).get_node()
        if gather.get_type_name() == "Gather" and index.get_type_name() == "Constant" and not np.any(index.get_data()):
            count = gather.output(0)
            one = ops.constant(np.ones(count.get_shape(), count.get_element_type().to_dtype()))
            for use in count.get_target_inputs():
                use.replace_source_output(one.output(0))


def _probes(model: ov.Model) -> Iterator[np.ndarray]:
    """Make noise images for a comparison."""
    _, _, height, width = model.input(0).partial_shape
    for probed in _PROBED:
        sides = [
            side.get_length() if side.is_static else any_side
            for side, any_side in zip((height, width), probed, strict=True)
        ]
        yield np.random.default_rng(0).integers(0, 256, (*sides, 3), np.uint8)
