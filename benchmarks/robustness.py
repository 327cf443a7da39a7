"""Checks that nothing is lost when a training or an inspection is killed or gets malformed input.

    python -m benchmarks.robustness

Small models with random weights run on generated images. Trainings and inspections are killed (SIGKILL) at random
moments and resumed; weights and calibration, lines and pictures are compared with those of an uninterrupted run. Then
malformed images, folders, tables, configurations, checkpoints, lists, models and results go through ``train``,
``predict``, ``export`` and ``inspect``. Every run is a separate process, forked after the libraries were imported, so
that a crash or a hang is noticed and affects no other run. Data and checkpoints go to the method of the Engine that the
stock command calls, configurations to the command itself.

A row is appended to the output as soon as it is done, ``target,case,tried,clear_error,result,crash,hang,lost``;
existing rows are not repeated. The columns count:

- ``clear_error``: only a message is shown, and it names the file, folder or argument at fault. The stock command shows
  the traceback of every exception, which no plugin can change; there an exception whose message names the fault
  counts, unless it is an internal one such as ``KeyError``. An image that is skipped with a warning counts too.
- ``result``: the run completed; for a killed and resumed run, whatever its result.
- ``crash``: all other ends, by a signal or with an error that does not say what is wrong.
- ``hang``: the run has computed for ``--limit`` seconds, or has not computed at all for half as long.
- ``lost``: for an inspection, images with no line, two lines, or a different line or picture; for a training, tensors
  of the final model and of its checkpoint that differ.
"""

import argparse
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from benchmarks import forked
from benchmarks.examples import export_line, tiny_model, two_products, write_products
from benchmarks.harness import append, log, read_table
from benchmarks.killed import killed_inspections, killed_trainings
from benchmarks.malformed import image_bytes
from benchmarks.malformed_line import inspected_images, sources
from benchmarks.malformed_projects import PROJECT_CASES, Attempt, Project

COLUMNS = ["target", "case", "tried", "clear_error", "result", "crash", "hang", "lost"]
TARGETS = ["train", "predict", "export", "inspect"]
KILLED = "killed at a random moment and resumed"


class Table:
    """The table of completed rows.

    Args:
        path (Path): CSV file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def has(self, target: str, case: str) -> bool:
        """Check whether a row exists.

        Args:
            target (str): Command.
            case (str): Name of the case.

        Returns:
            bool: Whether it exists.
        """
        table = read_table(self.path, COLUMNS)
        return bool(((table.target == target) & (table.case == case)).any())

    def add(self, target: str, case: str, counts: dict[str, int]) -> None:
        """Append a row.

        Args:
            target (str): Command.
            case (str): Name of the case.
            counts (dict[str, int]): Counts by column.
        """
        row = {"target": target, "case": case, **{name: counts.get(name, 0) for name in COLUMNS[2:]}}
        append(self.path, pd.DataFrame([row], columns=COLUMNS))
        log(str(row))


def count(attempts: Iterable[Attempt], work: Path, limit: float) -> dict[str, int]:
    """Try inputs one after the other, and show the output of crashes and hangs.

    Args:
        attempts (Iterable[Attempt]): Inputs.
        work (Path): Folder for the output.
        limit (float): Seconds after which a run counts as a hang.

    Returns:
        dict[str, int]: Number of inputs by outcome.
    """
    counts: Counter[str] = Counter()
    for attempt in attempts:
        ended = forked.run(attempt.work, work / "output.txt", limit)
        kind = ended.kind(attempt.names)
        counts.update({"tried": 1, kind: 1})
        if kind in {"crash", "hang"}:
            print(f"{kind} {ended.status} {attempt.names}: {ended.error[:300]!r}", flush=True)
    return dict(counts)


def write_checkpoint(data: Path, path: Path) -> None:
    """Train a tiny model for two steps.

    Args:
        data (Path): Images.
        path (Path): Checkpoint to write.
    """
    project = Project(data, path, path.parent)
    engine = project.engine()
    engine.fit(tiny_model(feature_cache="off"), datamodule=two_products(data))
    engine.trainer.save_checkpoint(path)


def prepare(work: Path, images: int, limit: float) -> tuple[Path, Path, Project]:
    """Make the model of the line, its images, and a project.

    Args:
        work (Path): Empty folder.
        images (int): Number of images for the line.
        limit (float): Seconds after which a run counts as a hang.

    Returns:
        tuple[Path, Path, Project]: Model, folder of images, project.

    Raises:
        RuntimeError: If well-formed input does not give a result.
    """
    rng = np.random.default_rng(0)
    (work / "images").mkdir()
    for number in range(images):
        (work / "images" / f"{number:04}.png").write_bytes(image_bytes(rng, ".png"))
    data = write_products(work / "data", train=10, test=2)
    (work / "project").mkdir()
    checkpoint = work / "model.ckpt"
    for make in (partial(export_line, work), partial(write_checkpoint, data, checkpoint)):
        if (ended := forked.run(make, work / "output.txt", limit)).status != 0:
            raise RuntimeError(ended.output[-2000:])
    return work / "weights/openvino/model.xml", work / "images", Project(data, checkpoint, work / "project")


def emptied(folder: Path) -> Path:
    """Empty a folder, or create it.

    Args:
        folder (Path): The folder.

    Returns:
        Path: The same.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def measure(table: Table, work: Path, options: argparse.Namespace) -> None:
    """Add all rows that are missing.

    Args:
        table (Table): Table to fill.
        work (Path): Empty folder.
        options (argparse.Namespace): Options of the command line.
    """
    model, images, project = prepare(work, options.images, options.limit)

    def seeded(target: str, case: str) -> np.random.Generator:
        return np.random.default_rng([options.seed, zlib.crc32(f"{target} {case}".encode())])

    def missing(target: str, case: str) -> bool:
        return target in options.targets and not table.has(target, case)

    if missing("train", case := KILLED):
        rng, folder = seeded("train", case), emptied(work / "case")
        table.add("train", case, killed_trainings(folder, project.data, options.kills, options.limit, rng))
    if missing("inspect", case):
        rng, folder = seeded("inspect", case), emptied(work / "case")
        table.add("inspect", case, killed_inspections(folder, model, images, options.kills, options.limit, rng))
    if missing("inspect", "file cut off"):
        rng = seeded("inspect", "images")
        for row in inspected_images(emptied(work / "case"), model, options.inputs, options.limit, rng):
            table.add("inspect", str(row.pop("case")), row)
    for case, attempts in sources(emptied(work / "sources"), images, model, seeded("inspect", "sources")):
        if missing("inspect", case):
            table.add("inspect", case, count(attempts, work, options.limit))
    for (target, case), (make, number) in PROJECT_CASES.items():
        if missing(target, case):
            emptied(project.root)
            attempt_count = max(1, round(number * options.share))
            attempts = make(project, attempt_count, seeded(target, case))
            table.add(target, case, count(attempts, work, options.limit))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--kills", type=int, default=20, help="of trainings, and of inspections")
    parser.add_argument("--inputs", type=int, default=390, help="malformed images for the line")
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs for train, predict and export")
    parser.add_argument("--images", type=int, default=300, help="images of an inspection that is killed")
    parser.add_argument("--limit", type=float, default=120, help="seconds of computing after which a run hangs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/robustness.csv"))
    options = parser.parse_args()
    with TemporaryDirectory() as name, suppress(KeyboardInterrupt):
        measure(Table(options.output), Path(name), options)
    print(pd.read_csv(options.output).to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
