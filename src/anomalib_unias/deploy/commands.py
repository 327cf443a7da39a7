"""Commands about exported models."""

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

    Ends with 1 if an image could not be inspected, or a result could not be written or delivered. SIGINT and SIGTERM
    end it after the images that were begun.

    Args:
        model (Path): Export of anomalib, ``*.xml`` or ``*.onnx``.
        source (str): Folder, text file ``*.txt`` with a path per line, video, or image; ``camera:0``, or the URL of a
            stream.
        output (Path | None): File for the lines. Defaults to ``None``: the standard output.
        overlays (Path | None): Folder for pictures of the regions, not in the source. Defaults to ``None``: none.
        report (Path | None): Folder for a page at the end, not in the source: highest scores, counts, histogram.
            Defaults to ``None``: none.
        mqtt (str | None): Publish each line at a broker, too: ``mqtt://broker/topic``. Defaults to ``None``: none.
        webhook (str | None): Post each line to a web server, too: ``https://server/path``. Defaults to ``None``: none.
        watch (bool): Wait for images that are added to the folder or replaced in it, and for ever for a stream that is
            lost. Defaults to ``False``.
        resume (bool): Go on with an output, leaving out the images that have a result and did not change since.
            Defaults to ``False``.
        device (str): Device of OpenVINO. Defaults to ``"CPU"``.
        hint (Literal["throughput", "latency"]): Several images at a time, or one. Defaults to ``"throughput"``.
        readers (int): Threads that read files. Defaults to ``2``.
        reference (Path | None): Lines that this command wrote about normal validation images with the same model: a
            warning tells when scores are no longer like theirs. Defaults to ``None``: nothing is compared.
        window (int): How many of the last images are compared with it. Defaults to ``200``.
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
        # Nobody reads the standard output any more. Python would write to it once again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit("The standard output was closed before all images were inspected.") from None
    except (OSError, ExportedModelError, InspectionError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    raise SystemExit(1 if problems else 0)


def describe(model: Path) -> None:
    """Write into an export of any anomalib model what it is, as ours do by themselves: for Model API and Model Server.

    Args:
        model (Path): ``*.xml`` or ``*.onnx``, with normalised scores. Its weights are not touched.
    """
    try:
        info = describe_export(model)
    except (OSError, ExportedModelError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    logger.info("\n".join(f"{key}: {value}" for key, value in info.items()))


def adapt(model: Path, output: Path, consumer: Literal["model_api", "dl_streamer"] = "model_api") -> None:
    """Write an export in the form that a program demands which cannot take it as it is.

    Args:
        model (Path): Export of any anomalib model, ``*.xml`` or ``*.onnx``.
        output (Path): IR to write, ``*.xml``.
        consumer (Literal["model_api", "dl_streamer"]): Images of any size as OpenCV reads them, for Model API and Model
            Server, or the map alone. Defaults to ``"model_api"``.
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
    """Tell whether a trained model gives the same answer in training and after export, and what differs if not.

    Ends with 1 if it does not.

    Args:
        model (AnomalibModule): Class of the model, and its arguments.
        data (AnomalibDataModule | None): Its test images are compared. Defaults to ``None``.
        images (Path | None): Or else a folder of images. Defaults to ``None``.
        ckpt_path (Path | None): Checkpoint of the model. Defaults to ``None``.
        calibration (str | None): Name for the report. Defaults to ``None``: the class of the post-processor.
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
