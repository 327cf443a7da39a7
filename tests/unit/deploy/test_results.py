"""What an inspection writes: whole lines, pictures that no two images share, and what happens if it cannot."""

import json
import os
import resource
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_unias.deploy import ImageSource, Inspected, InspectionError, UnreadableImageError
from anomalib_unias.deploy.overlays import overlay_path
from anomalib_unias.deploy.results import ResultWriter, images_with_results

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)


def result(name, error=None):
    if error:
        return Inspected(ImageSource(name), {}, None, 1.0, UnreadableImageError(error))
    outputs = {
        "pred_score": np.array([0.75]),
        "anomaly_map": np.zeros((1, 1, 12, 16), np.float32),
        "pred_mask": np.zeros((1, 1, 12, 16), bool),
    }
    return Inspected(ImageSource(name), outputs, PIXELS, 1.0)


def names(path):
    return [json.loads(line)["image"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("image", "place"),
    [
        ("line/a.png", "a.png.png"),
        ("line/x/a.png", "x/a.png.png"),
        ("line/x_a.png", "x_a.png.png"),
        ("line/x/a.jpg", "x/a.jpg.png"),
        ("line/belt.avi#12", "belt.avi#12.png"),
    ],
)
def test_a_picture_lies_where_its_image_does(image, place):
    assert overlay_path(image, Path("line")) == Path(place)


def test_no_two_images_share_a_picture_and_none_leads_outside():
    images = ["x_a.png", "x/a.png", "x/a.jpg", "../a.png", "../../a.png", "x/../../a.png", "/a.png", "/x/a.png"]
    images += [
        "_a.png",
        ".._a.png",
        "a.png",
        "x:a.png",
        "x#a.png",
        "a" * 251,
        "a" * 252,
        "a" * 253,
        "b/" + "a" * 253,
        "ä" * 126,
    ]
    images += [os.fsdecode(b"\xff.png"), os.fsdecode(b"\xfe.png"), "/" + os.fsdecode(b"\xff.png"), "/�.png"]
    places = [overlay_path(str(Path("/line") / image), Path("/line")) for image in images]
    assert len(set(places)) == len(images)
    for place in places:
        assert not place.is_absolute()
        assert ".." not in place.parts
        assert len(os.fsencode(place.name)) <= 255


def test_every_name_that_a_file_can_have_gets_a_line_and_a_picture(tmp_path):
    """OpenCV's own writer ends the process at the first of them."""
    files = [tmp_path / "in" / os.fsdecode(name) for name in (b"\xff\xfe.png", b"x/a.png", b"x_a.png", b"y" * 255)]
    with ResultWriter(tmp_path / "in", tmp_path / "out.jsonl", tmp_path / "overlays") as results:
        for file in files:
            results.write(result(str(file)))
    assert results.problems == 0
    assert names(tmp_path / "out.jsonl") == list(map(str, files))
    pictures = [path for path in (tmp_path / "overlays").rglob("*") if path.is_file()]
    assert len(pictures) == len(files)
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size == (32, 24)


@contextmanager
def largest_file(size):
    """Files cannot grow beyond this, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_lines_that_cannot_be_written_are_written_later(tmp_path, caplog):
    output = tmp_path / "out.jsonl"
    with ResultWriter(tmp_path, output, None) as results:
        with largest_file(500):
            for number in range(10):
                results.write(result(f"{number}.png"))
        assert results.lost_lines > 3
        assert results.problems == results.lost_lines
        assert len(output.read_bytes()) == 500
    assert results.problems == 0
    assert names(output) == [f"{number}.png" for number in range(10)]
    assert len(caplog.records) == 1


def test_lines_that_are_never_written_are_counted(tmp_path, caplog):
    output = tmp_path / "out.jsonl"
    with largest_file(500), ResultWriter(tmp_path, output, None) as results:
        for number in range(10):
            results.write(result(f"{number}.png"))
    assert "File too large" in caplog.text
    complete = images_with_results(output)
    assert results.lost_lines == 10 - len(complete) == results.problems
    assert f"10 images, {results.lost_lines} lines that could not be written" in results.summary()


def test_pictures_that_cannot_be_written_are_counted_and_leave_nothing(tmp_path, caplog):
    output = tmp_path / "out.jsonl"
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays" / "x").write_text("a file where a folder is needed")
    with largest_file(1000), ResultWriter(tmp_path, output, tmp_path / "overlays") as results:
        for name in ("a.png", "b.png", "x/a.png"):
            results.write(result(str(tmp_path / name)))
    assert (results.lost_overlays, results.lost_lines, results.problems) == (3, 0, 3)
    assert len(names(output)) == 3
    assert [path.name for path in (tmp_path / "overlays").iterdir()] == ["x"]
    assert len(caplog.records) == 1
    assert "a.png" in caplog.text
    assert "3 pictures that could not be written" in results.summary()


def test_an_image_that_can_be_read_later_is_no_problem(tmp_path):
    with ResultWriter(tmp_path, tmp_path / "out.jsonl", None) as results:
        results.write(result("a.png", error="cut off"))
        results.write(result("b.png", error="cut off"))
        assert results.failed == {"a.png", "b.png"}
        results.write(result("a.png"))
    assert results.problems == 1
    assert "1 without a result" in results.summary()
    assert images_with_results(tmp_path / "out.jsonl") == {"a.png": None}


def test_a_line_that_was_cut_off_is_removed_and_nothing_else(tmp_path, caplog):
    output = tmp_path / "out.jsonl"
    complete = b'{"image": "a", "score": 1}\n{"image": "b", "error": "x"}\n{"image": "c", "score": 1}\n'
    output.write_bytes(complete + b'{"image": "d", "sc')
    before = output.stat().st_ino
    assert images_with_results(output).keys() == {"a", "c"}
    assert output.read_bytes() == complete
    assert output.stat().st_ino == before
    assert "cut off" in caplog.text
    output.write_bytes(b'{"image"')
    assert images_with_results(output) == {}


def test_the_last_line_of_an_image_counts(tmp_path):
    output = tmp_path / "out.jsonl"
    lines = [
        {"image": "a", "score": 1, "bytes": 5, "modified": 1.5},
        {"image": "a", "score": 1, "bytes": 6, "modified": 2.5},
        {"image": "b", "score": 1, "bytes": 5, "modified": 1.5},
        {"image": "b", "error": "replaced by nonsense"},
    ]
    output.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert images_with_results(output) == {"a": (6, 2.5)}


def test_remarks_are_in_the_line_and_reported_once(tmp_path, caplog):
    with ResultWriter(tmp_path, tmp_path / "out.jsonl", None) as results:
        for name, grey in {"a.png": 255, "b.png": 250, "c.png": None}.items():
            pixels = PIXELS if grey is None else np.full_like(PIXELS, grey)
            results.write(replace(result(name), pixels=pixels))
    found = [json.loads(line)["remarks"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found == [["constant", "mostly white"], ["constant"], []]
    assert results.problems == 0
    assert "3 images, 2 with remarks" in results.summary()
    (record,) = caplog.records
    assert "'a.png' is constant and mostly white" in record.message


@pytest.mark.parametrize(
    "line", [b"nonsense", b"", b"[1]", b'{"score": 1}', b'{"image": 3}', b"\xff", b"\0\0", b"null"]
)
def test_a_line_that_is_no_result_is_named(tmp_path, line):
    output = tmp_path / "out.jsonl"
    content = b'{"image": "a", "score": 1}\n' + line + b'\n{"image": "b", "score": 1}\n'
    output.write_bytes(content)
    with pytest.raises(InspectionError, match=rf"Line 2 of {output} is no result.*Remove this line"):
        images_with_results(output)
    assert output.read_bytes() == content


def test_a_score_that_is_no_number_is_an_error_and_not_good(tmp_path):
    broken = result("line/a.png")
    broken.outputs["pred_score"][:] = np.nan
    with ResultWriter(Path("line"), tmp_path / "results.jsonl", tmp_path / "overlays") as writer:
        writer.write(broken)
        writer.write(result("line/b.png"))
    first, second = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert "score of the model is nan" in first["error"]
    assert second["score"] == 0.75
    assert second["label"] is None  # the model has no threshold, and nobody invents a label
    assert writer.failed == {"line/a.png"}
    assert not (tmp_path / "overlays" / "a.png.png").exists()
