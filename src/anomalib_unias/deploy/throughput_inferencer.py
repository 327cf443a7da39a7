"""Runs an exported model on many images, as fast as OpenVINO can."""

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino as ov
from anomalib.data import NumpyImageBatch
from openvino import InferRequest, Layout, PartialShape, Type
from openvino.preprocess import PrePostProcessor
from PIL import Image
from platformdirs import user_cache_path

from anomalib_unias.deploy.errors import ExportedModelError, UnreadableImageError
from anomalib_unias.deploy.folders import State
from anomalib_unias.deploy.input_resizing import cut_resizing, resize
from anomalib_unias.deploy.model_info import export_problems, read_model_info
from anomalib_unias.deploy.openvino_core import FULL_PRECISION, openvino_core, read_export
from anomalib_unias.deploy.remarks import remarks_on
from anomalib_unias.deploy.sources import ImageSource

logger = logging.getLogger(__name__)

Hint = Literal["throughput", "latency"]
AnyImage = str | Path | np.ndarray | Image.Image | ImageSource

# Fields of anomalib's batch that can be outputs of an exported model.
_FIELDS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")

# Seconds of waiting for the next image after which finished results are yielded.
_SLOW_READING = 0.5


@dataclass(frozen=True)
class Inspected:
    """Result for one image.

    Args:
        source (ImageSource): The image.
        outputs (Mapping[str, np.ndarray]): Outputs of the model by name, empty after an error.
        pixels (np.ndarray | None): RGB ``(H, W, 3)``, uint8; ``None`` if the image could not be read.
        milliseconds (float): Time to read the image and to compute the result.
        error (UnreadableImageError | None): The error, if there is no result. Defaults to ``None``.
        state (State | None): Size and time of the file, taken before it was read. Defaults to ``None``: no file.
    """

    source: ImageSource
    outputs: Mapping[str, np.ndarray] = field(repr=False)
    pixels: np.ndarray | None = field(repr=False)
    milliseconds: float
    error: UnreadableImageError | None = None
    state: State | None = None

    @property
    def score(self) -> float:
        """Image score; NaN after an error."""
        return float("nan") if self.error is not None else float(np.squeeze(self.outputs["pred_score"]))

    @property
    def remarks(self) -> list[str]:
        """Remarks on the pixels, see :func:`~anomalib_unias.deploy.remarks.remarks_on`."""
        return [] if self.pixels is None else remarks_on(self.pixels)

    @property
    def batch(self) -> NumpyImageBatch:
        """The result as anomalib's inferencers return it, for one image in [0, 1].

        Raises:
            UnreadableImageError: If there is no result.
        """
        if self.error is not None or self.pixels is None:
            raise self.error or UnreadableImageError(self.source.name)
        fields: dict[str, Any] = {name: self.outputs[name] for name in _FIELDS if name in self.outputs}
        image = self.pixels[None].astype(np.float32) / 255
        return NumpyImageBatch(image=image, image_path=[self.source.name], **fields)


@dataclass(frozen=True)
class _Read:
    """An image that was read, or the error of reading it."""

    source: ImageSource
    pixels: np.ndarray | None
    network_input: np.ndarray | None
    error: UnreadableImageError | None
    milliseconds: float
    state: State | None


