"""Measures the time of each part of a whole run of the preset, from images to a calibrated OpenVINO model.

    python -m benchmarks.whole_run --group all=DIR

There is one run with all defaults for each group, in a separate process; nothing else should run on the machine. Rows
``group,part,value,unit`` of ``whole_run.csv``: seconds of each part in order and ``total``, the number of training
images and steps, and the peak memory above that of the process with its libraries before the run. The peak without
mapped files leaves out the pages of the feature file, which the system gives to other processes when they need memory.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

import pandas as pd
import torch
from anomalib.engine import Engine
from benchmarks.groups import BUILT_IN, Group
from benchmarks.harness import append, log, memory_mb, missing, read_table, report, run_all
from benchmarks.models import PRESET, build
from benchmarks.protocol import separate_cache
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

FILE = "whole_run.csv"
COLUMNS = ["group", "part", "value", "unit"]


class Clock(Callback):
    """Records the time at which each part of a run begins: callbacks are called before the model."""

    def __init__(self) -> None:
        self.begins: dict[str, float] = {}

    def _begin(self, part: str) -> None:
        self.begins.setdefault(part, time.perf_counter())

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record that the model begins to compute its frozen features."""
        del trainer, pl_module
        self._begin("frozen features")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record that the model begins to fit its prototypes and scales."""
        del trainer, pl_module
        self._begin("prototypes and scales")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record the first training step."""
        del trainer, pl_module, batch, batch_idx
        self._begin("steps of the decoder")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record that the calibration of the post-processor begins."""
        del trainer, pl_module
        self._begin("calibration and threshold")


@contextmanager
def sampled_memory() -> Iterator[list[float]]:
    """Measure the memory of this process that is not a mapped file ten times a second.

    Yields:
        list[float]: In MiB; the first is from before the block.
    """
    found, ended = [memory_mb("RssAnon")], Event()

    def sample() -> None:
        while not ended.wait(0.1):
            found.append(memory_mb("RssAnon"))

    thread = Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def run(group: Group, options: argparse.Namespace) -> None:
    """Make one run, and append its rows."""
    seed_everything(0, workers=True)
    before, clock = memory_mb("VmRSS"), Clock()
    with TemporaryDirectory() as folder, separate_cache(folder), sampled_memory() as anonymous:
        model, datamodule = build(PRESET), group.datamodule(0)
        engine = Engine(default_root_dir=folder, callbacks=[clock], accelerator="cpu", devices=1)
        clock.begins["data"] = time.perf_counter()
        engine.fit(model, datamodule=datamodule)
        clock.begins["export to OpenVINO"] = time.perf_counter()
        engine.export(model, "openvino", export_root=folder)
        ends = [*list(clock.begins.values())[1:], time.perf_counter()]
    rows = [(part, end - begin, "s") for (part, begin), end in zip(clock.begins.items(), ends, strict=True)]
    rows += [
        ("total", ends[-1] - clock.begins["data"], "s"),
        ("training images", len(datamodule.train_data), "images"),
        ("steps", engine.trainer.global_step, "steps"),
        ("peak memory above the libraries", memory_mb("VmHWM") - before, "MB"),
        ("peak memory without mapped files", max(anonymous) - anonymous[0], "MB"),
    ]
    table = pd.DataFrame(rows, columns=COLUMNS[1:]).round(1)
    report(", ".join(f"{part} {value:.0f} {unit}" for part, value, unit in rows))
    append(options.output / FILE, table.assign(group=group.name)[COLUMNS])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--group", type=Group.parse, action="append", help="NAME=DIR[:category,...]; default: the built-in products")
    add("--threads", type=int, default=2)
    add("--output", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    add("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    groups = {group.name: group for group in options.group or [BUILT_IN]}
    if options.one:
        run(groups[options.one], options)
        return
    remaining = missing([(name,) for name in groups], read_table(options.output / FILE, COLUMNS), ["group"])
    succeeded = run_all("benchmarks.whole_run", remaining, options.output)
    log(f"Results: {options.output / FILE}")
    sys.exit(not succeeded)


if __name__ == "__main__":
    main()
