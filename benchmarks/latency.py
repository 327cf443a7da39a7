"""Measures the speed of models, runtimes and precisions, from image files to answers.

    python -m benchmarks.latency --models unias_lite patchcore --seconds 10

Weights are random except those of STFPM and Supersimplenet, which anomalib builds only with pre-trained weights: these
two use EfficientNet-Lite0, as in the quality benchmark. Each row is measured in a separate process after a warm-up, on
the same files. On a virtual machine that shares its processors, it is the quietest of up to five trials. A row is
appended as soon as it is done; existing rows are not repeated; a figure is drawn beside the table. All models are
exported for images of any size, UniAS also for batches of any size. Columns:
``model,backend,precision,mode,batch,images_per_second,p50_ms,p99_ms,peak_mb,size_mb``.
The mode ``anomalib`` is anomalib's own inferencer (for ONNX Runtime, its reading of files); ``sync`` is this package's
line with the LATENCY hint, ``async`` with the THROUGHPUT hint. ``peak_mb`` is the peak resident memory of the process,
including the libraries; ``size_mb`` is the size of the exported files. The compiled model is not taken from a cache.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from operator import itemgetter
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from anomalib.data import Folder
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from anomalib.models import EfficientAd, Padim, Patchcore, ReverseDistillation, Stfpm, Supersimplenet
from anomalib.models.components import AnomalibModule
from benchmarks.harness import append, memory_mb, result_of
from benchmarks.preset import BACKBONE, LAYERS, fit_random_prototypes
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.export import Dim

from anomalib_unias import UniAS
from anomalib_unias.backbones import register_backbones
from anomalib_unias.compat.export import QUIET_ONNX
from anomalib_unias.deploy import ThroughputInferencer
from anomalib_unias.deploy.openvino_core import FULL_PRECISION
from anomalib_unias.deploy.predictions import onnxruntime_session, pixels_of
from anomalib_unias.models.unias.lite import UNIAS_LITE
from anomalib_unias.pre_processing import make_exportable

COLUMNS = ["model", "backend", "precision", "mode", "batch"]
COLUMNS += ["images_per_second", "p50_ms", "p99_ms", "peak_mb", "size_mb"]
KEY = COLUMNS[:5]
WARM_UP = 5
# A row is measured up to ATTEMPTS times, until others take at most this share of a processor.
ATTEMPTS = 5
LARGEST_STOLEN_SHARE = 0.03
COMPRESSIONS = {
    "fp32": None,
    "fp16": CompressionType.FP16,
    "int8": CompressionType.INT8,
    "int8_ptq": CompressionType.INT8_PTQ,
}
# One per cent of the 28 x 28 patches of each of the 530 training images of four categories.
PATCHCORE_BANK = 4155


def _unias_lite() -> AnomalibModule:
    model = UniAS(**UNIAS_LITE | {"pre_trained": False})
    fit_random_prototypes(model.model)
    return model


def _patchcore(**backbone: object) -> AnomalibModule:
    model = Patchcore(pre_trained=False, pre_processor=Patchcore.configure_pre_processor((224, 224)), **backbone)
    width = sum(model.model.feature_extractor.out_dims)
    model.model.memory_bank = torch.rand(PATCHCORE_BANK, width)
    return model


def _padim() -> AnomalibModule:
    model = Padim(pre_trained=False)
    side = model.input_size[0] // 4
    model.model.gaussian.fit(torch.rand(4, model.model.n_features, side, side))
    return model


MODELS: dict[str, Callable[[], AnomalibModule]] = {
    "unias_lite": _unias_lite,
    "unias_b4": lambda: UniAS(pre_trained=False),
    "patchcore": _patchcore,
    "patchcore_lite0": lambda: _patchcore(backbone=BACKBONE, layers=LAYERS),
    "padim": _padim,
    "stfpm_lite0": lambda: Stfpm(backbone=BACKBONE, layers=["blocks.1", *LAYERS]),
    "supersimplenet_lite0": lambda: Supersimplenet(backbone=BACKBONE, layers=LAYERS),
    "efficient_ad_s": EfficientAd,
    "reverse_distillation": lambda: ReverseDistillation(pre_trained=False),
}


def build(name: str) -> AnomalibModule:
    """Build a model with random weights, arbitrary thresholds, and resizing as in training."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    make_exportable(model)
    for buffer in model.post_processor.buffers():
        buffer.nan_to_num_(0.5)
    return model


