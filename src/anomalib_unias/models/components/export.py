"""Export of the models of this package, where it differs from anomalib's."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalib import TaskType
from anomalib.data import AnomalibDataModule
from anomalib.deploy import CompressionType
from torchmetrics import Metric

from anomalib_unias.compat.export import QUIET_ONNX, CustomQuantization, preserved_modes

if TYPE_CHECKING:
    import openvino as ov


class QuantizableExport(CustomQuantization):
    """Export that does not change the model, adds its metadata, and keeps the anomaly maps in eight bits.

    A base class to list before ``AnomalibModule`` or any model of anomalib.
    """

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Export to ONNX.

        Args:
            export_root (Path | str): Folder.
            model_file_name (str): Name of the file without suffix. Defaults to ``"model"``.
            input_size (tuple[int, int] | None): Height and width of all images. Defaults to ``None``: any.
            **kwargs (Any): Arguments for ``torch.onnx.export``. By default ``optimize`` is off: runtimes optimise by
                themselves, and it takes longer than the rest of the export. For other defaults see :data:`QUIET_ONNX`.

        Returns:
            Path: The file.
        """
        from anomalib_unias.deploy.model_info import describe_export

        arguments = {"optimize": False, **QUIET_ONNX, **kwargs}
        with preserved_modes(self):  # type: ignore[arg-type]
            path = super().to_onnx(export_root, model_file_name, input_size, **arguments)
        describe_export(path, self)  # type: ignore[arg-type]
        return path

    def to_openvino(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | None = None,
        task: TaskType | None = None,
        max_drop: float = 0.01,
        ov_kwargs: dict[str, Any] | None = None,
        onnx_kwargs: dict[str, Any] | None = None,
    ) -> Path:
        """Export to OpenVINO, with metadata for OpenVINO's Model API and Model Server.

        Args:
            export_root (Path | str): Folder.
            model_file_name (str): Name of the file without suffix. Defaults to ``"model"``.
            input_size (tuple[int, int] | None): Height and width of all images. Defaults to ``None``: any.
            compression_type (CompressionType | None): Precision. Defaults to ``None``: full.
            datamodule (AnomalibDataModule | None): Images for ``INT8_PTQ`` and ``INT8_ACQ``. Defaults to ``None``.
            metric (Metric | None): Metric that ``INT8_ACQ`` preserves. Defaults to ``None``: the F1 score of images.
            task (TaskType | None): Not used. Defaults to ``None``.
            max_drop (float): Largest drop of the metric, in [0, 1]. Defaults to ``0.01``.
            ov_kwargs (dict[str, Any] | None): Arguments for ``openvino.convert_model``. Defaults to ``None``.
            onnx_kwargs (dict[str, Any] | None): Arguments for :meth:`to_onnx`. Defaults to ``None``.

        Returns:
            Path: The file ``*.xml``.

        Raises:
            ValueError: If quantisation has no images, or ``max_drop`` is out of its range.
        """
        from anomalib_unias.deploy.model_info import describe_export

        # Errors are raised before the export, which takes long.
        if compression_type in {CompressionType.INT8_PTQ, CompressionType.INT8_ACQ}:
            _require(datamodule)
        if compression_type == CompressionType.INT8_ACQ:
            _check_max_drop(max_drop)
        path = super().to_openvino(
            export_root,
            model_file_name,
            input_size,
            compression_type,
            datamodule,
            metric,
            task,
            max_drop,
            ov_kwargs,
            onnx_kwargs,
        )
        describe_export(path, self)  # type: ignore[arg-type]
        return path

    @staticmethod
    def quantize(model: "ov.Model", datamodule: AnomalibDataModule | None) -> "ov.Model":
        """Quantise the decoder only."""
        from .quantization import quantize_post_training

        return quantize_post_training(model, _require(datamodule))

    @staticmethod
    def quantize_with_metric(
        model: "ov.Model", datamodule: AnomalibDataModule | None, metric: Metric | None, max_drop: float
    ) -> "ov.Model":
        """Quantise the decoder only, without the layers that cost accuracy."""
        from anomalib.metrics import F1Score

        from .quantization import quantize_with_accuracy_control

        metric = metric or F1Score(fields=["pred_label", "gt_label"])
        return quantize_with_accuracy_control(model, _require(datamodule), metric, max_drop)


def _require(datamodule: AnomalibDataModule | None) -> AnomalibDataModule:
    if datamodule is None:
        msg = "Quantisation needs images: give a datamodule, on the command line --data."
        raise ValueError(msg)
    return datamodule


def _check_max_drop(max_drop: float) -> None:
    if not 0 <= max_drop <= 1:
        msg = f"max_drop is a loss of the metric in [0, 1], got {max_drop}."
        raise ValueError(msg)
