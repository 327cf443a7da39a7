"""Is anything lost when the inspection line is killed, or fed with what is no image?

    python -m benchmarks.robustness --kills 20 --inputs 1000

A small exported model (random weights) inspects pictures of noise. Some runs are killed (SIGKILL) at a random moment
and resumed; their lines and pictures are compared with those of a run that was not. Then malformed images, lists,
videos, models and results go through ``anomalib-unias inspect``. Rows are appended to the output:
``target,case,tried,clear_error,result,crash,hang,lost``. ``result`` counts what came to a result (for runs that were
killed: the same one), ``lost`` images without a line, with two, or with another one.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from anomalib.models import Padim
from benchmarks.malformed import MALFORMED, NAMES, image_bytes

from anomalib_unias.deploy.predictions import QUIET_ONNX
from anomalib_unias.pre_processing import make_exportable

TARGET = "inspect"
COUNTS = ("clear_error", "result", "crash", "hang", "lost")
COMMAND = Path(sys.executable).parent / "anomalib-unias"


def export_model(folder: Path) -> Path:
    """Export a small model with random weights."""
    torch.manual_seed(0)
    transform = Padim.configure_pre_processor((64, 64))
    model = Padim("resnet18", layers=["layer1"], n_features=5, pre_trained=False, pre_processor=transform).eval()
    make_exportable(model)
    model.model.gaussian.fit(torch.rand(8, 5, 16, 16))
    for buffer in model.post_processor.buffers():
        buffer.nan_to_num_(0.5)
    return model.to_openvino(folder, onnx_kwargs=QUIET_ONNX)


def start(*arguments: object) -> subprocess.Popen:
    """Start the line with its messages in a pipe."""
    command = [str(COMMAND), "inspect", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen, limit: float) -> tuple[str, str]:
    """Wait for the end: what it was (``crash``, ``hang``, ``clear_error`` or ``result``), and the messages."""
    try:
        _, messages = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "hang", ""
    told = messages.decode(errors="surrogateescape")
    if process.returncode not in {0, 1} or "Traceback" in told:
        return "crash", told
    return ("clear_error" if process.returncode else "result"), told


def lines_of(output: Path) -> list[dict]:
    """Lines of a file of results without times, in the order of the images."""
    entries = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    kept = ({name: value for name, value in entry.items() if name != "milliseconds"} for entry in entries)
    return sorted(kept, key=lambda entry: entry["image"])


def pictures_of(folder: Path) -> dict[str, bytes]:
    """Contents of all pictures."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def killed(model: Path, images: Path, work: Path, kills: int, limit: float, rng: np.random.Generator) -> dict:
    """Kill runs at random moments, resume them, and compare with one that was not killed."""
    whole = (work / "whole.jsonl", work / "whole")
    how, told = finish(start(model, images, "--output", whole[0], "--overlays", whole[1]), limit)
    assert how == "result", told
    expected, pictures = lines_of(whole[0]), pictures_of(whole[1])
    counts: Counter[str] = Counter()
    for number in range(kills):
        run = (work / f"{number}.jsonl", work / str(number))
        arguments = (model, images, "--output", run[0], "--overlays", run[1])
        process = start(*arguments)
        lines, extra = int(rng.integers(0, len(expected))), float(rng.uniform(0, 0.05))
        end = time.monotonic() + limit
        while time.monotonic() < end and process.poll() is None and len(read(run[0]).splitlines()) < lines:
            time.sleep(0.01)
        time.sleep(extra)
        process.kill()
        process.communicate()
        print(f"killed after {len(read(run[0]).splitlines())} of {len(expected)} lines")
        how, told = finish(start(*arguments, "--resume", "true"), limit)
        lost = abs(len(lines_of(run[0])) - len(expected))
        lost += sum(one not in expected for one in lines_of(run[0]))
        lost += len(pictures.items() ^ pictures_of(run[1]).items())
        counts.update({"lost": lost, "result" if how == "result" and not lost else how: 1})
        if how != "result" or lost:
            print(how, lost, told)
    return {"case": "killed at a random moment and resumed", "tried": kills, **counts}


def read(path: Path) -> bytes:
    """Content of a file that may not be there yet."""
    return path.read_bytes() if path.exists() else b""


def write_inputs(folder: Path, count: int, rng: np.random.Generator) -> dict[str, list[Path]]:
    """Write malformed images, and well-formed ones between them, by case."""
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


