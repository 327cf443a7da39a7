"""Inspection of batches, for programs that distribute them over processes and machines."""

from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from anomalib_unias.data.reading import unreadable
from anomalib_unias.deploy.errors import InspectionError
from anomalib_unias.deploy.results import result_line, with_finite_score
from anomalib_unias.deploy.sources import ImageSource
from anomalib_unias.deploy.throughput_inferencer import ThroughputInferencer


class BatchInspector:
    """Inspects tables of images: a callable for ``map_batches`` of Ray Data, or for other programs with Arrow tables.

    Args:
        model (str | Path): Export of anomalib, ``*.xml`` or ``*.onnx``.
        device (str): Device of OpenVINO. Defaults to ``"CPU"``.
        threads (int): Number of CPU threads, usually the cores that the scheduler assigns. Defaults to ``1``.

    Raises:
        InspectionError: If ``pyarrow`` is not installed.
        FileNotFoundError: If there is no such model.
        ExportedModelError: If the model cannot inspect images one by one.

    Example:
        >>> images = ray.data.read_binary_files("images", include_paths=True)  # doctest: +SKIP
        >>> options = {"batch_format": "pyarrow", "compute": ray.data.ActorPoolStrategy(size=2)}  # doctest: +SKIP
        >>> results = images.map_batches(BatchInspector, fn_constructor_args=["model.xml"], **options)  # doctest: +SKIP
    """

    def __init__(self, model: str | Path, device: str = "CPU", threads: int = 1) -> None:
        try:
            import pyarrow as pa
        except ModuleNotFoundError as error:
            msg = "Batches are tables of pyarrow, which is not installed: pip install 'anomalib-unias[ray]'"
            raise InspectionError(msg) from error
        self._line = ThroughputInferencer(
            model, device=device, readers=1, config={"INFERENCE_NUM_THREADS": threads} if device == "CPU" else None
        )
        self._table = pa.Table
        # A fixed schema: in a batch without any label the column would get another type.
        self._schema = pa.schema(
            {
                "image": pa.string(),
                "score": pa.float64(),
                "label": pa.bool_(),
                "boxes": pa.list_(pa.list_(pa.int64())),
                "area": pa.int64(),
                "milliseconds": pa.float64(),
                "out_of_range": pa.bool_(),
                "remarks": pa.list_(pa.string()),
                "bytes": pa.int64(),
                "modified": pa.float64(),
                "error": pa.string(),
            }
        )

    def __call__(self, batch: Any) -> Any:
        """Inspect a batch.

        Args:
            batch (pyarrow.Table): Table with a column ``path``, and optionally ``bytes`` with the contents of the
                files; without ``bytes`` the files are read from their paths.

        Returns:
            pyarrow.Table: A row for each image in the same order: the fields of a line of the inspection, and
            ``error``, which is null if there is a result.
        """
        contents = batch["bytes"] if "bytes" in batch.column_names else [None] * len(batch)
        images = [
            ImageSource(path.as_py()) if content is None else _opened(path.as_py(), content.as_py())
            for path, content in zip(batch["path"], contents, strict=True)
        ]
        lines = [result_line(with_finite_score(result)) for result in self._line.inspect(images)]
        return self._table.from_pylist(lines, schema=self._schema)


def _opened(name: str, content: bytes) -> ImageSource:
    try:
        return ImageSource(name, Image.open(BytesIO(content)))
    except Exception as error:  # decoders raise all kinds of errors for damaged files
        return ImageSource(name, problem=str(unreadable(name, error)))
