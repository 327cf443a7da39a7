"""Trainings and inspections that are killed at a random moment, and resumed."""

import json
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from anomalib.engine import Engine
from benchmarks import forked
from benchmarks.examples import inspect, tiny_model, two_products
from lightning.pytorch.callbacks import ModelCheckpoint

from anomalib_unias import CadaPostProcessor

_STEPS_OF_EPOCH = 5
_STEPS = 40


def training(folder: Path, data: Path) -> None:
    """Train and calibrate, from the last checkpoint if there is one, and write the final state.

    Args:
        folder (Path): Folder for checkpoints and ``final.pt``.
        data (Path): Folder of :func:`write_products`.
    """
    torch.manual_seed(0)
    model = tiny_model(post_processor=CadaPostProcessor(), evaluator=False, feature_cache="memory")
    datamodule = two_products(data, seed=1)
    checkpoints = ModelCheckpoint(folder, save_last=True, every_n_train_steps=_STEPS_OF_EPOCH)
    last = folder / "last.ckpt"
    engine = Engine(
        default_root_dir=folder / "engine",
        accelerator="cpu",
        max_steps=_STEPS,
        callbacks=[checkpoints],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    engine.fit(model, datamodule=datamodule, ckpt_path=last if last.exists() else None)
    torch.save(model.state_dict(), folder / "final.pt")


def killed_trainings(work: Path, data: Path, kills: int, limit: float, rng: np.random.Generator) -> dict[str, int]:
    """Kill trainings, resume them, and compare weights and calibration with an uninterrupted training.

    Args:
        work (Path): Empty folder.
        data (Path): Data set.
        kills (int): Number of trainings.
        limit (float): Seconds after which a training counts as a hang.
        rng (np.random.Generator): Draws the moments.

    Returns:
        dict[str, int]: ``tried`` and the counts of the outcomes. ``lost`` counts tensors that differ.
    """
    reference = work / "reference"
    reference.mkdir()
    started = time.monotonic()
    ended = forked.run(partial(training, reference, data), reference / "output.txt", limit)
    _require_result(ended)
    seconds = time.monotonic() - started

    def begin(folder: Path) -> None:
        folder.mkdir()
        process = forked.start(partial(training, folder, data), folder / "output.txt")
        _kill_after(process, rng.uniform(0, seconds))

    def resume(folder: Path) -> tuple[forked.Ended, int]:
        resumable = len(list(folder.glob("last.ckpt")))
        ended = forked.run(partial(training, folder, data), folder / "output.txt", limit)
        lost = _different_tensors(reference, folder)
        print(
            f"training resumed {'from a checkpoint' if resumable else 'from nothing'}: {lost} tensors differ",
            flush=True,
        )
        return ended, lost

    return _killed(work, kills, begin, resume)


def killed_inspections(
    work: Path, model: Path, images: Path, kills: int, limit: float, rng: np.random.Generator
) -> dict[str, int]:
    """Kill inspections, resume them, and compare lines and pictures with an uninterrupted inspection.

    Args:
        work (Path): Empty folder.
        model (Path): Exported model.
        images (Path): Folder of images.
        kills (int): Number of inspections.
        limit (float): Seconds after which an inspection counts as a hang.
        rng (np.random.Generator): Draws the moments.

    Returns:
        dict[str, int]: ``tried`` and the counts of the outcomes. ``lost`` counts images with no line, two lines, a
        different line or a different picture.
    """

    def inspection(folder: Path) -> Callable[[], object]:
        arguments = ("--output", folder / "lines.jsonl", "--overlays", folder / "shown", "--resume", "true")
        return partial(inspect, model, images, *arguments)

    reference = work / "reference"
    reference.mkdir()
    started = time.monotonic()
    _require_result(forked.run(inspection(reference), reference / "output.txt", limit))
    seconds = time.monotonic() - started
    lines, pictures = lines_of(reference / "lines.jsonl"), pictures_of(reference / "shown")

    def begin(folder: Path) -> None:
        folder.mkdir()
        process = forked.start(inspection(folder), folder / "output.txt")
        _kill_after(process, rng.uniform(0, seconds))

    def resume(folder: Path) -> tuple[forked.Ended, int]:
        before = (folder / "lines.jsonl").read_bytes().count(b"\n") if (folder / "lines.jsonl").exists() else 0
        ended = forked.run(inspection(folder), folder / "output.txt", limit)
        found = lines_of(folder / "lines.jsonl")
        lost = abs(len(found) - len(lines)) + sum(line not in lines for line in found)
        lost += len(pictures.items() ^ pictures_of(folder / "shown").items())
        print(f"inspection resumed after {before} of {len(lines)} lines: {lost} differ", flush=True)
        return ended, lost

    return _killed(work, kills, begin, resume)


def lines_of(output: Path) -> list[dict]:
    """Read the lines of a file of results without times, in the order of the images.

    Args:
        output (Path): File of JSON lines.

    Returns:
        list[dict]: One entry for each line.
    """
    entries = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    compared = ({name: value for name, value in entry.items() if name != "milliseconds"} for entry in entries)
    return sorted(compared, key=lambda entry: entry["image"])


def pictures_of(folder: Path) -> dict[str, bytes]:
    """Read all pictures.

    Args:
        folder (Path): Folder of overlays.

    Returns:
        dict[str, bytes]: Relative path -> contents.
    """
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def _killed(
    work: Path, kills: int, begin: Callable[[Path], None], resume: Callable[[Path], tuple[forked.Ended, int]]
) -> dict[str, int]:
    counts: Counter[str] = Counter(tried=kills)
    for number in range(kills):
        folder = work / str(number)
        begin(folder)
        ended, lost = resume(folder)
        kind = ended.kind([])
        counts.update({kind: 1, "lost": lost})
        if kind != "result":
            print(ended.output[-2000:], flush=True)
    return dict(counts)


def _kill_after(process: int, seconds: float) -> None:
    time.sleep(seconds)
    forked.kill(process)


def _require_result(ended: forked.Ended) -> None:
    if ended.status != 0:
        msg = f"The reference run, which is not killed, failed: {ended.output[-2000:]}"
        raise RuntimeError(msg)


def _different_tensors(reference: Path, resumed: Path) -> int:
    """Count tensors of the final model, and of its last checkpoint, that are missing or have other values."""
    if not (resumed / "final.pt").exists():
        return 1
    pairs = [
        (torch.load(folder / "final.pt"), torch.load(folder / "last.ckpt", weights_only=False)["state_dict"])
        for folder in (reference, resumed)
    ]
    return sum(
        before.keys() != after.keys()
        or sum(not torch.equal(before[key].nan_to_num(), after[key].nan_to_num()) for key in before)
        for before, after in zip(*pairs, strict=True)
    )
