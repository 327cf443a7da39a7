"""Metadata of exported models, with the keys of OpenVINO's Model API."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import onnx
import openvino as ov
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor

from anomalib_unias.deploy.errors import ExportedModelError

SECTION = "model_info"
"""Section of ``rt_info`` in an IR; in ONNX files the keys of the metadata begin with this word and a space."""

# Section of ``rt_info`` in which OpenVINO puts the metadata of an ONNX file.
_OF_ONNX = "framework"

FORMAT = "1"
"""Value of ``description_format``; it changes when a key of the metadata changes its meaning."""

LABELS = ("Normal", "Anomaly")
OUTPUTS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
"""Outputs by which Model API recognises a model of anomalib; it rejects a fifth."""


def model_info(outputs: Collection[str], model: AnomalibModule | None = None) -> dict[str, str]:
    """Make the metadata of an export of anomalib: its input, and the meaning of its outputs.

    Args:
        outputs (Collection[str]): Names of its outputs.
        model (AnomalibModule | None): The exported model; the thresholds are taken from its post-processor.
            Defaults to ``None``: scores are normalised, and 0.5 is the threshold.

    Returns:
        dict[str, str]: Keys of Model API, ``description_format`` and ``producer``. Without ``image_threshold`` if the
        model predicts no labels, and without ``pixel_threshold`` if it predicts no masks.

    Raises:
        ExportedModelError: If there is no ``pred_score``.
    """
    if "pred_score" not in outputs:
        msg = f"The model has the outputs {sorted(outputs)}, expected a 'pred_score': export it with anomalib."
        raise ExportedModelError(msg)
    info = {
        "model_type": "AnomalyDetection",
        "task": "segmentation" if "anomaly_map" in outputs else "classification",
        "labels": " ".join(LABELS),
        "normalization_scale": "1.0",
        # Model API reads images with OpenCV, as bytes in the order BGR; the model takes RGB in [0, 1].
        "reverse_input_channels": "True",
        "scale_values": "255 255 255",
        "resize_type": "standard",
        "description_format": FORMAT,
        "producer": f"anomalib-unias {version('anomalib-unias')}",
    }
    image, pixel = _thresholds(model)
    if "pred_label" in outputs:
        info["image_threshold"] = f"{image:.7g}"
    if "pred_mask" in outputs:
        info["pixel_threshold"] = f"{pixel:.7g}"
    if model is not None:
        info["model_name"] = model.name
    return info


def _thresholds(model: AnomalibModule | None) -> tuple[float, float]:
    """Get the image and pixel thresholds, on the scale of the exported scores."""
    post_processor = None if model is None else model.post_processor
    if not isinstance(post_processor, PostProcessor):
        return 0.5, 0.5
    if post_processor.enable_normalization:
        return float(post_processor.normalized_image_threshold), float(post_processor.normalized_pixel_threshold)
    return float(post_processor.image_threshold), float(post_processor.pixel_threshold)


def describe_export(path: str | Path, model: AnomalibModule | None = None) -> dict[str, str]:
    """Write metadata into an export of any anomalib model. Exports of this package have it already.

    Args:
        path (str | Path): ``*.xml`` or ``*.onnx``. Weights are not changed; existing metadata of this kind is replaced.
        model (AnomalibModule | None): The exported model, see :func:`model_info`. Defaults to ``None``.

    Returns:
        dict[str, str]: The written metadata.

    Raises:
        FileNotFoundError: If there is no such file.
        ExportedModelError: If it is not an export of anomalib.

    Example:
        >>> describe_export(padim.to_openvino("line"), padim)  # doctest: +SKIP
    """
    path = Path(path)
    if not path.is_file():
        msg = f"{path} does not exist: expected a model exported by anomalib, *.xml or *.onnx."
        raise FileNotFoundError(msg)
    if path.suffix == ".onnx":
        return _describe_onnx(path, model)
    return _describe_ir(path, model)


def _describe_onnx(path: Path, model: AnomalibModule | None) -> dict[str, str]:
    # Weights of large models are in separate files, and stay there.
    content = onnx.load(path, load_external_data=False)
    info = model_info([output.name for output in content.graph.output], model)
    kept = {prop.key: prop.value for prop in content.metadata_props if not prop.key.startswith(f"{SECTION} ")}
    onnx.helper.set_model_props(content, kept | {f"{SECTION} {key}": value for key, value in info.items()})
    with _replaced(path) as written:
        onnx.save(content, written)
    return info


def _describe_ir(path: Path, model: AnomalibModule | None) -> dict[str, str]:
    try:
        tree = ElementTree.parse(path)
    except ElementTree.ParseError as error:
        msg = f"{path} is no model that OpenVINO reads: expected an export of anomalib, *.xml or *.onnx. {error}"
        raise ExportedModelError(msg) from error
    root = tree.getroot()
    info = model_info(_output_names(root), model)
    rt_info = root.find("rt_info")
    if rt_info is None:
        rt_info = ElementTree.SubElement(root, "rt_info")
    for old in rt_info.findall(SECTION):
        rt_info.remove(old)
    section = ElementTree.SubElement(rt_info, SECTION)
    for key, value in sorted(info.items()):
        ElementTree.SubElement(section, key, value=value)
    ElementTree.indent(section, "\t", 2)
    with _replaced(path) as written:
        tree.write(written, encoding="utf-8", xml_declaration=True)
    return info


def _output_names(root: ElementTree.Element) -> list[str]:
    """Find the names of the output tensors of an IR."""
    layers = {layer.get("id"): layer for layer in root.iterfind("layers/layer")}
    names = []
    for edge in root.iterfind("edges/edge"):
        if layers[edge.get("to-layer")].get("type") == "Result":
            port = layers[edge.get("from-layer")].find(f"output/port[@id='{edge.get('from-port')}']")
            names += [] if port is None else str(port.get("names", "")).split(",")
    return names


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Give a temporary file beside ``path``, which replaces it when it is completely written."""
    new = path.with_name(f"{path.name}.new")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def set_model_info(model: ov.Model, info: Mapping[str, str]) -> None:
    """Set the metadata of a model in memory.

    Args:
        model (ov.Model): Changed in place.
        info (Mapping[str, str]): Metadata, see :func:`model_info`.
    """
    for key, value in info.items():
        model.set_rt_info(value, [SECTION, key])


