"""The inspection command: lines, errors, resuming, watching, signals."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from runpy import run_path

import cv2
import numpy as np
import pytest
from PIL import Image

from anomalib_unias.deploy import InspectionError, ThroughputInferencer, WebhookSink, describe_export
from anomalib_unias.deploy.commands import inspect
from anomalib_unias.deploy.inspection import run_inspection
from anomalib_unias.deploy.inspection_report import report_inspection
from local_servers import MjpegServer, WebServer

write_toy_model = run_path(str(Path(__file__).parents[1] / "unit" / "deploy" / "exported_toy.py"))["write_toy_model"]
COMMAND = Path(sys.executable).parent / "anomalib-unias"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_toy_model(tmp_path_factory.mktemp("toy") / "model.xml")


@pytest.fixture
def line(model, tmp_path):
    return ThroughputInferencer(model, cache_dir=tmp_path / "cache")


def write_image(path, defect=False):
    pixels = np.full((40, 60, 3), 30, np.uint8)
    if defect:
        pixels[10:20, 15:45, 0] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    for index in range(6):
        write_image(tmp_path / "images" / f"{index}.png", defect=index % 2 == 1)
    return tmp_path / "images"


def entries(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_line_for_each_image(line, folder, tmp_path):
    assert run_inspection(line, folder, output=tmp_path / "out.jsonl") == 0
    found = entries(tmp_path / "out.jsonl")
    assert [Path(entry["image"]).name for entry in found] == [f"{index}.png" for index in range(6)]
    normal, defective = found[:2]
    assert normal == {**normal, "label": False, "boxes": [], "area": 0, "out_of_range": None}
    assert defective == {**defective, "label": True, "boxes": [[15, 10, 30, 10]], "area": 300, "score": 1.0}
    assert all(entry["milliseconds"] > 0 for entry in found)


def test_no_image_at_all_is_reported(line, tmp_path, caplog):
    (tmp_path / "list.txt").touch()
    assert run_inspection(line, tmp_path / "list.txt", output=tmp_path / "out.jsonl") == 0
    assert f"There is no image in {tmp_path / 'list.txt'}" in caplog.text


def test_overlays(line, folder, tmp_path):
    run_inspection(line, folder, output=tmp_path / "out.jsonl", overlays=tmp_path / "overlays")
    overlays = sorted((tmp_path / "overlays").iterdir())
    assert [path.name for path in overlays] == [f"{index}.png.png" for index in range(6)]
    normal, defective = (cv2.imread(str(path)) for path in overlays[:2])
    assert defective.shape == (40, 60, 3)
    assert np.abs(normal.astype(int) - defective)[10:20, 15:45].mean() > 20


def test_corrupt_and_missing_files(line, folder, tmp_path):
    (folder / "2.png").write_bytes(b"nonsense")
    names = [f"images/{index}.png" for index in range(8)]
    (tmp_path / "list.txt").write_text("\n".join(names))
    assert run_inspection(line, tmp_path / "list.txt", output=tmp_path / "out.jsonl") == 3
    found = entries(tmp_path / "out.jsonl")
    assert ["error" in entry for entry in found] == [False, False, True, False, False, False, True, True]


def test_resuming_after_a_line_was_cut_off(line, folder, tmp_path):
    output = tmp_path / "out.jsonl"
    (folder / "1.png").write_bytes(b"nonsense")
    assert run_inspection(line, folder, output=output) == 1
    complete = output.read_text().splitlines(keepends=True)
    output.write_text("".join(complete[:3]) + complete[3][:20])
    write_image(folder / "1.png")
    assert run_inspection(line, folder, output=output, resume=True) == 0
    names = [Path(entry["image"]).name for entry in entries(output) if "error" not in entry]
    assert sorted(names) == [f"{index}.png" for index in range(6)]
    assert run_inspection(line, folder, output=output, resume=True) == 0
    assert len(entries(output)) == 7
    with pytest.raises(FileExistsError, match="resume"):
        run_inspection(line, folder, output=output)


def test_resuming_inspects_replaced_files_again(line, folder, tmp_path):
    output = tmp_path / "out.jsonl"
    run_inspection(line, folder, output=output)
    write_image(folder / "0.png", defect=True)
    os.utime(folder / "1.png", ns=(0, 0))
    run_inspection(line, folder, output=output, resume=True)
    found = [(Path(entry["image"]).name, entry["label"]) for entry in entries(output)[6:]]
    assert found == [("0.png", True), ("1.png", True)]
    (tmp_path / "list.txt").write_text("images/0.png\nimages/2.png")
    (folder / "2.png").unlink()  # was inspected, and has gone on its way
    run_inspection(line, tmp_path / "list.txt", output=output, resume=True)
    assert len(entries(output)) == 8


def test_white_images_are_answered_and_remarked(line, folder, tmp_path, caplog):
    Image.fromarray(np.full((40, 60, 3), 255, np.uint8)).save(folder / "0.png")
    assert run_inspection(line, folder, output=tmp_path / "out.jsonl") == 0
    white, textured = entries(tmp_path / "out.jsonl")[:2]
    assert white == {**white, "label": True, "score": 1.0, "remarks": ["constant", "mostly white"]}
    assert textured["remarks"] == []
    assert white["bytes"] == (folder / "0.png").stat().st_size
    assert "6 images, 3 with remarks" in caplog.text  # normal ones of the toy have one colour, too


def test_overlays_are_not_inspected(line, folder, tmp_path):
    for overlays in (folder, folder / "overlays", folder.parent / "images" / ".." / "images" / "x"):
        with pytest.raises(InspectionError, match="would be inspected as well"):
            run_inspection(line, folder, output=tmp_path / "out.jsonl", overlays=overlays)
    assert not (tmp_path / "out.jsonl").exists()


def test_watching_inspects_replaced_files_again(line, folder, tmp_path, monkeypatch):
    """In this process: after some scans the watched folder is changed, and then the watching ended."""
    scans, sleep, output = iter(range(100)), time.sleep, tmp_path / "out.jsonl"
    (folder / "2.png").write_bytes(b"the first part of an upload")

    def wait_for(lines):
        end = time.monotonic() + 20
        while time.monotonic() < end and len(entries(output)) < lines:
            sleep(0.01)

    def pause(_):
        number = next(scans)
        if number == 2:
            wait_for(6)
            write_image(folder / "2.png")
            write_image(folder / "0.png", defect=True)
        if number == 5:
            wait_for(8)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("anomalib_unias.deploy.sources.time.sleep", pause)
    assert run_inspection(line, folder, output=output, watch=True) == 0
    found = [(Path(entry["image"]).name, entry.get("label")) for entry in entries(output)]
    first = [(f"{index}.png", None if index == 2 else index % 2 == 1) for index in range(6)]
    assert found == [*first, ("0.png", True), ("2.png", False)]


def test_results_are_written_while_a_file_cannot_be_read(line, folder, tmp_path, monkeypatch):
    """A network folder that does not answer: what is computed does not wait for it."""
    lines_meanwhile = []

    def read(source):
        if source.name.endswith("3.png"):
            end = time.monotonic() + 20
            while time.monotonic() < end and len(lines_meanwhile) < 3:
                lines_meanwhile[:] = entries(tmp_path / "out.jsonl")
                time.sleep(0.05)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("anomalib_unias.deploy.sources.ImageSource.read", read)
    assert run_inspection(line, folder, output=tmp_path / "out.jsonl") == 0
    assert [Path(entry["image"]).name for entry in lines_meanwhile] == [f"{index}.png" for index in range(3)]
    assert len(entries(tmp_path / "out.jsonl")) == 6


def test_an_image_that_the_model_cannot_compute_is_an_error(model, folder, tmp_path, monkeypatch):
    line = ThroughputInferencer(model, cache_dir=tmp_path / "cache")
    # More channels than the model takes.
    monkeypatch.setattr("anomalib_unias.deploy.sources.ImageSource.read", lambda _: np.zeros((8, 8, 4), np.uint8))
    assert run_inspection(line, folder, output=tmp_path / "out.jsonl") == 6
    assert all("cannot be computed" in entry["error"] for entry in entries(tmp_path / "out.jsonl"))


def test_results_go_to_a_web_server_too(line, folder, tmp_path, caplog):
    server = WebServer()
    server.start()
    server.answers = [200, 403]
    sinks = [WebhookSink(server.url)]
    assert run_inspection(line, folder, output=tmp_path / "out.jsonl", sinks=sinks) == 1
    server.stop()
    written = entries(tmp_path / "out.jsonl")
    assert len(written) == 6
    assert server.received == [written[0], *written[2:]]
    assert f"6 images, 3 with remarks, 1 results that did not arrive at {server.url}." in caplog.text


def test_a_stream_is_inspected_until_it_does_not_come_back(model, tmp_path, monkeypatch):
    monkeypatch.setattr("anomalib_unias.deploy.streams._SHORTEST_DELAY", 0.01)
    server, stream, output = WebServer(), MjpegServer(frames_each=5), tmp_path / "out.jsonl"
    server.start()
    threading.Timer(1, stream.stop).start()
    with pytest.raises(SystemExit) as ended:
        inspect(model, stream.url, output=output, overlays=tmp_path / "overlays", webhook=server.url)
    server.stop()
    assert ended.value.code == 1
    *frames, last = entries(output)
    assert frames
    assert all(entry["image"].startswith(f"{stream.url}#") and entry["score"] < 1 for entry in frames)
    assert "gives no frames, after 5 attempts" in last["error"]
    assert server.received == entries(output)
    assert len(list((tmp_path / "overlays").iterdir())) == len(frames)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "http://127.0.0.1:9/none.mjpg"}, "ConnectionError: http://127.0.0.1:9/none.mjpg gives no frames"),
        ({"source": "images", "mqtt": "tcp://broker"}, "InspectionError: Expected mqtt://broker/topic"),
        ({"source": "images", "webhook": "broker"}, "InspectionError: Expected http://server/path"),
    ],
)
def test_wrong_sources_and_sinks_end_with_a_sentence(model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr("anomalib_unias.deploy.streams._SHORTEST_DELAY", 0.01)
    with pytest.raises(SystemExit, match=message):
        inspect(model, output=tmp_path / "out.jsonl", **arguments)


def test_a_report_of_a_folder(model, folder, tmp_path):
    described = Path(shutil.copy(model, tmp_path / "model.xml"))
    shutil.copy(model.with_suffix(".bin"), tmp_path / "model.bin")
    describe_export(described)
    write_image(folder / "b" / "6.png")
    (folder / "b" / "7.png").write_bytes(b"nonsense")
    (folder / os.fsdecode(b"\xff<.png")).write_bytes((folder / "1.png").read_bytes())
    with pytest.raises(SystemExit) as ended:
        inspect(described, folder, output=tmp_path / "out.jsonl", report=tmp_path / "report")
    assert ended.value.code == 1
    text = (tmp_path / "report" / "index.html").read_text()
    tiles = dict(re.findall(r"<h3>(.*?)</h3><p class=\"value\">(\d+)</p>", text))
    assert tiles == {"Images": "9", "Good": "4", "Anomalous": "4", "Without a result": "1", "With remarks": "4"}
    rows = re.findall(r"<th scope=\"row\">(.*?)</th><td>(\d+)</td>.*<td>(\S+)</td></tr>", text)
    assert rows == [(str(folder), "7", "1"), (str(folder / "b"), "2", "0.1176")]
    shown = re.findall(r'<img src="(gallery/.*?)" .*?\n\n?<figcaption><b>(\w+)</b> <span>score (\S+)</span>', text)
    assert [(label, score) for _, label, score in shown] == 4 * [("anomalous", "1")] + 4 * [("good", "0.1176")]
    assert all(cv2.imread(str(tmp_path / "report" / file)) is not None for file, *_ in shown)
    assert "The threshold of the model is 0.5." in text
    assert "threshold 0.5" in (tmp_path / "report" / "scores.svg").read_text()
    assert "7.png: UnidentifiedImageError" in text
    assert "\\udcff&lt;.png" in text


def test_a_report_after_resuming_has_all_images(line, folder, tmp_path):
    output = tmp_path / "out.jsonl"
    run_inspection(line, folder, output=output)
    (folder / "1.png").unlink()
    text = report_inspection(line, folder, output, tmp_path / "report", pictures=2).read_text()
    assert re.findall(r"<figure>(.{10})", text) == ['<p class="', '<img src="']
    assert "threshold of the model is unknown" in text
    (tmp_path / "empty").touch()
    assert report_inspection(line, folder, tmp_path / "empty", tmp_path / "none") is None


@pytest.mark.parametrize("options", [{}, {"output": "out.jsonl"}])
def test_reports_that_cannot_be(model, folder, options):
    with pytest.raises(SystemExit, match=r"give a file for them|would be inspected as well"):
        inspect(model, folder, report=folder / "report", **options)


def write_photographs(folder, count, lamp, seed):
    """Normal parts that differ a little, under a lamp of some brightness; every twentieth has a defect."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for index in range(count):
        pixels = np.clip(lamp * (rng.normal(90, 6) + rng.normal(0, 4, (12, 12, 3))), 0, 255)
        if index % 20 == 19:
            pixels[4:8, 4:8] = 255
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:03}.png")
    return folder


