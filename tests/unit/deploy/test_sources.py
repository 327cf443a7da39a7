"""Folders, lists, videos and watched folders."""

import itertools

import cv2
import numpy as np
import pytest
from PIL import Image

from anomalib_unias.deploy import UnreadableImageError, find_images, watch_folder


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


def test_video_frames_are_rgb(tmp_path):
    path = tmp_path / "belt.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no videos")
    for _ in range(3):
        writer.write(np.full((48, 64, 3), (0, 0, 255), np.uint8))
    writer.release()
    frames = list(find_images(path))
    assert [frame.name for frame in frames] == [f"{path}#{number}" for number in range(3)]
    pixels = frames[1].read()
    assert pixels.shape == (48, 64, 3)
    assert pixels[..., 0].min() > 200
    assert pixels[..., 2].max() < 50


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

    def looks(count):
        found = itertools.islice(images, count)
        return [image and image.name for image in found]

    assert looks(1) == [None]
    assert looks(2) == [str(first), None]
    growing = tmp_path / "growing.png"
    for size in range(3):
        growing.write_bytes(b"x" * size)
        assert looks(1) == [None]
    assert looks(3) == [str(growing), None, None]


def test_a_file_that_vanishes_is_forgotten(tmp_path):
    images = watch_folder(tmp_path, interval=0)
    file = write(tmp_path / "a.png")
    assert next(images) is None
    file.unlink()
    assert next(images) is None
