"""Cameras and streams, from servers of this machine."""

import itertools
import re
import time
from contextlib import closing
from datetime import datetime, timezone

import pytest

from anomalib_unias.deploy import UnreadableImageError, streams, watch_stream
from local_servers import MjpegServer, RtspServer, number_of


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(streams, "_SHORTEST_DELAY", 0.01)


def take(images, count):
    """The next frames."""
    return list(itertools.islice((image for image in images if image is not None), count))


def test_frames_are_rgb_and_called_by_their_time():
    server = MjpegServer()
    before = datetime.now(timezone.utc)
    with closing(watch_stream(server.url.replace("://", "://me:secret@") + "?user=me")) as images:
        first, second = take(images, 2)
    server.stop()
    name, _, moment = first.name.partition("#")
    assert name == server.url
    assert before < datetime.strptime(moment, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=timezone.utc)
    assert first.name < second.name
    pixels = first.read()
    assert pixels.shape == (48, 64, 3)
    assert pixels[..., 2].max() < 20
    assert number_of(second.read()) > number_of(pixels) > 0
    assert first.state() is None


def test_the_newest_frame_is_taken_while_the_line_is_slow():
    server = MjpegServer()
    with closing(watch_stream(server.url)) as images:
        take(images, 1)
        time.sleep(0.5)
        before = server.sent
        (frame,) = take(images, 1)
    server.stop()
    # One may have been on its way, and was given out at once.
    assert before > 20
    assert number_of(frame.read()) > before - 15


def test_a_stream_that_is_lost_is_connected_again(caplog):
    server = MjpegServer(frames_each=12)
    with closing(watch_stream(server.url)) as images:
        while caplog.text.count("is reachable again") < 2:
            assert take(images, 1)[0].problem is None
    server.stop()
    failures = ["there are no frames" in record.message for record in caplog.records]
    assert failures == [True, False, True, False]


def test_a_stream_that_does_not_come_back_is_an_error(caplog):
    server = MjpegServer(frames_each=5)
    images = watch_stream(server.url, tries=3)
    take(images, 1)
    server.stop()
    *_, last = take(images, 100)
    with pytest.raises(UnreadableImageError, match=f"{server.url} gives no frames, after 3 attempts"):
        last.read()
    (record,) = caplog.records
    assert "It is tried again" in record.message


@pytest.mark.parametrize("source", ["http://127.0.0.1:9/none.mjpg", "camera:97"])
def test_a_stream_that_was_never_there(source, caplog):
    with pytest.raises(ConnectionError, match=f"{source} gives no frames, after 2 attempts: check the camera"):
        take(watch_stream(source, tries=2), 1)
    assert caplog.text.count("cannot be opened") == 1


def test_for_ever():
    with closing(watch_stream("http://127.0.0.1:9/none.mjpg", tries=None)) as images:
        end = time.monotonic() + 1
        assert all(image is None for image in itertools.takewhile(lambda _: time.monotonic() < end, images))


def test_what_is_no_stream():
    with pytest.raises(ValueError, match="expected camera:0 or a URL"):
        next(watch_stream("images/camera:0"))


def test_frames_over_rtsp(monkeypatch, caplog):
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;udp")
    monkeypatch.setattr(streams, "_TIMEOUT_MS", 1000)
    monkeypatch.setattr(streams, "_LONGEST_DELAY", 0.2)
    server = RtspServer()
    try:
        server.start()
        with closing(watch_stream(server.url, tries=50)) as images:
            frames = take(images, 3)
            assert [frame.read().shape for frame in frames] == 3 * [(48, 64, 3)]
            assert re.fullmatch(re.escape(server.url) + r"#\d{8}T\d{6}\.\d{6}Z", frames[0].name)
            server.stop()
            assert next(images for _ in images if "there are no frames" in caplog.text)
            server.start()
            assert take(images, 1)[0].problem is None
            assert "is reachable again" in caplog.text
    finally:
        server.stop()
