"""Tests the preset, at its threshold, with changed light, focus, noise and position.

    python -m benchmarks.shift --group a=DIR:pcb,cookie --group b=DIR:screw,steel

One model per group is trained with its defaults; its threshold comes from normal images that it holds out. Then it is
tested on unchanged images and with every change of ``anomalib-unias shift``. Columns of ``shift.csv``: ``group`` and
those of :func:`~anomalib_unias.evaluation.shift_test.measure_shift`; a figure for each group is beside it. A group that
is in the table is not run again.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from benchmarks import protocol
from benchmarks.groups import Group
from benchmarks.harness import append, log, read_table
from benchmarks.models import PRESET, build

from anomalib_unias.evaluation.shift_test import SHIFT_COLUMNS, measure_shift
from anomalib_unias.report.shift_page import draw_shift

FILE = "shift.csv"
COLUMNS = ["group", *SHIFT_COLUMNS]
# Validates once, after training: this sets the scale of the scores, but not the threshold.
ONCE = {"limit_val_batches": 1.0, "check_val_every_n_epoch": 10_000, "num_sanity_val_steps": 0}


def run(group: Group, options: argparse.Namespace) -> None:
    """Train and test one model, append its rows and draw them."""
    length = {"max_steps": options.steps} if options.steps else {}
    with TemporaryDirectory() as folder:
        trained = protocol.train(lambda: build(PRESET), group, 0, {**ONCE, **length}, folder)
        if options.checkpoints:
            trained.engine.trainer.save_checkpoint(options.checkpoints / f"{group.name}.ckpt")
        table = measure_shift(trained.model, group.datamodule(0))
    append(options.output / FILE, table.assign(group=group.name)[COLUMNS].round({"value": 4, "low": 4, "high": 4}))
    draw_shift(table).savefig(options.output / f"shift_{group.name}.png", dpi=100)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--group", type=Group.parse, action="append", required=True, help="NAME=DIR[:category,...]")
    add("--steps", type=int, help="length of training, for a quick trial; default: that of the preset")
    add("--threads", type=int, default=2)
    add("--checkpoints", type=Path, help="folder for the trained models; default: they are not kept")
    add("--output", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    done = set(read_table(options.output / FILE, COLUMNS)["group"])
    for group in options.group:
        if group.name not in done:
            log(f"group {group.name}")
            run(group, options)
    log(f"Results: {options.output / FILE}")


if __name__ == "__main__":
    main()