class ThroughputInferencer:
    """Runs an exported model of anomalib on a stream of images of any size.

    While some images are computed, the next ones are read. If the model begins with anti-aliased resizing, the reading
    threads do the resizing; other models get the pixels as bytes. The results are the same as with anomalib's own
    inferencer, in the order of the images. At most ``requests + readers + 1`` images are in memory; the next one is
    taken from the iterable only when a result has been taken.

    Args:
        path (str | Path): Export of anomalib, ``*.xml`` or ``*.onnx``, with any input size.
        device (str): Device of OpenVINO. Defaults to ``"CPU"``.
        hint (Hint): ``"throughput"`` computes several images at a time, ``"latency"`` one, with all cores.
            Defaults to ``"throughput"``.
        readers (int): Threads that read files. Defaults to ``2``.
        requests (int | None): Number of images that are computed at a time. Defaults to ``None``: OpenVINO chooses.
        config (Mapping[str, Any] | None): More configuration of OpenVINO. The precision is full unless it is set here,
            so that scores are those of training. Defaults to ``None``.
        cache_dir (Path | None): Folder for compiled models. Defaults to ``None``: a folder in the user's cache folder.

    Attributes:
        info (dict[str, str]): Metadata of the export, such as ``image_threshold``; empty if there is none.

    Raises:
        FileNotFoundError: If there is no such model.
        ExportedModelError: If the model does not take one image at a time, or has no score.
        ValueError: If ``hint`` is unknown.

    Example:
        >>> line = ThroughputInferencer("model.xml")  # doctest: +SKIP
        >>> for result in line.stream(["1.png", "2.png"]):  # doctest: +SKIP
        ...     print(result.image_path, result.pred_score)
    """

    def __init__(
        self,
        path: str | Path,
        device: str = "CPU",
        hint: Hint = "throughput",
        readers: int = 2,
        requests: int | None = None,
        config: Mapping[str, Any] | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        if hint not in {"throughput", "latency"}:
            msg = f"hint must be 'throughput' or 'latency', got {hint!r}."
            raise ValueError(msg)
        core = openvino_core()
        options = {
            **FULL_PRECISION,
            "CACHE_DIR": str(cache_dir or user_cache_path("anomalib-unias") / "openvino"),
            "PERFORMANCE_HINT": hint.upper(),
            **(config or {}),
        }
        self.readers = readers
        model = read_export(path)
        problems = export_problems(model)
        self.info = read_model_info(model)
        model = _for_one_image(model, path)
        self._image_shape = model.input(0).partial_shape
        self._size: tuple[int, int] | None
        model, self._size = cut_resizing(model) or (_with_byte_input(model), None)
        self._compiled = core.compile_model(model, device, options)
        self._names = [_name(output) for output in self._compiled.outputs]
        if "pred_score" not in self._names:
            msg = f"{path} has the outputs {self._names}, expected a 'pred_score': export the model with anomalib."
            raise ExportedModelError(msg)
        for sentence in problems:
            logger.warning("%s: %s.", path, sentence)
        self._idle: list[InferRequest] = []
        self.requests: int = requests or self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")

    def predict(self, image: AnyImage) -> NumpyImageBatch:
        """Predict one image.

        Args:
            image (AnyImage): File, PIL image, or pixels ``(H, W, 3)`` RGB or ``(H, W)`` grey, uint8.

        Returns:
            NumpyImageBatch: Batch of one image.

        Raises:
            UnreadableImageError: If the image cannot be read.
        """
        return next(self.stream([image]))

    def stream(self, images: Iterable[AnyImage]) -> Iterator[NumpyImageBatch]:
        """Predict images in their order.

        Args:
            images (Iterable[AnyImage]): Files, PIL images, or uint8 pixels. May be endless.

        Yields:
            NumpyImageBatch: Batches of one image.

        Raises:
            UnreadableImageError: If an image cannot be read; :meth:`inspect` goes on after such images.
        """
        for result in self.inspect(images):
            yield result.batch

    def inspect(self, images: Iterable[AnyImage | None]) -> Iterator[Inspected]:
        """Predict images in their order, and go on after those that cannot be read.

        Args:
            images (Iterable[AnyImage | None]): Files, PIL images, or uint8 pixels. ``None`` means that the next image
                may take a while: all pending results are yielded first.

        Yields:
            Inspected: A result or an error for each image.
        """
        free = [self._idle.pop() if self._idle else self._compiled.create_infer_request() for _ in range(self.requests)]
        running: deque[tuple[_Read, InferRequest]] = deque()
        try:
            for read in self._read_ahead(images):
                while running and (read is None or len(running) == self.requests):
                    yield self._finish(*running.popleft(), free)
                if read is not None:
                    request = free.pop()
                    running.append((_start(request, read), request))
            while running:
                yield self._finish(*running.popleft(), free)
        finally:
            # Whoever stops early leaves some that still write into their memory.
            for read, request in running:
                _wait_for_unused(read, request)
            self._idle += [*free, *(request for _, request in running)]

    def _finish(self, read: _Read, request: InferRequest, free: list[InferRequest]) -> Inspected:
        """Wait for a result, and put its request back to the free ones."""
        free.append(request)
        if read.pixels is None:
            return Inspected(read.source, {}, None, read.milliseconds, read.error)
        try:
            request.wait()
        except RuntimeError as error:
            return Inspected(read.source, {}, None, read.milliseconds, _not_computed(read, error))
        # The request will write its next result into the same memory.
        outputs = {name: tensor.data.copy() for name, tensor in zip(self._names, request.output_tensors, strict=True)}
        return Inspected(read.source, outputs, read.pixels, read.milliseconds + request.latency, state=read.state)

    def _read_ahead(self, images: Iterable[AnyImage | None]) -> Iterator[_Read | None]:
        """Read images in threads, in their order."""
        with ThreadPoolExecutor(self.readers) as pool:
            ahead: deque[Future[_Read]] = deque()
            for image in images:
                while ahead and (image is None or len(ahead) > self.readers):
                    yield from _wait(ahead.popleft())
                if image is None:
                    yield None
                else:
                    ahead.append(pool.submit(self._read, image))
            while ahead:
                yield from _wait(ahead.popleft())

    def _read(self, image: AnyImage) -> _Read:
        started = time.perf_counter()
        source, pixels, network_input, error = _source(image), None, None, None
        # Taken before the file is read: if it changes meanwhile, a resumed inspection inspects it again.
        state = source.state()
        try:
            pixels = source.read()
            self._require_size(source, pixels)
            network_input = resize(pixels, self._size) if self._size else pixels[None]
        except UnreadableImageError as reason:
            pixels, error = None, reason
        return _Read(source, pixels, network_input, error, 1000 * (time.perf_counter() - started), state)

    def _require_size(self, source: ImageSource, pixels: np.ndarray) -> None:
        expected = self._image_shape
        if not expected.compatible(PartialShape([1, 3, *pixels.shape[:2]])):
            msg = (
                f"{source.name} has {pixels.shape[0]}x{pixels.shape[1]} pixels, but the model was exported for "
                f"{expected[2]}x{expected[3]}. Export it without an input size."
            )
            raise UnreadableImageError(msg)


def _wait(reading: Future[_Read]) -> Iterator[_Read | None]:
    """Wait for an image; yield ``None`` if this takes a while, as with a network folder that does not answer."""
    if not wait([reading], timeout=_SLOW_READING).done:
        yield None
    yield reading.result()


def _start(request: InferRequest, read: _Read) -> _Read:
    """Start to compute an image, if it was read."""
    if read.network_input is None:
        return read
    try:
        request.start_async([read.network_input], share_inputs=True)
    except RuntimeError as error:
        return replace(read, pixels=None, network_input=None, error=_not_computed(read, error))
    return read


def _wait_for_unused(read: _Read, request: InferRequest) -> None:
    """Wait for an answer that nobody wants."""
    if read.pixels is not None:
        with suppress(RuntimeError):
            request.wait()


def _not_computed(read: _Read, error: RuntimeError) -> UnreadableImageError:
    return UnreadableImageError(f"{read.source.name} cannot be computed: {error}")


def _source(image: AnyImage) -> ImageSource:
    if isinstance(image, ImageSource):
        return image
    if isinstance(image, str | Path):
        return ImageSource(str(image))
    if isinstance(image, Image.Image):
        return ImageSource("image", image)
    return ImageSource("pixels", image)


def _for_one_image(model: ov.Model, path: str | Path) -> ov.Model:
    shape = model.input(0).partial_shape
    if not shape.compatible(PartialShape([1, 3, -1, -1])):
        msg = f"{path} takes {shape}, expected one image (1, 3, H, W): export it with a batch size of 1 or any."
        raise ExportedModelError(msg)
    model.reshape(PartialShape([1, 3, shape[2], shape[3]]))
    return model


def _with_byte_input(model: ov.Model) -> ov.Model:
    """Let a model take one image of bytes ``(1, H, W, 3)`` instead of floating-point ``(1, 3, H, W)``."""
    processor = PrePostProcessor(model)
    processor.input().tensor().set_element_type(Type.u8).set_layout(Layout("NHWC"))
    processor.input().model().set_layout(Layout("NCHW"))
    processor.input().preprocess().convert_element_type(Type.f32).scale(255.0)
    return processor.build()


def _name(output: ov.ConstOutput) -> str:
    """Get the name of an output; if it has several, the one by anomalib's convention."""
    return next((name for name in (*_FIELDS, "out_of_range") if name in output.names), output.any_name)
