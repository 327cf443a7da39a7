"""Measures cost against image size, batch size and number of products: UniAS-lite and PatchCore with its memory bank.

    python -m benchmarks.growth

Weights and images are random, the backbone is EfficientNet-Lite0, and there are 60 normal images per product; one per
cent of their patches is in the memory bank of PatchCore. Rows ``axis,x,model,metric,value,unit`` are written to
benchmarks/results/growth.csv, with a plot beside it; existing rows are not measured again.

The time of an epoch of UniAS is the median time of a training step with stored features times the number of steps. That
of PatchCore, its whole training, is the time to compute features once and to choose the bank: the time of the first 50
choices, which all cost the same, scaled to their number (with distances that need no copy of all patches, see
``farthest_points``). Evaluation is the peak memory of pixel metrics for 30 test images of each product, for this
package and for anomalib.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from benchmarks import metrics_memory
from benchmarks.preset import BACKBONE, LAYERS
from benchmarks.speed import build, in_turns, stepper
from rich.progress import track
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from anomalib_unias.backbones import register_backbones
from anomalib_unias.models.components import farthest_points

OUTPUT = Path("benchmarks/results/growth.csv")
COLUMNS = ["axis", "x", "model", "metric", "value", "unit"]
SIZES, BATCHES, PRODUCTS = (224, 256, 448), (1, 4, 16), (1, 4, 16)
IMAGES, TEST_IMAGES, STRIDE, BATCH = 60, 30, 8, 8
RUNS, CHOICES = 10, 50


def bank_size(size: int, products: int) -> int:
    """Compute the number of patches that PatchCore keeps."""
    return products * IMAGES * (size // STRIDE) ** 2 // 100


def patchcore(size: int, products: int) -> PatchcoreModel:
    """Build a PatchCore with a bank of random patches."""
    torch.manual_seed(0)
    model = PatchcoreModel(layers=LAYERS, backbone=BACKBONE, pre_trained=False).eval()
    model.memory_bank = torch.rand(bank_size(size, products), sum(model.feature_extractor.out_dims))
    return model


def seconds(function: Callable[[], object], runs: int = RUNS) -> float:
    """Measure the median seconds of all calls."""
    return float(np.median(in_turns([function], runs)))


def inference(model: nn.Module, size: int, batch: int) -> dict[str, tuple[float, str]]:
    """Measure the cost of one image, and the size of the model."""
    images = torch.rand(batch, 3, size, size)
    with torch.no_grad():
        latency = 1000 * seconds(lambda: model(images)) / batch
        with FlopCounterMode(display=False) as counter:
            model(images)
    megabytes = sum(tensor.nbytes for tensor in model.state_dict().values()) / 1e6
    return {
        "latency": (latency, "ms/image"),
        "cost": (counter.get_total_flops() / 2e9 / batch, "GMAC/image"),
        "model": (megabytes, "MB"),
    }


def epoch_of_unias(products: int) -> float:
    """Measure the seconds of an epoch with stored features."""
    return seconds(stepper("lite", plain=False, batch=BATCH), runs=5) * products * IMAGES / BATCH


def epoch_of_patchcore(products: int) -> float:
    """Measure the seconds to compute all features and to choose the bank."""
    model = patchcore(224, products).train()
    started = time.perf_counter()
    with torch.no_grad():
        for _ in range(0, products * IMAGES, BATCH):
            model(torch.rand(BATCH, 3, 224, 224))
    reading = time.perf_counter() - started
    patches = torch.vstack(model.embedding_store)
    started = time.perf_counter()
    farthest_points(patches, CHOICES)
    return reading + (time.perf_counter() - started) / CHOICES * bank_size(224, products)


def measure(axis: str, x: int) -> dict[str, dict[str, tuple[float, str]]]:
    """Measure the metrics of every model at one point of an axis."""
    size, batch, products = (x if axis == name else default for name, default in DEFAULTS.items())
    found = {
        "unias_lite": inference(build("lite", image_size=(size, size)).eval(), size, batch),
        "patchcore": inference(patchcore(size, products), size, batch),
    }
    if axis == "products":
        found["unias_lite"]["epoch"] = epoch_of_unias(products), "s"
        found["patchcore"]["epoch"] = epoch_of_patchcore(products), "s"
        for name, evaluation in (("unias_lite", "ours"), ("patchcore", "anomalib")):
            memory = metrics_memory.measure(evaluation, products * TEST_IMAGES, limit_gb=10)
            found[name]["evaluation"] = memory["peak_mb"] if memory else float("nan"), "MB"
    return found


DEFAULTS = {"image_size": 224, "batch": 1, "products": 4}
AXES = {"image_size": SIZES, "batch": BATCHES, "products": PRODUCTS}
SHOWN = [
    ("image_size", "latency"),
    ("batch", "latency"),
    ("products", "latency"),
    ("products", "model"),
    ("products", "epoch"),
    ("products", "evaluation"),
]


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw one panel for each axis and metric."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 6))
    for panel, (axis, metric) in zip(axes.flat, SHOWN, strict=True):
        rows = table[(table["axis"] == axis) & (table["metric"] == metric)]
        for model, part in rows.groupby("model"):
            panel.plot(part["x"], part["value"], "o-", label=model)
        panel.set(xlabel=axis.replace("_", " "), ylabel=f"{metric} ({rows['unit'].iloc[0]})", ylim=(0, None))
        panel.set_xticks(AXES[axis])
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    register_backbones()
    table = pd.read_csv(OUTPUT) if OUTPUT.exists() else pd.DataFrame(columns=COLUMNS)
    done = set(zip(table["axis"], table["x"], strict=True))
    points = [(axis, x) for axis, values in AXES.items() for x in values if (axis, x) not in done]
    for axis, x in track(points, "growth"):
        found = measure(axis, x)
        rows = [
            (axis, x, name, kind, round(v, 4), unit) for name, part in found.items() for kind, (v, unit) in part.items()
        ]
        pd.DataFrame(rows, columns=COLUMNS).to_csv(OUTPUT, mode="a", header=not OUTPUT.exists(), index=False)
    draw(pd.read_csv(OUTPUT), OUTPUT.with_suffix(".png"))
    print(f"Written to {OUTPUT} and {OUTPUT.with_suffix('.png')}")


if __name__ == "__main__":
    main()
