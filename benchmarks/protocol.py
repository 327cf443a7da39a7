"""Training and testing of models, the same for all tables.

One model learns all products of a group, from ALL of their normal training images; only a model that holds images out
in its default configuration does so. All models use images of 224x224 and a frozen EfficientNet-Lite0 with ImageNet
weights, in batches of 8.

- The presets of this package are trained for their default number of steps; "the preset" below is that of UniAS.
- PatchCore and PaDiM see every image once.
- Other models with a training loss are trained until it is flat, see :mod:`benchmarks.flat_loss`: at least twice as
  long as the preset took for the same group and seed, and at most eight times.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from benchmarks.flat_loss import FlatLoss
from benchmarks.groups import BUILT_IN, Group
from benchmarks.harness import log, memory_mb, missing, read_table, report, run_all
from benchmarks.measured import Row, table_rows
from benchmarks.models import ONE_PASS, PRESET, PRESETS, SIZE
from benchmarks.supersimplenet import EPOCHS
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from anomalib_unias.metrics import UnifiedEvaluator

_LEAST_TIMES, _LIMIT_TIMES = 2, 4
_SECONDS_BETWEEN_LINES = 60


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Args:
        model (AnomalibModule): The model, in eval mode.
        engine (Engine): Engine for its test.
        seconds (float): Wall time of the training, including reading images and computing frozen features.
        steps (int): Number of training batches.
        flat (bool | None): Whether the loss was flat at the end. ``None`` for models whose length does not depend on
            the loss.
    """

    model: AnomalibModule
    engine: Engine
    seconds: float
    steps: int
    flat: bool | None

    def cost_rows(self) -> list[Row]:
        """Get the costs of training and inference, see the columns in :mod:`benchmarks.quality`."""
        values = {
            "train_seconds": self.seconds,
            "train_steps": float(self.steps),
            "peak_mb": memory_mb("VmHWM"),
            "size_mb": sum(tensor.nbytes for tensor in self.model.model.state_dict().values()) / 1e6,
            "latency_ms": _latency_ms(self.model),
        }
        if self.flat is not None:
            values["loss_flat"] = float(self.flat)
        return [("mixed", metric, value) for metric, value in values.items()]


class ProgressLines(Callback):
    """Reports the progress of training once a minute."""

    def __init__(self) -> None:
        self.steps = 0
        self._last_report = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        del pl_module, batch, batch_idx
        self.steps += 1
        if time.perf_counter() - self._last_report >= _SECONDS_BETWEEN_LINES:
            self._last_report = time.perf_counter()
            loss = f", loss {float(outputs['loss']):.4g}" if isinstance(outputs, dict) else ""
            report(f"epoch {trainer.current_epoch}, step {self.steps}{loss}")


def length(name: str, options: argparse.Namespace, done: pd.DataFrame, group: str, seed: int) -> dict[str, Any]:
    """Get the length of a model's training.

    Args:
        name (str): Name of the model.
        options (argparse.Namespace): Options with ``steps``, ``peer_seconds`` and ``peer_limit``.
        done (pd.DataFrame): Table with the time of the preset.
        group (str): Name of the group.
        seed (int): Seed.

    Returns:
        dict[str, Any]: Arguments of the trainer.

    Raises:
        ValueError: If the time of the preset is needed and is not in the table.
    """
    if name in PRESETS:
        return {"max_steps": options.steps} if options.steps else {}
    if name in ONE_PASS:
        return {"max_epochs": 1}
    least = options.peer_seconds
    if least is None:
        chosen = (done["group"] == group) & (done["model"] == PRESET) & (done["seed"] == seed)
        seconds = done.loc[chosen & (done["metric"] == "train_seconds"), "value"]
        if seconds.empty:
            msg = (
                f"{name} is trained {_LEAST_TIMES} times as long as {PRESET}, which has no train_seconds for group "
                f"{group!r}, seed {seed} in the table. Add {PRESET} to --models, or give --peer-seconds."
            )
            raise ValueError(msg)
        least = _LEAST_TIMES * float(seconds.iloc[-1])
    limit = options.peer_limit if options.peer_limit is not None else _LIMIT_TIMES * least
    return {"max_epochs": EPOCHS if name == "supersimplenet" else -1, "callbacks": [FlatLoss(least, limit)]}


def train(
    build: Callable[[], AnomalibModule],
    group: Group,
    seed: int,
    arguments: Mapping[str, Any],
    folder: str,
    separate_features: bool = True,
) -> Trained:
    """Train a model without validation, as no metric depends on a threshold.

    Args:
        build (Callable[[], AnomalibModule]): Builds the model.
        group (Group): Group whose images are used.
        seed (int): Seed.
        arguments (Mapping[str, Any]): Arguments of the trainer, see :func:`length`.
        folder (str): Folder for the files of the engine.
        separate_features (bool): Whether this run computes its frozen features itself, instead of using a cache of
            earlier runs, so that its time includes them. Defaults to ``True``.

    Returns:
        Trained: The model, and the cost of its training.
    """
    seed_everything(seed, workers=True)
    model, lines = build(), ProgressLines()
    callbacks: list[Callback] = [lines, *arguments.get("callbacks", ())]
    defaults = {"accelerator": "cpu", "devices": 1, "limit_val_batches": 0, "enable_progress_bar": False}
    engine = Engine(default_root_dir=folder, **defaults | dict(arguments) | {"callbacks": callbacks})
    datamodule = group.datamodule(seed)
    started = time.perf_counter()
    with separate_cache(folder) if separate_features else nullcontext():
        engine.fit(model, datamodule=datamodule)
    seconds = time.perf_counter() - started
    flat = next((callback.flat for callback in callbacks if isinstance(callback, FlatLoss)), None)
    end = {None: "", True: ", loss flat", False: ", loss not flat"}[flat]
    report(f"trained in {seconds:.0f} s, {lines.steps} steps{end}")
    return Trained(model.eval(), engine, seconds, lines.steps, flat)


