"""Export of anomalib to ONNX and OpenVINO."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from anomalib import TaskType
from anomalib.data import AnomalibDataModule
from anomalib.models.components.base.export_mixin import ExportMixin
from torch import nn
from torchmetrics import Metric

if TYPE_CHECKING:
    import openvino as ov

QUIET_ONNX: dict[str, Any] = {"opset_version": 18, "verbose": False}
"""The opset that the exporter of torch writes. anomalib 2.7.0 asks for opset 14: the exporter then tries to convert its
file, fails, prints the traceback, and leaves the file as it is."""


@contextmanager
def preserved_modes(module: nn.Module) -> Iterator[None]:
    """Restore the mode, training or evaluation, of every part of a module.

    An export of anomalib 2.7.0 leaves a model in evaluation mode, so that its training could not continue. Calling
    ``train()`` would also change parts that were in evaluation mode before.

    Args:
        module (nn.Module): Module whose mode may change inside the ``with`` block.

    Yields:
        None: Nothing.
    """
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


class CustomQuantization(ExportMixin):
    """An export whose quantisation can be replaced.

    anomalib 2.7.0 lets nncf quantise a whole graph; the functions that have to be overridden are private.
    """

    @staticmethod
    def quantize(model: "ov.Model", datamodule: AnomalibDataModule | None) -> "ov.Model":
        """Quantise for ``INT8_PTQ``.

        Args:
            model (ov.Model): Model in full precision.
            datamodule (AnomalibDataModule | None): Datamodule that was given to the export.

        Returns:
            ov.Model: Model with eight bits.
        """
        raise NotImplementedError

    @staticmethod
    def quantize_with_metric(
        model: "ov.Model", datamodule: AnomalibDataModule | None, metric: Metric | None, max_drop: float
    ) -> "ov.Model":
        """Quantise for ``INT8_ACQ``.

        Args:
            model (ov.Model): Model in full precision.
            datamodule (AnomalibDataModule | None): Datamodule that was given to the export.
            metric (Metric | None): Metric to preserve; ``None`` lets the model choose.
            max_drop (float): Largest loss of the metric.

        Returns:
            ov.Model: Model with eight bits.
        """
        raise NotImplementedError

    # Static in anomalib, called on the model.
    def _post_training_quantization_ov(  # type: ignore[override]
        self, model: "ov.Model", datamodule: AnomalibDataModule | None = None
    ) -> "ov.Model":
        return self.quantize(model, datamodule)

    def _accuracy_control_quantization_ov(  # type: ignore[override]
        self,
        model: "ov.Model",
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | None = None,
        task: TaskType | None = None,
        max_drop: float = 0.01,
    ) -> "ov.Model":
        del task  # the metric says what counts
        return self.quantize_with_metric(model, datamodule, metric, max_drop)
