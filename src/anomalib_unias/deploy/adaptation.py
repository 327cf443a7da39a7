"""Adapts exports for programs that cannot use them unchanged."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import openvino as ov
from openvino import Layout, Output, Type
from openvino import opset13 as ops
from openvino.preprocess import ColorFormat, PrePostProcessor

from anomalib_unias.deploy.errors import ExportedModelError
from anomalib_unias.deploy.model_info import OUTPUTS, export_problems, model_info, read_model_info, set_model_info
from anomalib_unias.deploy.openvino_core import read_export

logger = logging.getLogger(__name__)

Consumer = Literal["model_api", "dl_streamer"]


def adapt_export(path: str | Path, output: str | Path, consumer: Consumer) -> Path:
    """Write an export in the form that another program needs.

    Args:
        path (str | Path): Export of any anomalib model, ``*.xml`` or ``*.onnx``.
        output (str | Path): IR to write, ``*.xml``. Another file than ``path``.
        consumer (Consumer): ``"model_api"``, see :func:`for_model_api`, also for OpenVINO Model Server when it is sent
            image files; ``"dl_streamer"``, see :func:`for_dl_streamer`.

    Returns:
        Path: The file.

    Raises:
        ExportedModelError: If the program cannot use the model.
        ValueError: If the consumer is unknown, or ``output`` is not a new IR.
    """
    adapters: dict[str, Callable[[ov.Model], ov.Model]] = {
        "model_api": for_model_api,
        "dl_streamer": for_dl_streamer,
    }
    if consumer not in adapters:
        msg = f"consumer must be one of {', '.join(adapters)}, got {consumer!r}."
        raise ValueError(msg)
    output = Path(output)
    if output.suffix != ".xml" or output.resolve() == Path(path).resolve():
        msg = f"output is a new IR, *.xml, got {output}."
        raise ValueError(msg)
    model = read_export(path)
    problems = export_problems(model)
    adapted = adapters[consumer](model)
    for sentence in problems:
        logger.warning("%s: %s.", path, sentence)
    output.parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(adapted, output, compress_to_fp16=False)
    return output


def for_model_api(model: ov.Model) -> ov.Model:
    """Let a model take images as OpenCV reads them: bytes ``(B, H, W, 3)`` in the order BGR.

    Model API 0.4 swaps the colour channels for models with a fixed input size, but not for models that take images of
    any size. The adapted model swaps them itself, and its metadata says so.

    Args:
        model (ov.Model): Export of anomalib. It is not changed.

    Returns:
        ov.Model: A model with the four outputs that Model API knows.

    Raises:
        ExportedModelError: If one of these outputs is missing.
    """
    model = model.clone()
    found = _outputs(model)
    if missing := [name for name in OUTPUTS if name not in found]:
        msg = (
            f"The model has no {' and no '.join(missing)}, which Model API needs: export a model "
            "that segments and has thresholds (validate it, or train it with a CadaPostProcessor)."
        )
        raise ExportedModelError(msg)
    info = read_model_info(model) or model_info(OUTPUTS)
    chosen = _with_outputs(model, {name: found[name] for name in OUTPUTS})
    processor = PrePostProcessor(chosen)
    tensor = processor.input().tensor()
    tensor.set_element_type(Type.u8).set_layout(Layout("NHWC")).set_color_format(ColorFormat.BGR)
    processor.input().model().set_layout(Layout("NCHW"))
    steps = processor.input().preprocess()
    steps.convert_color(ColorFormat.RGB).convert_element_type(Type.f32).scale(255.0)
    built = processor.build()
    # Steps inside the model must not be done twice.
    embedded = ("reverse_input_channels", "scale_values", "resize_type")
    remaining = {key: value for key, value in info.items() if key not in embedded}
    set_model_info(built, remaining | {"embedded_processing": "True"})
    return built


def for_dl_streamer(model: ov.Model) -> ov.Model:
    """Reduce a model to its anomaly map, the only output that DL Streamer uses.

    DL Streamer takes the maximum of the map as the image score. Therefore the map is rescaled so that its maximum is
    the image score of the model. If the image is anomalous, the same pixels exceed the threshold as before.

    Args:
        model (ov.Model): Export of anomalib for one image size. It is not changed.

    Returns:
        ov.Model: A model that takes one image ``(1, 3, H, W)`` and returns one map ``(1, 1, H, W)`` in [0, 1].

    Raises:
        ExportedModelError: If there is no map or no threshold, or if the model takes images of any size.
    """
    found = _outputs(model)
    if missing := [name for name in OUTPUTS if name not in found]:
        msg = f"The model has no {' and no '.join(missing)}, but DL Streamer needs a map and thresholds."
        raise ExportedModelError(msg)
    _, _, height, width = model.input(0).partial_shape
    if height.is_dynamic or width.is_dynamic:
        msg = "The model takes images of any size, DL Streamer has to know it: export it with --input_size [H,W]."
        raise ExportedModelError(msg)
    info = read_model_info(model) or model_info(OUTPUTS)
    image, pixel = (float(info.get(f"{kind}_threshold", "0.5")) for kind in ("image", "pixel"))
    if not (0 < image < 1 and 0 < pixel < 1):
        msg = f"The thresholds are {image} and {pixel}, expected normalised scores: enable_normalization."
        raise ExportedModelError(msg)
    model = model.clone()
    model.reshape([1, 3, height.get_length(), width.get_length()])
    found = _outputs(model)
    one_map = _one_map(found["anomaly_map"], found["pred_score"], image, pixel)
    found["anomaly_map"].set_names(set())
    chosen = _with_outputs(model, {"anomaly_map": one_map.output(0)})
    # DL Streamer adds 0.5 to the thresholds, and knows only this task. Some of its versions are case-sensitive.
    set_model_info(
        chosen,
        info
        | {
            "task": "classification",
            "image_threshold": "0.0",
            "pixel_threshold": "0.0",
            "normalization_scale": "1.0",
            "reverse_input_channels": "true",
        },
    )
    return chosen


def _one_map(anomaly_map: Output, score: Output, image: float, pixel: float) -> ov.Node:
    """Rescale a map so that both thresholds are 0.5 and its maximum is the image score."""
    score = _centred(ops.reshape(score, np.array([-1, 1, 1, 1]), special_zero=False), image)
    levelled = _centred(anomaly_map, pixel)
    peak = ops.reduce_max(levelled, np.array([1, 2, 3]), keep_dims=True)
    half, tiny = np.float32(0.5), np.float32(1e-12)
    above = ops.subtract(levelled, half)
    stretch = ops.divide(ops.subtract(score, half), ops.maximum(ops.subtract(peak, half), tiny))
    stretched = ops.select(ops.greater(above, np.float32(0)), ops.add(half, ops.multiply(above, stretch)), levelled)
    scaled = ops.multiply(levelled, ops.divide(score, ops.maximum(peak, tiny)))
    both = ops.logical_and(ops.greater(score, half), ops.greater(peak, half))
    return ops.select(both, stretched, scaled)


def _centred(scores: Output | ov.Node, threshold: float) -> ov.Node:
    """Rescale scores in [0, 1] linearly on both sides of the threshold, which becomes 0.5."""
    limit, half = np.float32(threshold), np.float32(0.5)
    below = ops.multiply(scores, np.float32(0.5 / threshold))
    above = ops.add(half, ops.multiply(ops.subtract(scores, limit), np.float32(0.5 / (1 - threshold))))
    return ops.select(ops.greater(scores, limit), above, below)


def _outputs(model: ov.Model) -> dict[str, Output]:
    """Find the tensors that are the outputs of the model, by anomalib's names."""
    return {
        name: output.get_node().input_value(0)
        for output in model.outputs
        for name in OUTPUTS
        if name in output.get_names()
    }


def _with_outputs(model: ov.Model, outputs: dict[str, Output]) -> ov.Model:
    """Build the same model with only these outputs."""
    for name, output in outputs.items():
        output.set_names({name})
    results = [ops.result(output) for output in outputs.values()]
    return ov.Model(results, model.get_parameters(), model.get_friendly_name())