def malformed_images(model: Path, work: Path, count: int, limit: float, rng: np.random.Generator) -> list[dict]:
    """Inspect a folder of malformed images; what is skipped with a warning counts as a clear error."""
    cases = write_inputs(work / "inputs", count, rng)
    output = work / "inputs.jsonl"
    how, told = finish(start(model, work / "inputs", "--output", output, "--overlays", work / "shown"), limit)
    found: dict[str, list[dict]] = {}
    for entry in lines_of(output):
        found.setdefault(entry["image"], []).append(entry)
    if how in {"crash", "hang"}:
        print(told)

    def outcome(path: Path) -> str:
        lines = found.get(str(path), [])
        if len(lines) == 1:
            return "clear_error" if "error" in lines[0] else "result"
        if not lines and (path.is_dir() or f"{str(path)!r} is skipped" in " ".join(told.split("\n"))):
            return "clear_error"
        return how if how in {"crash", "hang"} else "lost"

    return [{"case": case, "tried": len(paths), **Counter(map(outcome, paths))} for case, paths in cases.items()]


def write_sources(folder: Path, images: Path, model: Path, rng: np.random.Generator) -> dict[str, tuple]:
    """Malformed lists, videos, models and results, as arguments of the command by case."""
    folder.mkdir()
    good = sorted(images.iterdir())[0]
    (folder / "noise.txt").write_bytes(rng.bytes(2000).replace(b"\n\n", b"\n"))
    (folder / "empty.txt").touch()
    (folder / "noise.avi").write_bytes(b"RIFF" + rng.bytes(2000))
    (folder / "noise.csv").write_bytes(rng.bytes(2000))
    os.mkfifo(folder / "pipe.png")
    (folder / "broken.xml").write_bytes(model.read_bytes()[:2000])
    shutil.copy(model, folder / "cut.xml")
    (folder / "cut.bin").write_bytes(model.with_suffix(".bin").read_bytes()[:100])
    (folder / "results.jsonl").write_bytes(
        b'{"image": "a", "score": 1}\n' + rng.bytes(50).replace(b"\n", b"") + b"\n{}\n"
    )
    (folder / "cut.jsonl").write_bytes(b'{"image": "a", "score": 1}\n{"ima')
    return {
        "list of random bytes": (model, folder / "noise.txt"),
        "empty list": (model, folder / "empty.txt"),
        "video of random bytes": (model, folder / "noise.avi"),
        "table instead of images": (model, folder / "noise.csv"),
        "pipe instead of an image": (model, folder / "pipe.png"),
        "nothing": (model, folder / "missing"),
        "model cut off": (folder / "broken.xml", good),
        "weights cut off": (folder / "cut.xml", good),
        "no model": (folder / "noise.csv", good),
        "results with a damaged line": (model, good, "--output", folder / "results.jsonl", "--resume", "true"),
        "results with the last line cut off": (model, good, "--output", folder / "cut.jsonl", "--resume", "true"),
        "results that nobody wants to go on with": (model, good, "--output", folder / "noise.txt"),
        "pictures that would be inspected": (model, images, "--overlays", images / "overlays"),
        "output in a folder that is a file": (model, good, "--output", good / "results.jsonl"),
    }


def malformed_sources(model: Path, images: Path, work: Path, limit: float, rng: np.random.Generator) -> list[dict]:
    """Give the command what it cannot work with."""
    rows = []
    for case, arguments in write_sources(work / "sources", images, model, rng).items():
        how, told = finish(start(*arguments), limit)
        print(f"{case}: {how}: {(told.strip().splitlines() or [''])[-1][:200]}")
        rows.append({"case": case, "tried": 1, how: 1})
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--inputs", type=int, default=1000, help="malformed images")
    parser.add_argument("--images", type=int, default=300, help="images of a run that is killed")
    parser.add_argument("--limit", type=float, default=300, help="seconds after which a run hangs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/robustness.csv"))
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with TemporaryDirectory() as name:
        work = Path(name)
        model = export_model(work / "model")
        images = work / "images"
        images.mkdir()
        for number in range(options.images):
            (images / f"{number:04}.png").write_bytes(image_bytes(rng, ".png"))
        rows = [killed(model, images, work, options.kills, options.limit, rng)]
        rows += malformed_images(model, work, options.inputs, options.limit, rng)
        rows += malformed_sources(model, images, work, options.limit, rng)
    table = pd.DataFrame(rows).reindex(columns=["case", "tried", *COUNTS]).fillna(0)
    table = table.astype(dict.fromkeys(("tried", *COUNTS), int))
    table.insert(0, "target", TARGET)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.output, mode="a", header=not options.output.exists(), index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
