"""Malformed images, lists, videos, models and results for the inspection line."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from benchmarks import forked
from benchmarks.examples import inspect
from benchmarks.killed import lines_of
from benchmarks.malformed import MALFORMED, NAMES, image_bytes
from benchmarks.malformed_projects import Attempt

_RESULT = b'{"image": "a", "score": 1}\n'


def inspected_images(work: Path, model: Path, count: int, limit: float, rng: np.random.Generator) -> list[dict]:
    """Inspect one folder of malformed images; images that are skipped with a warning count as a clear error.

    Args:
        work (Path): Empty folder.
        model (Path): Exported model.
        count (int): Number of images.
        limit (float): Seconds after which the inspection counts as a hang.
        rng (np.random.Generator): Draws the images.

    Returns:
        list[dict]: ``case``, ``tried`` and counts of the outcomes for each kind of image.
    """
    cases = _write_images(work / "inputs", count, rng)
    output = work / "inputs.jsonl"
    arguments = (model, work / "inputs", "--output", output, "--overlays", work / "shown")
    ended = forked.run(partial(inspect, *arguments), work / "output.txt", limit)
    found: dict[str, list[dict]] = {}
    for entry in lines_of(output):
        found.setdefault(entry["image"], []).append(entry)
    failed = None if ended.status in {0, 1} else ended.kind([])
    if failed:
        print(ended.output[-2000:], flush=True)

    def outcome(path: Path) -> str:
        lines = found.get(str(path), [])
        if len(lines) == 1:
            return "clear_error" if "error" in lines[0] else "result"
        if not lines and (path.is_dir() or f"{str(path)!r} is skipped" in " ".join(ended.output.split("\n"))):
            return "clear_error"
        return failed or "lost"

    return [{"case": case, "tried": len(paths), **Counter(map(outcome, paths))} for case, paths in cases.items()]


def _write_images(folder: Path, count: int, rng: np.random.Generator) -> dict[str, list[Path]]:
    """Write malformed images, mixed with well-formed ones with difficult names; return the paths by case."""
    folder.mkdir()
    cases: dict[str, list[Path]] = {case: [] for case in (*MALFORMED, *NAMES)}
    for number in range(count):
        case = list(cases)[number % len(cases)]
        name = NAMES[case](number) if case in NAMES else b"%05d.png" % number
        path = folder / os.fsdecode(name)
        if case in NAMES:
            path.write_bytes(image_bytes(rng, ".png"))
        else:
            MALFORMED[case](path, rng)
        cases[case].append(path)
    return cases


def sources(work: Path, images: Path, model: Path, rng: np.random.Generator) -> Iterator[tuple[str, list[Attempt]]]:
    """Make malformed lists, videos, models and results, and conflicting arguments.

    Args:
        work (Path): Empty folder.
        images (Path): Folder of images.
        model (Path): Exported model.
        rng (np.random.Generator): Draws the inputs.

    Yields:
        tuple[str, list[Attempt]]: Name of the case and its inputs.
    """
    good = sorted(images.iterdir())[0]
    yield "list of random bytes", [_source(model, _random(work / f"{n}.txt", rng)) for n in range(20)]
    (work / "empty.txt").touch()
    yield "empty list", [_source(model, work / "empty.txt")]
    yield "video of random bytes", [_source(model, _random(work / f"{n}.avi", rng, b"RIFF")) for n in range(10)]
    yield "table instead of images", [_source(model, _random(work / "noise.csv", rng))]
    os.mkfifo(work / "pipe.png")
    yield "pipe instead of an image", [_source(model, work / "pipe.png")]
    yield "nothing", [_source(model, work / "missing")]
    yield "model damaged", [_model(path, good) for path in _models(work / "models", model, rng)]
    yield "no model", [_model(_random(work / f"{n}.{kind}", rng), good) for n in range(10) for kind in ("xml", "onnx")]
    results = [_results(work / f"{n}.jsonl", rng) for n in range(20)]
    yield "results damaged", [_resumed(model, good, path) for path in results]
    cut = work / "cut.jsonl"
    cut.write_bytes(_RESULT + b'{"ima')
    yield "results with the last line cut off", [_resumed(model, good, cut)]
    existing = _random(work / "existing.txt", rng)
    overwrite = partial(inspect, model, good, "--output", existing)
    yield "results that nobody wants to go on with", [Attempt(overwrite, [existing.name])]
    inside = partial(inspect, model, images, "--overlays", images / "overlays")
    yield "pictures that would be inspected", [Attempt(inside, ["overlays"])]
    below = partial(inspect, model, good, "--output", good / "results.jsonl")
    yield "output in a folder that is a file", [Attempt(below, [good.name])]


def _source(model: Path, source: Path) -> Attempt:
    output = source.with_name(source.name + ".jsonl")
    return Attempt(partial(inspect, model, source, "--output", output), [source.name, "without a result"])


def _model(model: Path, image: Path) -> Attempt:
    return Attempt(partial(inspect, model, image), [model.name, image.name, "without a result"])


def _resumed(model: Path, image: Path, output: Path) -> Attempt:
    return Attempt(partial(inspect, model, image, "--output", output, "--resume", "true"), [output.name])


def _random(path: Path, rng: np.random.Generator, start: bytes = b"") -> Path:
    path.write_bytes(start + rng.bytes(int(rng.integers(1, 3000))))
    return path


def _models(folder: Path, model: Path, rng: np.random.Generator) -> list[Path]:
    """Write exports whose graph or weights are cut off or changed."""
    folder.mkdir()
    paths = []
    for number in range(60):
        path = folder / f"model{number}.xml"
        shutil.copy(model, path)
        shutil.copy(model.with_suffix(".bin"), path.with_suffix(".bin"))
        target = path.with_suffix((".xml", ".bin")[number % 2])
        data = bytearray(target.read_bytes())
        if number % 4 < 2:
            data = data[: int(rng.integers(0, len(data)))]
        else:
            for position in rng.integers(0, len(data), 3):
                data[position] = rng.integers(32, 127)
        target.write_bytes(data)
        paths.append(path)
    return paths


def _results(path: Path, rng: np.random.Generator) -> Path:
    """Write a file of results with a damaged line in the middle."""
    line = rng.bytes(40).replace(b"\n", b"") if rng.random() < 0.5 else _RESULT[: int(rng.integers(0, 20))]
    path.write_bytes(_RESULT + line + b"\n" + _RESULT)
    return path
