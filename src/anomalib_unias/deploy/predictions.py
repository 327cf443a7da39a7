"""Predictions for image files by every way to run a model of anomalib."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, ImageBatch, PredictDataset
from anomalib.data.utils import read_image
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from anomalib_unias.compat.inferencers import TrustingTorchInferencer, UncachedOpenVINOInferencer
from anomalib_unias.deploy.openvino_core import FULL_PRECISION, openvino_core
from anomalib_unias.deploy.throughput_inferencer import ThroughputInferencer


@dataclass(frozen=True)
class Prediction:
    """Prediction of a model for one image.

    Args:
        score (float): Image score.
        label (bool | None): Whether the image is anomalous; ``None`` if the model predicts no labels.
        anomaly_map (np.ndarray | None): ``(H, W)``; ``None`` if the model has none.
    """

    score: float
    label: bool | None
    anomaly_map: np.ndarray | None


Predictions = dict[str, Prediction]
"""Predictions by image path."""


def predict_by_lightning_test(model: AnomalibModule, datamodule: AnomalibDataModule, root: Path) -> Predictions:
    """Predict the test images of a datamodule with ``Engine.test``.

    Args:
        model (AnomalibModule): Trained model.
        datamodule (AnomalibDataModule): Datamodule whose test set is used.
        root (Path): Folder for the files of the engine.

    Returns:
        Predictions: By image path.
    """
    collector = _Collector()
    with _without_output(model):
        _engine(root, collector).test(model, datamodule=datamodule, verbose=False)
    return collector.collected()


def predict_by_lightning(model: AnomalibModule, files: Sequence[Path], root: Path) -> Predictions:
    """Predict image files with ``Engine.predict``, one at a time.

    Args:
        model (AnomalibModule): Trained model.
        files (Sequence[Path]): Images of any size.
        root (Path): Folder for the files of the engine.

    Returns:
        Predictions: By image path.
    """
    dataset = PredictDataset(files[0])
    dataset.image_filenames = list(files)
    collector = _Collector()
    with _without_output(model):
        loader = DataLoader(dataset, collate_fn=dataset.collate_fn)
        _engine(root, collector).predict(model, dataloaders=loader, return_predictions=False)
    return collector.collected()


def predict_by_torch(path: Path, files: Sequence[Path]) -> Predictions:
    """Predict image files with anomalib's inferencer for torch.

    Args:
        path (Path): Export ``*.pt``. It is unpickled: use only files that you trust.
        files (Sequence[Path]): Images of any size.

    Returns:
        Predictions: By image path.
    """
    inferencer = TrustingTorchInferencer(path, device="cpu")
    with torch.no_grad():
        return {str(file): _from_batch(inferencer.predict(file))[0] for file in files}


def predict_by_openvino(path: Path, files: Sequence[Path], config: Mapping[str, Any]) -> Predictions:
    """Predict image files with anomalib's inferencer for OpenVINO.

    Args:
        path (Path): Export ``*.xml``.
        files (Sequence[Path]): Images of any size.
        config (Mapping[str, Any]): Configuration of OpenVINO.

    Returns:
        Predictions: By image path.
    """
    inferencer = UncachedOpenVINOInferencer(path, "CPU", dict(config))
    return {str(file): _from_batch(inferencer.predict(file))[0] for file in files}


def predict_by_onnxruntime(path: Path, files: Sequence[Path]) -> Predictions:
    """Predict image files with ONNX Runtime.

    Args:
        path (Path): Export ``*.onnx``.
        files (Sequence[Path]): Images of any size.

    Returns:
        Predictions: By image path.
    """
    run = onnxruntime_session(path)
    return {str(file): prediction_of(run(pixels_of(file))) for file in files}


def predict_by_model_api(path: Path, files: Sequence[Path]) -> Predictions:
    """Predict image files with OpenVINO's Model API.

    Args:
        path (Path): IR ``*.xml`` that takes bytes in the order BGR, see :func:`~.adaptation.for_model_api`.
        files (Sequence[Path]): Images of any size.

    Returns:
        Predictions: By image path, without maps: Model API rounds maps to 256 levels and resizes them to the image.

    Raises:
        ModuleNotFoundError: If Model API is not installed.
    """
    adapters, models = import_module("model_api.adapters"), import_module("model_api.models")
    adapter = adapters.OpenvinoAdapter(openvino_core(), str(path), device="CPU", plugin_config=dict(FULL_PRECISION))
    model = models.Model.create_model(adapter)
    found = {}
    for file in files:
        pixels = np.rint(255 * pixels_of(file)[0].transpose(1, 2, 0)).astype(np.uint8)
        result = model(np.ascontiguousarray(pixels[..., ::-1]))
        # Model API returns the boolean output as a string, whatever the labels are called.
        label = result.pred_label in {"True", "1", "1.0"}
        found[str(file)] = Prediction(float(result.pred_score), label, None)
    return found


def predict_by_line(path: Path, files: Sequence[Path]) -> Predictions:
    """Predict image files with the inspection line.

    Args:
        path (Path): Export ``*.xml`` or ``*.onnx``.
        files (Sequence[Path]): Images of any size.

    Returns:
        Predictions: By image path.
    """
    found = ThroughputInferencer(path, cache_dir=path.parent).stream(files)
    return {str(file): _from_batch(batch)[0] for file, batch in zip(files, found, strict=True)}


def onnxruntime_session(path: Path) -> Any:
    """Load an ONNX file.

    Args:
        path (Path): Export ``*.onnx``.

    Returns:
        Any: Function from an input ``(B, 3, H, W)`` to a dictionary of outputs.

    Raises:
        ModuleNotFoundError: If ONNX Runtime is not installed.
    """
    onnxruntime = import_module("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    source = session.get_inputs()[0].name
    return lambda pixels: dict(zip(names, session.run(None, {source: pixels}), strict=True))


def pixels_of(file: Path) -> np.ndarray:
    """Read an image as anomalib's inferencer for OpenVINO does.

    Args:
        file (Path): Any image that anomalib reads.

    Returns:
        np.ndarray: ``(1, 3, H, W)`` in [0, 1].
    """
    return UncachedOpenVINOInferencer.pre_process(np.asarray(read_image(file, as_tensor=False)))


def prediction_of(outputs: Mapping[str, np.ndarray]) -> Prediction:
    """Collect the named outputs of an exported model for one image.

    Args:
        outputs (Mapping[str, np.ndarray]): ``pred_score`` and, if the model has them, ``pred_label`` and
            ``anomaly_map``, each for one image.

    Returns:
        Prediction: Prediction for the image.
    """
    label, anomaly_map = outputs.get("pred_label"), outputs.get("anomaly_map")
    return Prediction(
        score=float(np.squeeze(outputs["pred_score"])),
        label=None if label is None else bool(np.squeeze(label)),
        anomaly_map=None if anomaly_map is None else np.squeeze(anomaly_map).astype(np.float32),
    )


def _from_batch(batch: Any) -> list[Prediction]:
    """Get the predictions from anomalib's batch of torch tensors or numpy arrays."""
    fields = {name: getattr(batch, name) for name in ("pred_score", "pred_label", "anomaly_map")}
    arrays = {name: np.asarray(value) for name, value in fields.items() if value is not None}
    scores = np.atleast_1d(arrays["pred_score"].squeeze())
    return [
        prediction_of(
            {
                name: value.reshape(len(scores), *value.shape[-2:])[index]
                if name == "anomaly_map"
                else value.reshape(len(scores))[index]
                for name, value in arrays.items()
            }
        )
        for index in range(len(scores))
    ]


class _Collector(Callback):
    """Keeps the predictions of a run of Lightning."""

    def __init__(self) -> None:
        self._predictions: Predictions = {}
        self._batch: ImageBatch | None = None

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        """Remember the batch: the model's post-processor runs after this callback and changes the batch in place."""
        del trainer, pl_module, args, kwargs
        self._keep_batch()
        self._batch = outputs

    on_predict_batch_end = on_test_batch_end

    def collected(self) -> Predictions:
        """Get all predictions."""
        self._keep_batch()
        return self._predictions

    def _keep_batch(self) -> None:
        if self._batch is not None:
            self._predictions |= dict(zip(self._batch.image_path or (), _from_batch(self._batch), strict=True))
        self._batch = None


def _engine(root: Path, collector: Callback) -> Engine:
    return Engine(
        default_root_dir=root,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[collector],
    )


@contextmanager
def _without_output(model: AnomalibModule) -> Iterator[None]:
    """Switch metrics and pictures of a model off for a while; restore it at the end."""
    visualizer, evaluator, training = model.visualizer, model.evaluator, model.training
    model.visualizer = model.evaluator = None
    try:
        yield
    finally:
        model.visualizer, model.evaluator = visualizer, evaluator
        model.train(training)