def test_changed_lighting_is_reported(model, tmp_path, caplog):
    """A tenth brighter: no more images exceed the threshold, but their scores are not those of validation."""
    reference = tmp_path / "validation.jsonl"

    def run(folder, **options):
        caplog.clear()
        output = tmp_path / f"{folder.name}.jsonl"
        with pytest.raises(SystemExit) as ended:
            inspect(model, folder, output=output, **options)
        assert ended.value.code == 0
        messages = [record.message for record in caplog.records if "than in validation" in record.message]
        return messages, [entry["label"] for entry in entries(output)]

    run(write_photographs(tmp_path / "validation", 60, lamp=1, seed=0))
    messages, labels = run(write_photographs(tmp_path / "same", 80, 1, 1), reference=reference, window=60)
    assert messages == []
    messages, labels_now = run(write_photographs(tmp_path / "brighter", 80, 1.1, 1), reference=reference, window=60)
    assert len(messages) == 1
    assert "The scores of the last 60 images are higher than in validation" in messages[0]
    assert labels == labels_now == 4 * ([False] * 19 + [True])
    messages, _ = run(write_photographs(tmp_path / "darker", 80, 0.9, 1), reference=reference, window=60)
    assert "are lower than in validation" in messages[0]
    run(tmp_path / "darker", reference=reference, window=100, resume=True)
    assert "fewer than 100 images (--window): drift was not checked" in caplog.text
    with pytest.raises(SystemExit, match="FileNotFoundError: .*none.jsonl does not exist"):
        inspect(model, tmp_path / "same", reference=tmp_path / "none.jsonl")


