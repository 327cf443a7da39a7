"""Measures parameters, MACs and time of every named part of UniAS.

    python -m benchmarks.profile                                    # the default model
    python -m benchmarks.profile --preset --output benchmarks/results/profile_lite.csv

Weights are random. Times are medians in eval mode, and comparable only within one run.
"""

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from anomalib_unias import UniAS, UniASLite, UniASModel

# Names of the parts: every sub-module of the model with one of these names is one row.
PARTS = (
    "backbone",
    "prototypes",
    "filter",
    "decoder.pixel_decoder",
    "decoder.query",
    *(f"decoder.steps.{i}.{part}" for i in range(4) for part in ("patch_embedding", "attention", "local")),
    *(f"decoder.heads.{i}" for i in range(4)),
    "anomaly_map_generator",
)


def build(preset: bool) -> UniASModel:
    """Build the preset for CPUs, or the model of the paper, without its weights."""
    return (UniASLite if preset else UniAS)(pre_trained=False).model.eval()


def count_macs(model: UniASModel, images: torch.Tensor) -> dict[str, float]:
    """Count the MACs of one image for every part and for the whole model."""
    with FlopCounterMode(display=False, depth=6) as counter, torch.no_grad():
        model(images)
    counts = {
        name.removeprefix("UniASModel."): sum(ops.values()) / 2 for name, ops in counter.get_flop_counts().items()
    }
    return {"total": counts["UniASModel"], **{name: counts.get(name, 0.0) for name in PARTS}}


def measure_seconds(model: UniASModel, images: torch.Tensor, runs: int) -> dict[str, float]:
    """Measure the median seconds of every part and of the whole model."""
    started: dict[str, float] = {}
    seconds: dict[str, list[float]] = defaultdict(list)

    def watch(name: str, module: nn.Module) -> None:
        module.register_forward_pre_hook(lambda *_: started.__setitem__(name, time.perf_counter()))
        module.register_forward_hook(lambda *_: seconds[name].append(time.perf_counter() - started[name]))

    modules = dict(model.named_modules())
    watch("total", model)
    for name in PARTS:
        if name in modules:
            watch(name, modules[name])
    with torch.no_grad():
        for _ in range(runs + 1):
            model(images)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def profile(model: UniASModel, runs: int) -> pd.DataFrame:
    """Make a table with one row per part: parameters, MMAC and milliseconds of one image."""
    images = torch.randn(1, 3, *model.image_size)
    seconds = measure_seconds(model, images, runs)
    macs = count_macs(model, images)
    modules = {"total": model, **dict(model.named_modules())}
    return pd.DataFrame(
        {
            "part": name,
            "parameters": sum(p.numel() for p in modules[name].parameters()) if name in modules else 0,
            "mmac": round(macs[name] / 1e6, 1),
            "ms": round(1000 * seconds[name], 2) if name in seconds else float("nan"),
        }
        for name in macs
        if name in modules
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="store_true", help="the preset for CPUs instead of the model of the paper")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="CSV file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = profile(build(arguments.preset), arguments.runs)
    table = Table(*rows.columns)
    for row in rows.itertuples(index=False):
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row))
    Console().print(table)
    if arguments.output:
        rows.to_csv(arguments.output, index=False)
        print(f"Written to {arguments.output}")


if __name__ == "__main__":
    main()
