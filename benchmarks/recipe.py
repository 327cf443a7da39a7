"""Compares the quality of variants of a CPU preset: one model for all products of a group, several seeds.

    python -m benchmarks.recipe --group a=DIR:pcb,cookie --group b=DIR:screw --variant "" --variant feature_scaling=none
    python -m benchmarks.recipe --model uniad_lite --group b=DIR:screw --variant "" --variant learning_rate=4.0e-4

Groups, training, resuming and metrics are as in :mod:`benchmarks.quality`. A variant is a list of constructor
arguments, ``name=value;...``, that replace those of the preset; the empty variant is the preset itself. Columns of
``recipe.csv``: ``group,variant,steps,seed,category,metric,value``; ``steps`` is the value of ``--steps``, or
``default``. Only the ``train_seconds`` of the first run of a group include computing its frozen features, which the
other runs find in the cache. ``recipe.md`` has mean and standard deviation over the seeds. Presets other than that of
UniAS have their own table, ``recipe_MODEL.csv``.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
import yaml
from benchmarks import protocol
from benchmarks.harness import append, log, missing, read_table, run_all
from benchmarks.models import PRESET, PRESETS, build
from benchmarks.quality_summary import heading, spread

COLUMNS = ["group", "variant", "steps", "seed", "category", "metric", "value"]
KEY = ["group", "variant", "steps", "seed"]
SHOWN = ("image_auroc", "pixel_ap", "dsc_best_f1", "aupro", "train_seconds", "latency_ms")
_UNCHANGED, _DEFAULT = "preset", "default"


def arguments_of(variant: str) -> dict[str, Any]:
    """Read ``name=value;name=value``.

    Args:
        variant (str): Empty, or ``preset``, for the preset itself.

    Returns:
        dict[str, Any]: Constructor arguments.

    Raises:
        ValueError: If a part has no value.

    Example:
        >>> arguments_of("prototypes=0;levels=[1, 2]")
        {'prototypes': 0, 'levels': [1, 2]}
    """
    found = {}
    for part in filter(None, "" if variant == _UNCHANGED else variant.split(";")):
        name, equals, value = part.partition("=")
        if not (name and equals):
            msg = f"expected name=value;name=value, got {part!r} in {variant!r}"
            raise ValueError(msg)
        found[name] = yaml.safe_load(value)
    return found


def table_path(options: argparse.Namespace) -> Path:
    """Get the file of the table for the chosen preset."""
    return options.output / ("recipe.csv" if options.model == PRESET else f"recipe_{options.model}.csv")


def run(group_name: str, variant: str, steps: str, seed: int, options: argparse.Namespace) -> None:
    """Train and test one variant, and append its rows."""
    group = protocol.groups_of(options)[group_name]
    path = table_path(options)
    length = {} if steps == _DEFAULT else {"max_steps": int(steps)}
    arguments = {**arguments_of(variant), "evaluator": protocol.evaluator()}
    with TemporaryDirectory() as folder:
        trained = protocol.train(
            lambda: build(options.model, **arguments), group, seed, length, folder, separate_features=False
        )
        rows = protocol.test(trained, group, seed)
    table = pd.DataFrame(rows, columns=["category", "metric", "value"])
    append(path, table.assign(group=group_name, variant=variant, steps=steps, seed=seed)[COLUMNS])


def summarize(table: pd.DataFrame) -> str:
    """Make Markdown tables of mean and standard deviation over the seeds."""
    parts = [heading()]
    rows = table[table["category"].isin(["mean", "mixed"]) & table["metric"].isin(SHOWN)]
    for (group, steps), part in rows.groupby(["group", "steps"], sort=False):
        parts.append(f"## Group {group}, steps: {steps}")
        named = part.assign(column=part["category"] + " " + part["metric"])
        parts.append(spread(named, "variant", "column"))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    protocol.add_arguments(parser)
    parser.add_argument("--model", default=PRESET, choices=PRESETS, help="preset whose variants are trained")
    parser.add_argument("--variant", action="append", help="name=value;..., or empty for the preset itself")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        group, variant, steps, seed = options.one
        run(group, variant, steps, int(seed), options)
        return
    path = table_path(options)
    variants = [variant or _UNCHANGED for variant in options.variant or [""]]
    for variant in variants:
        arguments_of(variant)  # raises errors before the first run
    steps = str(options.steps) if options.steps else _DEFAULT
    jobs = [
        (group, variant, steps, str(seed))
        for seed in options.seeds
        for group in protocol.groups_of(options)
        for variant in variants
    ]
    succeeded = run_all("benchmarks.recipe", missing(jobs, read_table(path, COLUMNS), KEY), options.output)
    if path.exists():
        text = summarize(read_table(path, COLUMNS))
        path.with_suffix(".md").write_text(text)
        print(text)
        log(f"Results: {path}, {path.stem}.md beside it")
    sys.exit(not succeeded)


if __name__ == "__main__":
    main()