def command(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([COMMAND, *map(str, arguments)], env=environment, stderr=subprocess.PIPE, **options)


def test_exit_code_and_standard_output(model, folder):
    (folder / "7.png").write_bytes(b"nonsense")
    os.mkfifo(folder / "8.png")
    (folder / os.fsdecode(b"\xff.png")).write_bytes((folder / "1.png").read_bytes())
    process = command("inspect", model, folder, "--overlays", folder.parent / "overlays", stdout=subprocess.PIPE)
    lines, errors = process.communicate(timeout=600)
    assert process.returncode == 1
    names = [os.fsencode(json.loads(line)["image"]) for line in lines.splitlines()]
    assert len(names) == 8
    assert names[-1] == os.fsencode(folder) + b"/\xff.png"
    assert len(list((folder.parent / "overlays").iterdir())) == 7
    messages = errors.decode()
    assert "8.png' is skipped: it is a named pipe" in messages
    assert "8 images, 1 without a result, 3 with remarks." in messages
    assert "Traceback" not in messages


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watching_until_a_signal(model, folder, tmp_path, number):
    output = tmp_path / "out.jsonl"
    process = command("inspect", model, folder, "--watch", "true", "--output", output)
    try:
        wait_for(process, output, 6)
        write_image(folder / "new.png", defect=True)
        wait_for(process, output, 7)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert Path(entries(output)[-1]["image"]).name == "new.png"


def wait_for(process, output, count):
    end = time.monotonic() + 600
    while time.monotonic() < end:
        if output.exists() and len(output.read_text().splitlines()) >= count:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    pytest.fail(f"{output} has not {count} lines")