@contextmanager
def separate_cache(folder: str) -> Iterator[None]:
    """Use another folder as the user's cache folder (on Linux, where it can be set).

    Args:
        folder (str): The folder.
    """
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before


def test(trained: Trained, group: Group, seed: int) -> list[Row]:
    """Test a model with its ``UnifiedEvaluator``, and add its cost.

    Args:
        trained (Trained): A model that was built with :func:`evaluator`.
        group (Group): Group whose test images are used.
        seed (int): Seed.

    Returns:
        list[Row]: Category, metric, value.
    """
    trained.engine.test(trained.model, datamodule=group.datamodule(seed))
    rows = table_rows(trained.model.evaluator.results) + trained.cost_rows()
    values = {(category, metric): value for category, metric, value in rows}
    shown = ("image_auroc", "pixel_ap", "dsc_best_f1")
    texts = [f"{metric} {values['mean', metric]:.3f} / {values['mixed', metric]:.3f}" for metric in shown]
    report(f"mean / mixed: {', '.join(texts)}; peak {values['mixed', 'peak_mb']:.0f} MB")
    return rows


def evaluator() -> UnifiedEvaluator:
    """Build the evaluator for the test of a model."""
    return UnifiedEvaluator(validation=(), log="stock", print_table=False)


def _latency_ms(model: AnomalibModule, runs: int = 20) -> float:
    seconds = []
    with torch.no_grad():
        for _ in range(runs):
            started = time.perf_counter()
            model.model(torch.rand(1, 3, *SIZE))
            seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all tables have."""
    add = parser.add_argument
    named = "NAME=DIR[:category,...][@training images of each]; default: the built-in products"
    add("--group", type=Group.parse, action="append", help=named)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--steps", type=int, help="length of the presets, for a quick trial; default: their own")
    add("--threads", type=int, default=2)
    add("--output", type=Path, default=Path("benchmarks/results"), help="folder of the results")


def add_peer_arguments(parser: argparse.ArgumentParser, models: Sequence[str], by_default: Sequence[str]) -> None:
    """Add the arguments of tables that compare models."""
    parser.add_argument("--models", nargs="+", default=by_default, choices=models)
    least = "least training time of the models with a loss; default: twice that of the preset"
    parser.add_argument("--peer-seconds", type=float, help=least)
    parser.add_argument("--memory-limit", type=float, default=8, help="GB that a run may need")
    parser.add_argument("--peer-limit", type=float, help="their longest training time; default: four times the least")


def groups_of(options: argparse.Namespace) -> dict[str, Group]:
    """Get the groups by name."""
    return {group.name: group for group in options.group or [BUILT_IN]}


@dataclass(frozen=True)
class Table:
    """A table of models that is filled run by run.

    Args:
        module (str): Module of its command.
        file (str): Name of its file in the folder of results.
        columns (Sequence[str]): Its columns.
        key (Sequence[str]): Columns with group, model and seed.
    """

    module: str
    file: str
    columns: Sequence[str]
    key: Sequence[str]


def command(
    description: str | None,
    table: Table,
    models: Sequence[str],
    run: Callable[[str, str, int, argparse.Namespace], None],
    summarize: Callable[[pd.DataFrame, Path], None],
    by_default: Sequence[str] | None = None,
) -> None:
    """Command line of a table: do the missing runs, each in a separate process, and write the summary.

    Args:
        description (str | None): Help text.
        table (Table): The table to fill.
        models (Sequence[str]): Names of the models.
        run (Callable[[str, str, int, argparse.Namespace], None]): Runs a group, model and seed, and appends its rows.
        summarize (Callable[[pd.DataFrame, Path], None]): Writes files beside the table.
        by_default (Sequence[str] | None): Models that are run if none are named. Defaults to ``None``: all.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add_peer_arguments(parser, models, by_default or models)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        group, name, seed = options.one
        run(group, name, int(seed), options)
        return
    path = options.output / table.file
    succeeded = _run_missing(table, path, options)
    if path.exists():
        summarize(read_table(path, table.columns), options.output)
        log(f"Results: {path}, summary and pictures beside it")
    sys.exit(not succeeded)


def _run_missing(table: Table, path: Path, options: argparse.Namespace) -> bool:
    """Run all groups, models and seeds that are not in the table, and tell whether all succeeded."""
    # The preset comes first: other models are trained for a multiple of its time.
    models = sorted(options.models, key=lambda name: name != PRESET)
    groups = groups_of(options)
    jobs = [(group, name, str(seed)) for seed in options.seeds for group in groups for name in models]
    remaining = missing(jobs, read_table(path, table.columns), table.key)
    log(f"{len(remaining)} of {len(jobs)} runs to do; what is done is in {path}")
    return run_all(table.module, remaining, options.output)
