"""Compares the quality of several models: one model for all products of a group, several seeds.

    python -m benchmarks.quality --group a=DIR:pcb,cookie --group b=DIR:screw,steel --group all=DIR --seeds 0 1 2

A group is a folder with categories in the layout of MVTec AD, or some of its categories; without ``--group`` it is the
built-in products. :mod:`benchmarks.protocol` describes the training; each model is measured with its defaults. A group,
model and seed that is in the table is not run again. Columns of ``quality.csv``:
``group,model,calibration,seed,category,metric,value``.

The calibration is ``default`` here; :mod:`benchmarks.cada` has others. The category ``mean`` is the mean of the
categories, ``mixed`` their joint set. In addition to the metrics, there are these rows of the category ``mixed``:

- ``train_seconds``, including frozen features, and ``train_steps`` of 8 images,
- ``loss_flat``, 1 or 0, for models that are trained until their loss is flat,
- ``peak_mb`` of the process, in training and test,
- ``size_mb`` of weights and memory banks, ``latency_ms`` of the network in PyTorch for one image.

``quality.md`` and ``quality.png`` have mean and standard deviation over the seeds, and the ratio to PatchCore.
``patchcore_10`` is PatchCore with anomalib's default coreset of 10 %, which takes ten times as long to choose as one of
1 %; it is left out if it needs more memory than ``--memory-limit``.
"""

import argparse
from tempfile import TemporaryDirectory

import pandas as pd
from benchmarks import protocol
from benchmarks.harness import append, read_table, report
from benchmarks.models import BY_DEFAULT, MODELS, build, needed_gb
from benchmarks.quality_summary import summarize

COLUMNS = ["group", "model", "calibration", "seed", "category", "metric", "value"]
KEY = ["group", "model", "seed"]
FILE = "quality.csv"


def run(group_name: str, name: str, seed: int, options: argparse.Namespace) -> None:
    """Train and test one model, and append its rows."""
    group = protocol.groups_of(options)[group_name]
    datamodule = group.datamodule(seed)
    datamodule.prepare_data()
    datamodule.setup()
    needed = needed_gb(name, len(datamodule.train_data))
    if needed > options.memory_limit:
        report(f"skipped: {name} needs some {needed:.1f} GB, --memory-limit is {options.memory_limit:g}")
        return
    path = options.output / FILE
    length = protocol.length(name, options, read_table(path, COLUMNS), group_name, seed)
    with TemporaryDirectory() as folder:
        trained = protocol.train(lambda: build(name, evaluator=protocol.evaluator()), group, seed, length, folder)
        rows = protocol.test(trained, group, seed)
    table = pd.DataFrame(rows, columns=["category", "metric", "value"])
    append(path, table.assign(group=group_name, model=name, calibration="default", seed=seed)[COLUMNS])


def main() -> None:
    """Command line."""
    table = protocol.Table("benchmarks.quality", FILE, COLUMNS, KEY)
    protocol.command(__doc__, table, MODELS, run, summarize, BY_DEFAULT)


if __name__ == "__main__":
    main()
