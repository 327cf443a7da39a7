"""What an inspection refuses, skips and is ended by; whole runs are in tests/integration/test_inspection_line.py."""

import signal
from threading import Thread

import pytest

from anomalib_unias.deploy.errors import InspectionError
from anomalib_unias.deploy.inspection import StopRequest, _is_done, _refuse_overlays_in_source, _results_in
from anomalib_unias.deploy.sources import find_images


def test_signal_lets_no_further_image_pass():
    handler = signal.getsignal(signal.SIGTERM)
    with StopRequest().listening() as stop:
        images = stop.until(iter("abc"))
        assert next(images) == "a"
        signal.raise_signal(signal.SIGTERM)
        assert stop.received
        assert signal.getsignal(signal.SIGTERM) is handler  # a second signal ends the process
        assert list(images) == []
    assert signal.getsignal(signal.SIGTERM) is handler


def test_handlers_are_put_back_after_an_error():
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), StopRequest().listening():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is handler


def test_other_threads_listen_to_no_signal():
    passed = []

    def inspect():
        with StopRequest().listening() as stop:
            passed.extend(stop.until("ab"))

    thread = Thread(target=inspect)
    thread.start()
    thread.join()
    assert passed == ["a", "b"]


def test_image_is_done_until_its_file_changes(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(b"before")
    (image,) = find_images(tmp_path)
    state = image.state()
    assert not _is_done(image, {})
    assert _is_done(image, {image.name: state})
    assert _is_done(image, {image.name: None})  # a result that notes no state
    path.write_bytes(b"after, and longer")
    assert not _is_done(image, {image.name: state})
    path.unlink()
    assert _is_done(image, {image.name: state})


def test_overlays_must_not_be_in_the_folder_of_the_images(tmp_path):
    with pytest.raises(InspectionError, match="its pictures would be inspected as well"):
        _refuse_overlays_in_source(tmp_path, tmp_path / "deep" / "overlays")
    _refuse_overlays_in_source(tmp_path / "images", tmp_path / "overlays")
    _refuse_overlays_in_source(tmp_path, None)


def test_results_are_never_overwritten(tmp_path):
    output = tmp_path / "new" / "results.jsonl"
    assert _results_in(None, resume=False) == {}
    assert _results_in(output, resume=False) == {}
    assert output.parent.is_dir()
    output.touch()
    with pytest.raises(FileExistsError, match="give --resume true"):
        _results_in(output, resume=False)
    assert _results_in(output, resume=True) == {}
