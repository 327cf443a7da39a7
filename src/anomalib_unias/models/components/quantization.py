"""Quantisation of exported models that keeps their anomaly maps."""

from collections.abc import Callable, Iterable, Iterator
from typing import cast

import nncf
import numpy as np
import openvino as ov
import torch
from anomalib.data import AnomalibDataModule, ImageBatch, ImageItem
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import ConcatDataset, Subset
from torchmetrics import Metric

SUBSET_SIZE = 300
"""Number of calibration images that nncf recommends."""

# Types of the last layers of the network before the anomaly map: the heads of the decoder, and the frozen features that
# they are compared with. Smoothing of features (GroupConvolution) and prototypes (MatMul) are not among them.
_LAST_LAYERS = {"Convolution", "ConvolutionBackpropData"}


def quantize_post_training(model: ov.Model, datamodule: AnomalibDataModule) -> ov.Model:
    """Quantise the weights and activations of a network to eight bits.

    anomalib 2.7.0 lets nncf quantise everything; with resizing, cosine distances and score normalisation in eight bits,
    little is left of an anomaly map. Here these parts keep their precision, and nncf treats attention as such. The
    frozen network whose features are compared keeps its precision too: on products of low contrast its rounding errors
    are larger than the differences that are measured. Images are processed one by one, as their sizes can differ.

    Args:
        model (ov.Model): Exported model in full precision.
        datamodule (AnomalibDataModule): Its training and validation images are used for calibration.

    Returns:
        ov.Model: Quantised model.
    """
    return nncf.quantize(
        model,
        _calibration_set(datamodule),
        subset_size=SUBSET_SIZE,
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=outside_decoder(model),
        advanced_parameters=_without_smoothing(),
    )


def quantize_with_accuracy_control(
    model: ov.Model, datamodule: AnomalibDataModule, metric: Metric, max_drop: float
) -> ov.Model:
    """Quantise like :func:`quantize_post_training`, except for layers that would cost accuracy.

    Args:
        model (ov.Model): Exported model in full precision.
        datamodule (AnomalibDataModule): Its training and validation images are used for calibration; the metric is
            computed on its validation images.
        metric (Metric): Metric of anomalib, larger is better.
        max_drop (float): Largest drop of the metric, in [0, 1].

    Returns:
        ov.Model: Quantised model.
    """

    def validate(compiled: ov.CompiledModel, items: Iterable[ImageItem]) -> float:
        metric.reset()
        for item in items:
            metric.update(_predicted(compiled, item))
        return float(metric.compute())

    calibration = _calibration_set(datamodule)
    return nncf.quantize_with_accuracy_control(
        model,
        calibration,
        nncf.Dataset(datamodule.val_data, _pixels),
        validate,
        max_drop=max_drop,
        subset_size=SUBSET_SIZE,
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=outside_decoder(model),
        advanced_quantization_parameters=_without_smoothing(),
    )


def outside_decoder(model: ov.Model) -> nncf.IgnoredScope:
    """Find the nodes that are not quantised: all but the decoder.

    Args:
        model (ov.Model): Exported model.

    Returns:
        nncf.IgnoredScope: Node names of the pre-processing, the anomaly map and the post-processing, and of the frozen
        network if its features are compared with those of a decoder.
    """
    before = _traverse(model.get_parameters(), _consumers, lambda node: "Convolution" in node.get_type_name())
    after = _traverse(model.get_results(), _producers, _is_layer)
    last_layers = {node.get_friendly_name(): node for each in after for node in _producers(each) if _is_layer(node)}
    needed = {
        name: {node.get_friendly_name() for node in _traverse([layer], _producers, lambda _: False)}
        for name, layer in last_layers.items()
    }
    # A last layer that another last layer depends on gives frozen features; all that it depends on is frozen too.
    frozen = {
        node
        for name, nodes in needed.items()
        if any(name in others for other, others in needed.items() if other != name)
        for node in nodes
    }
    names = frozen.union(node.get_friendly_name() for node in (*before, *after))
    return nncf.IgnoredScope(names=sorted(names), validate=False)


def _without_smoothing() -> nncf.AdvancedQuantizationParameters:
    """Switch SmoothQuant off: nncf 3.4 fails on matrix products with a constant on the left, which resize features."""
    smoothing = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    return nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smoothing)


def _traverse(
    start: Iterable[ov.Node],
    neighbors: Callable[[ov.Node], Iterator[ov.Node]],
    is_end: Callable[[ov.Node], bool],
) -> list[ov.Node]:
    found: dict[str, ov.Node] = {}
    pending = list(start)
    while pending:
        node = pending.pop()
        if node.get_friendly_name() in found or is_end(node):
            continue
        found[node.get_friendly_name()] = node
        pending.extend(neighbors(node))
    return list(found.values())


def _consumers(node: ov.Node) -> Iterator[ov.Node]:
    return (target.get_node() for output in node.outputs() for target in output.get_target_inputs())


def _producers(node: ov.Node) -> Iterator[ov.Node]:
    return (value.get_source_output().get_node() for value in node.inputs())


def _is_layer(node: ov.Node) -> bool:
    """Whether a node is a layer with weights; the blur of an anomaly map, with one channel, is not."""
    if node.get_type_name() not in _LAST_LAYERS:
        return False
    channels = node.output(0).partial_shape[1] if node.output(0).partial_shape.rank.get_length() > 1 else None
    return channels is None or channels.is_dynamic or channels.get_length() > 1


def _calibration_set(datamodule: AnomalibDataModule) -> nncf.Dataset:
    """Training and validation images, evenly spaced."""
    datamodule.prepare_data()
    datamodule.setup("fit")
    subsets = [getattr(datamodule, name, None) for name in ("train_data", "val_data")]
    items: ConcatDataset[ImageItem] = ConcatDataset([subset for subset in subsets if subset is not None])
    step = max(1, len(items) // SUBSET_SIZE)
    return nncf.Dataset(Subset(items, range(0, len(items), step)), _pixels)


def _image(item: ImageItem) -> Tensor:
    return cast("Tensor", item.image).unsqueeze(0)


def _pixels(item: ImageItem) -> np.ndarray:
    return _image(item).numpy()


def _predicted(compiled: ov.CompiledModel, item: ImageItem) -> ImageBatch:
    """Predict one image and return it as a batch for a metric."""
    outputs = compiled(_pixels(item))
    names = {name: torch.from_numpy(outputs[name]) for output in compiled.outputs for name in output.names}
    fields = {name: names[name] for name in ("pred_score", "pred_label", "anomaly_map", "pred_mask") if name in names}
    mask = item.gt_mask
    if mask is not None and "anomaly_map" in fields:
        size = fields["anomaly_map"].shape[-2:]
        mask = interpolate(mask.float().reshape(1, 1, *mask.shape[-2:]), size).squeeze(1).bool()
    label = torch.atleast_1d(torch.as_tensor(item.gt_label))
    batch = ImageBatch(image=_image(item), gt_label=label, gt_mask=mask)
    for name, value in fields.items():
        setattr(batch, name, value)
    return batch