def read_model_info(model: ov.Model) -> dict[str, str]:
    """Read the metadata of an export.

    Args:
        model (ov.Model): Export as read by OpenVINO.

    Returns:
        dict[str, str]: The metadata; empty if there is none.
    """
    if model.has_rt_info([SECTION]):
        values = model.get_rt_info([SECTION]).astype(dict).items()
    elif model.has_rt_info([_OF_ONNX]):
        prefix = f"{SECTION} "
        metadata = model.get_rt_info([_OF_ONNX]).astype(dict).items()
        values = [(key.removeprefix(prefix), value) for key, value in metadata if key.startswith(prefix)]
    else:
        return {}
    return {key: str(value.astype(str)) for key, value in values}


def export_problems(model: ov.Model) -> list[str]:
    """Find problems of an export that a user should know about.

    Args:
        model (ov.Model): Export as read by OpenVINO.

    Returns:
        list[str]: A sentence for each problem; empty if there is none.
    """
    found = []
    info = read_model_info(model)
    labelled = any("pred_label" in output.get_names() for output in model.outputs)
    if not info:
        found.append(
            "it has no description; it is treated as an export of anomalib, which takes RGB in [0, 1] and gives "
            "normalised scores. If it is one, 'anomalib-unias describe' adds the description"
        )
    elif info.get("description_format") != FORMAT:
        found.append(
            f"its description has the format {info.get('description_format')}, this version supports {FORMAT}: "
            "thresholds and colours may mean something else; export it again or update anomalib-unias"
        )
    elif labelled and "image_threshold" not in info:
        found.append(
            "its description has no image_threshold, although it labels images: export it again, or "
            "let 'anomalib-unias describe' write the description anew"
        )
    if not labelled:
        found.append(
            "it was exported without thresholds, so that no image is called good or defective: validate the model "
            "(engine.validate) or train it with a CadaPostProcessor, and export it again"
        )
    return found
