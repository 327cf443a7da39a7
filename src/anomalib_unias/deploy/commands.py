"""Commands for exported models."""

import logging
import os
import sys
from pathlib import Path
from typing import Literal

from anomalib.data import AnomalibDataModule
from anomalib.data.utils import get_image_filenames
from anomalib.models.components import AnomalibModule
from rich.console import Console

from anomalib_unias.deploy.adaptation import adapt_export
from anomalib_unias.deploy.drift import DriftWatch
from anomalib_unias.deploy.errors import ExportedModelError, InspectionError
from anomalib_unias.deploy.inspection import run_inspection
from anomalib_unias.deploy.inspection_report import report_inspection, require_apart
from anomalib_unias.deploy.model_info import describe_export
from anomalib_unias.deploy.mqtt import MqttSink
from anomalib_unias.deploy.parity import check_export_parity
from anomalib_unias.deploy.sinks import Sink
from anomalib_unias.deploy.throughput_inferencer import ThroughputInferencer
from anomalib_unias.deploy.webhook import WebhookSink

logger = logging.getLogger(__name__)


def inspect(
    model: Path,
    source: str,
    output: Path | None = None,
    overlays: Path | None = None,
    report: Path | None = None,
    mqtt: str | None = None,
    webhook: str | None = None,
    watch: bool = False,
    resume: bool = False,
    device: str = "CPU",
    hint: Literal["throughput", "latency"] = "throughput",
    readers: int = 2,
    reference: Path | None = None,
    window: int = 200,
) -> None:
    """Inspect a folder, a list, a video, an image or a stream with an exported model: one JSON line for each image.

    The exit status is 1 if an image could not be inspected, or a result could not be written or delivered. SIGINT and
    SIGTERM stop the inspection after the images that have been started.

    Args:
        model (Path): Export of anomalib, ``*.xml`` or ``*.onnx``.
        source (str): Folder, text file ``*.txt`` with a path per line, video, or image; ``camera:0``, or the URL of a
            stream.
        output (Path | None): File for the lines. Defaults to ``None``: the standard output.
        overlays (Path | None): Folder for pictures of the regions, not in the source. Defaults to ``None``: none.
        report (Path | None): Folder for a page at the end, not in the source: highest scores, counts, histogram.
            Defaults to ``None``: none.
        mqtt (str | None): Also publish each line at a broker: ``mqtt://broker/topic``. Defaults to ``None``: none.
        webhook (str | None): Also post each line to a web server: ``https://server/path``. Defaults to ``None``: none.
        watch (bool): Wait for images that are added to the folder or replaced in it; reconnect for ever to a stream
            that is lost. Defaults to ``False``.
        resume (bool): Append to an existing output; skip images that have a result there and have not changed since.
            Defaults to ``False``.
        device (str): Device of OpenVINO. Defaults to ``"CPU"``.
        hint (Literal["throughput", "latency"]): Several images at a time, or one. Defaults to ``"throughput"``.
        readers (int): Threads that read files. Defaults to ``2``.
        reference (Path | None): Output of this command for normal validation images with the same model: a warning
            tells when the scores differ from it. Defaults to ``None``: nothing is compared.
        window (int): Number of last images that are compared with the reference. Defaults to ``200``.
    """
    try:
        if report is not None:
            require_apart(Path(source), report, output)
        drift = None if reference is None else DriftWatch.read(reference, window)
        line = ThroughputInferencer(model, device=device, hint=hint, readers=readers)
        sinks: list[Sink] = [MqttSink(mqtt)] if mqtt else []
        sinks += [WebhookSink(webhook)] if webhook else []
        problems = run_inspection(
            *(line, source),
            output=output,
            overlays=overlays,
            watch=watch,
            resume=resume,
            drift=drift,
            sinks=sinks,
        )
        if report is not None and output is not None and (page := report_inspection(line, source, output, report)):
            logger.info("Wrote %s.", page)
    except BrokenPipeError:
        # Nobody reads the standard output any more, but Python would flush it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit("The standard output was closed before all images were inspected.") from None
    except (OSError, ExportedModelError, InspectionError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    raise SystemExit(1 if problems else 0)


def describe(model: Path) -> None:
    """Add metadata for Model API and Model Server to an export of any anomalib model; exports of this package have it.

    Args:
        model (Path): ``*.xml`` or ``*.onnx``, with normalised scores. Its weights are not changed.
    """
    try:
        info = describe_export(model)
    except (OSError, ExportedModelError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    logger.info("\n".join(f"{key}: {value}" for key, value in info.items()))


def adapt(model: Path, output: Path, consumer: Literal["model_api", "dl_streamer"] = "model_api") -> None:
    """Adapt an export for a program that cannot use it unchanged.

    Args:
        model (Path): Export of any anomalib model, ``*.xml`` or ``*.onnx``.
        output (Path): IR to write, ``*.xml``.
        consumer (Literal["model_api", "dl_streamer"]): A model that takes images of any size as OpenCV reads them, for
            Model API and Model Server, or a model with the map as its only output. Defaults to ``"model_api"``.
    """
    try:
        logger.info("Wrote %s.", adapt_export(model, output, consumer))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


def parity(
    *,
    model: AnomalibModule,
    data: AnomalibDataModule | None = None,
    images: Path | None = None,
    ckpt_path: Path | None = None,
    calibration: str | None = None,
    tolerance: float = 1e-3,
    limit: int | None = None,
    output: Path | None = None,
) -> None:
    """Check whether a trained model gives the same answers in training and after export, and what differs if not.

    The exit status is 1 if answers differ.

    Args:
        model (AnomalibModule): Class of the model, and its arguments.
        data (AnomalibDataModule | None): Datamodule whose test images are compared. Defaults to ``None``.
        images (Path | None): Folder of images to compare instead of ``data``. Defaults to ``None``.
        ckpt_path (Path | None): Checkpoint of the model. Defaults to ``None``.
        calibration (str | None): Name of the calibration in the report. Defaults to ``None``: the class of the
            post-processor.
        tolerance (float): Largest difference that counts as the same answer. Defaults to ``1e-3``.
        limit (int | None): Use at most this many images. Defaults to ``None``: all.
        output (Path | None): CSV file to append to. Defaults to ``None``.
    """
    files = data if images is None else get_image_filenames(images)
    if files is None or (data is not None and images is not None):
        msg = "Give either data, a datamodule, or images, a folder."
        raise ValueError(msg)
    if ckpt_path is not None:
        model = type(model).load_from_checkpoint(ckpt_path)
    report = check_export_parity(model, files, calibration=calibration, tolerance=tolerance, limit=limit)
    Console().print(report.table())
    if output is not None:
        report.write(output)
    raise SystemExit(0 if report.passed else 1)