def write_images(folder: Path, size: int, count: int = 16) -> list[Path]:
    """Write JPEG images of coarse noise."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def export(name: str, precision: str, kind: str, work: Path, images: Path) -> Path:
    """Export the model, unless the file exists already."""
    folder = work / name / precision
    path = folder / "weights" / kind / {"torch": "model.pt", "onnx": "model.onnx", "openvino": "model.xml"}[kind]
    if path.exists():
        return path
    model = build(name)
    if kind == "torch":
        return model.to_torch(folder)
    # PatchCore of anomalib 2.7.0, exported for batches of any size, takes only batches of two images.
    shapes = {} if isinstance(model, UniAS) else {"dynamic_shapes": ({2: Dim.AUTO, 3: Dim.AUTO},)}
    options = {**QUIET_ONNX, **shapes}
    if kind == "onnx":
        return model.to_onnx(folder, **options)
    data = Folder(name="noise", root=images.parent, normal_dir=images.name, num_workers=0, val_split_mode="from_train")
    compression = COMPRESSIONS[precision]
    return model.to_openvino(folder, compression_type=compression, datamodule=data, onnx_kwargs=options)


def latencies(backend: str, mode: str, path: Path, images: list[Path]) -> Iterator[float]:
    """Yield the milliseconds of one image after the other, for ever."""
    if backend == "openvino" and mode != "anomalib":
        hint = "throughput" if mode == "async" else "latency"
        line = ThroughputInferencer(path, hint=hint, cache_dir=path.parent / "cache")
        if mode == "async":
            yield from (result.milliseconds for result in line.inspect(cycle(images)))
        predict: Callable[[Path], object] = line.predict
    elif backend == "openvino":
        os.chdir(path.parent)
        predict = OpenVINOInferencer(path, "CPU", dict(FULL_PRECISION)).predict
    elif backend == "torch":
        os.environ["TRUST_REMOTE_CODE"] = "1"
        predict = torch.no_grad()(TorchInferencer(path, device="cpu").predict)
    else:
        session = onnxruntime_session(path)
        predict = lambda image: session(pixels_of(image))  # noqa: E731
    for image in cycle(images):
        started = time.perf_counter()
        predict(image)
        yield 1000 * (time.perf_counter() - started)


def measure(row: dict[str, str], path: Path, images: list[Path], seconds: float) -> dict[str, object]:
    """Measure one row in this process."""
    path = path.resolve()  # the working directory changes
    source = latencies(row["backend"], row["mode"], path, [image.resolve() for image in images])
    for _ in range(WARM_UP):
        next(source)
    measurements = [measure_once(source, seconds)]
    while measurements[-1][0] > LARGEST_STOLEN_SHARE and len(measurements) < ATTEMPTS:
        measurements.append(measure_once(source, seconds))
    _, images_per_second, times = min(measurements, key=itemgetter(0))
    size = sum(file.stat().st_size for file in path.parent.glob("model*") if file.is_file())
    return row | {
        "images_per_second": round(images_per_second, 3),
        "p50_ms": round(float(np.percentile(times, 50)), 2),
        "p99_ms": round(float(np.percentile(times, 99)), 2),
        "peak_mb": round(memory_mb("VmHWM"), 1),
        "size_mb": round(size / 2**20, 2),
    }


def measure_once(source: Iterator[float], seconds: float) -> tuple[float, float, list[float]]:
    """Measure the share of a processor that others took, images per second, and milliseconds of every image."""
    stolen, times, started = stolen_seconds(), [], time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or len(times) < WARM_UP:
        times.append(next(source))
    return (stolen_seconds() - stolen) / elapsed, len(times) / elapsed, times


def stolen_seconds() -> float:
    """Get the processor time that the host of a virtual machine has given to others since the start of the machine."""
    return int(Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")


def rows_of(model: str) -> Iterator[tuple[dict[str, str], str]]:
    """Yield the rows of a model, and the kind of export for each."""
    for backend, kind in (("torch", "torch"), ("onnxruntime", "onnx")):
        yield {"model": model, "backend": backend, "precision": "fp32", "mode": "anomalib", "batch": "1"}, kind
    for precision in COMPRESSIONS:
        for mode in ("anomalib", "sync", "async"):
            yield (
                {"model": model, "backend": "openvino", "precision": precision, "mode": mode, "batch": "1"},
                "openvino",
            )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--precisions", nargs="+", choices=list(COMPRESSIONS), default=list(COMPRESSIONS))
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row")
    parser.add_argument("--image_size", type=int, default=700)
    parser.add_argument("--work", type=Path, default=Path("results/latency"), help="folder for exports")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/latency.csv"))
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    mpl.use("Agg")
    register_backbones()
    images = write_images(options.work / f"images_{options.image_size}", options.image_size)
    if options.row:
        print(json.dumps(measure(options.row, options.path, images, options.seconds)))
        return
    for model in options.models:
        for row, kind in rows_of(model):
            if row["precision"] in options.precisions and not is_done(row, options.output):
                path = export(model, row["precision"], kind, options.work, images[0].parent)
                arguments = ["--row", json.dumps(row), "--path", path, "--seconds", options.seconds]
                arguments += ["--image_size", options.image_size, "--work", options.work]
                try:
                    found = result_of("benchmarks.latency", *arguments)
                except RuntimeError as error:
                    print(f"Failed: {error}", flush=True)
                    continue
                append(options.output, pd.DataFrame([found])[COLUMNS])
    show(options.output)
    draw(options.output)


def is_done(row: dict[str, str], output: Path) -> bool:
    """Whether the output has this row."""
    if not output.exists():
        return False
    done = pd.read_csv(output, dtype=str)
    return bool((done[KEY] == pd.Series(row)[KEY]).all(axis=1).any())


def show(output: Path) -> None:
    """Print all rows."""
    table = Table(*COLUMNS, title=str(output))
    for values in pd.read_csv(output, dtype=str).itertuples(index=False):
        table.add_row(*values)
    Console().print(table)


def draw(output: Path) -> None:
    """Draw bars of images per second, with one panel for each model, in a figure beside the table."""
    table = pd.read_csv(output)
    names = table["model"].unique()
    figure, axes = plt.subplots(
        len(names),
        sharex=True,
        figsize=(7, 1 + 0.22 * len(table)),
        squeeze=False,
        height_ratios=[(table["model"] == name).sum() for name in names],
    )
    for axis, name in zip(axes[:, 0], names, strict=True):
        part = table[table["model"] == name]
        axis.barh(part["backend"] + " " + part["precision"] + " " + part["mode"], part["images_per_second"])
        axis.invert_yaxis()
        axis.set_ylabel(name, rotation=0, ha="right")
        axis.tick_params(axis="y", labelsize=7, labelright=True, labelleft=False)
    axes[-1, 0].set_xlabel("images per second")
    figure.tight_layout()
    figure.savefig(output.with_suffix(".png"), dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
