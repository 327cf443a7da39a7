"""Finds the stage at which the answers of an exported model begin to differ."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from anomalib.data import InferenceBatch
from anomalib.data.utils import read_image
from anomalib.models.components import AnomalibModule
from anomalib.models.components.base.export_mixin import ExportMixin
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import LightningModule
from torch import Tensor

from anomalib_unias.deploy.openvino_core import FULL_PRECISION, openvino_core
from anomalib_unias.deploy.predictions import Prediction, onnxruntime_session, pixels_of, prediction_of

STAGES = ("pre-processing", "network", "post-processing")

Runtime = Callable[[np.ndarray], dict[str, np.ndarray]]


class StagedOutput(NamedTuple):
    """Intermediate results of the stages, and the final answer."""

    processed: Tensor
    raw_score: Tensor | None
    raw_map: Tensor | None
    pred_score: Tensor | None
    pred_label: Tensor | None
    anomaly_map: Tensor | None


class StagedModel(ExportMixin, LightningModule):  # type: ignore[misc]  # as anomalib's own base class
    """A model of anomalib whose export also returns the intermediate results of its stages.

    Args:
        source (AnomalibModule): Trained model.
    """

    def __init__(self, source: AnomalibModule) -> None:
        super().__init__()
        self.model: AnomalibModule = source

    def forward(self, images: Tensor) -> StagedOutput:
        """Run all stages.

        Args:
            images (Tensor): ``(B, 3, H, W)`` in [0, 1].

        Returns:
            StagedOutput: Results of all stages.
        """
        source = self.model
        processed = source.pre_processor(images) if source.pre_processor else images
        raw = source.model(processed)
        final = source.post_processor(raw) if source.post_processor else raw
        return StagedOutput(
            processed, raw.pred_score, raw.anomaly_map, final.pred_score, final.pred_label, final.anomaly_map
        )


def load_runtimes(path: Path) -> dict[str, Runtime]:
    """Load an ONNX file into every runtime that is installed.

    Args:
        path (Path): ``*.onnx``.

    Returns:
        dict[str, Runtime]: Name of the runtime -> function from an input ``(1, 3, H, W)`` to named outputs.
    """
    compiled = openvino_core().compile_model(path, "CPU", FULL_PRECISION)
    # If two outputs are the same tensor, OpenVINO gives both outputs both names.
    names = [output.name for output in onnx.load(path, load_external_data=False).graph.output]
    runtimes: dict[str, Runtime] = {
        "openvino": lambda pixels: dict(zip(names, compiled(pixels).to_tuple(), strict=True))
    }
    with suppress(ModuleNotFoundError):
        runtimes["onnx"] = onnxruntime_session(path)
    return runtimes


@torch.no_grad()
def stagewise_predictions(source: AnomalibModule, runtime: Runtime, file: Path) -> list[Prediction]:
    """Predict an image with the first stages computed by the runtime, one more in each prediction, the rest by torch.

    Args:
        source (AnomalibModule): Trained model, in evaluation mode.
        runtime (Runtime): Runtime of the exported :class:`StagedModel`.
        file (Path): Image.

    Returns:
        list[Prediction]: A prediction by torch only, then one more for each of :data:`STAGES`. The difference of two
        consecutive predictions is the effect of one stage.
    """
    image = torch.as_tensor(read_image(file, as_tensor=True)).unsqueeze(0)
    transform = source.pre_processor.transform if isinstance(source.pre_processor, PreProcessor) else None
    outputs = runtime(pixels_of(file))
    raw = InferenceBatch(pred_score=_tensor(outputs.get("raw_score")), anomaly_map=_tensor(outputs.get("raw_map")))
    return [
        _finish(source, source.model(transform(image) if transform else image)),
        _finish(source, source.model(torch.from_numpy(outputs["processed"]))),
        _finish(source, raw),
        prediction_of(outputs),
    ]


def _finish(source: AnomalibModule, raw: InferenceBatch) -> Prediction:
    final: Any = source.post_processor(raw) if source.post_processor else raw
    return prediction_of({name: value.numpy() for name, value in final._asdict().items() if value is not None})


def _tensor(array: np.ndarray | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(np.array(array))
