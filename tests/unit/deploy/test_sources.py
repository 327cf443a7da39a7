"""Folders, lists, videos and watched folders."""

import io
import itertools
import os
import socket

import cv2
import numpy as np
import pytest
from PIL import Image

from anomalib_unias.deploy import ImageSource, UnreadableImageError, find_images, watch_folder


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    return path


def test_folder_with_sub_folders(tmp_path):
    files = [write(tmp_path / name) for name in ("b/1.png", "a.JPG", "b/c/2.tif")]
    (tmp_path / "notes.txt").write_text("no image")
    assert [image.name for image in find_images(tmp_path)] == sorted(map(str, files))


def test_list_names_missing_files_too(tmp_path):
    (tmp_path / "list.txt").write_text(f"a.png\n\n{tmp_path / 'b.png'}\n")
    assert [image.name for image in find_images(tmp_path / "list.txt")] == [
        str(tmp_path / "a.png"),
        str(tmp_path / "b.png"),
    ]


def test_one_image(tmp_path):
    assert [image.name for image in find_images(write(tmp_path / "a.png"))] == [str(tmp_path / "a.png")]


def write_video(path, frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no videos")
    noise = np.random.default_rng(0).integers(0, 30, (48, 64, 1), np.uint8)
    for _ in range(frames):
        writer.write(np.full((48, 64, 3), (0, 0, 225), np.uint8) + noise)
    writer.release()


def test_video_frames_are_rgb(tmp_path):
    path = tmp_path / "belt.avi"
    write_video(path, 3)
    frames = list(find_images(path))
    assert [frame.name for frame in frames] == [f"{path}#{number}" for number in range(3)]
    pixels = frames[1].read()
    assert pixels.shape == (48, 64, 3)
    assert pixels[..., 0].min() > 200
    assert pixels[..., 2].max() < 50


def test_a_video_that_was_cut_off_says_so(tmp_path):
    path = tmp_path / "belt.avi"
    write_video(path, 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *frames, last = find_images(path)
    assert 10 < len(frames) < 30
    assert all(frame.read().shape == (48, 64, 3) for frame in frames)
    assert last.name == f"{path}#{len(frames)}"
    with pytest.raises(UnreadableImageError, match=f"ends after {len(frames)} of 40 frames"):
        last.read()


def test_a_video_whose_name_is_not_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"belt\xff.avi")
    path.write_bytes(b"RIFF")
    with pytest.raises(UnreadableImageError, match="Rename it"):
        list(find_images(path))


def test_names_in_a_list_that_are_not_utf8(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a\xff.png\r\nb\xe2\x80\xa8.png\n")
    names = [os.fsencode(image.name) for image in find_images(tmp_path / "list.txt")]
    assert names == [os.fsencode(tmp_path) + name for name in (b"/a\xff.png", b"/b\xe2\x80\xa8.png")]


@pytest.fixture
def strange_files(tmp_path):
    """A folder with one image, and with what is only called like one."""
    write(tmp_path / "image.png")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.png"))
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    (tmp_path / "nothing.png").symlink_to(tmp_path / "missing")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    return tmp_path


def test_what_is_no_file_is_skipped_with_one_warning(strange_files, caplog):
    watched = watch_folder(strange_files, interval=0)
    assert [image and image.name for image in itertools.islice(watched, 4)] == [
        None,
        str(strange_files / "image.png"),
        None,
        None,
    ]
    names = ["device.png", "itself.png", "loop", "nothing.png", "pipe.png", "socket.png"]
    assert sorted(record.args[0] for record in caplog.records) == [str(strange_files / name) for name in names]
    assert [image.name for image in find_images(strange_files)] == [str(strange_files / "image.png")]


def test_a_pipe_in_a_list_is_an_error(strange_files):
    (strange_files / "list.txt").write_text("pipe.png\ndevice.png\nitself.png")
    for image in find_images(strange_files / "list.txt"):
        with pytest.raises(UnreadableImageError, match=image.name):
            image.read()


def test_an_image_of_pillow_that_is_cut_off(tmp_path):
    content = io.BytesIO(write(tmp_path / "a.png").read_bytes()[:45])
    with pytest.raises(UnreadableImageError, match="Cannot read image file far/a.png: "):
        ImageSource("far/a.png", Image.open(content)).read()


def test_wrong_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder, a \\*.txt list"):
        list(find_images(tmp_path / "missing"))
    (tmp_path / "table.csv").touch()
    with pytest.raises(UnreadableImageError, match="no image, no video"):
        list(find_images(tmp_path / "table.csv"))
    (tmp_path / "broken.avi").write_bytes(b"nonsense")
    with pytest.raises(UnreadableImageError, match="as a video"):
        list(find_images(tmp_path / "broken.avi"))
    with pytest.raises(NotADirectoryError, match="only a folder"):
        next(watch_folder(tmp_path / "table.csv"))


def test_watching_waits_until_a_file_is_complete(tmp_path):
    first = write(tmp_path / "first.png")
    images = watch_folder(tmp_path, interval=0)

    def scan(count):
        found = itertools.islice(images, count)
        return [image and image.name for image in found]

    assert scan(1) == [None]
    assert scan(2) == [str(first), None]
    growing = tmp_path / "growing.png"
    for size in range(3):
        growing.write_bytes(b"x" * size)
        assert scan(1) == [None]
    assert scan(3) == [str(growing), None, None]


def test_a_file_that_vanishes_is_forgotten(tmp_path):
    images = watch_folder(tmp_path, interval=0)
    file = write(tmp_path / "a.png")
    assert next(images) is None
    file.unlink()
    assert next(images) is None


def test_watching_reports_a_replaced_file_again(tmp_path):
    first, second = write(tmp_path / "a.png"), write(tmp_path / "b.png")
    images = watch_folder(tmp_path, interval=0, done={str(second): None})

    def scan(count):
        return [image and image.name for image in itertools.islice(images, count)]

    assert scan(4) == [None, str(first), None, None]
    for file in (first, second):
        Image.fromarray(np.full((9, 9, 3), 7, np.uint8)).save(file)
    assert scan(5) == [None, str(first), str(second), None, None]
    os.utime(first, ns=(0, 0))  # the same size, as of a camera that writes BMP
    assert scan(4) == [None, str(first), None, None]


def test_watching_reports_what_was_replaced_before(tmp_path):
    same, other = write(tmp_path / "a.png"), write(tmp_path / "b.png")
    done = {str(file): ImageSource(str(file)).state() for file in (same, other)}
    os.utime(other, ns=(0, 0))
    watched = watch_folder(tmp_path, interval=0, done=done)
    assert [image and image.name for image in itertools.islice(watched, 4)] == [None, str(other), None, None]


def test_watching_reports_an_upload_again_that_had_paused(tmp_path):
    images = watch_folder(tmp_path, interval=0)
    file = tmp_path / "a.bmp"
    file.write_bytes(b"half")
    found = [image and image.name for image in itertools.islice(images, 4)]
    assert found == [None, str(file), None, None]
    file.write_bytes(b"half and half")
    assert [image and image.name for image in itertools.islice(images, 4)] == found
