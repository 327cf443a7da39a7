"""Frozen features that are computed once."""

import logging
import os
import resource
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.pre_processing import PreProcessor
from torchvision.transforms import v2

from anomalib_unias import UniAS, UnifiedDataModule, cli
from anomalib_unias.data.dataset import UnifiedDataset
from anomalib_unias.data.feature_cache import FeatureDataset, cached_features, is_deterministic
from anomalib_unias.data.feature_files import FeatureCacheError, feature_folder, image_identity, open_features


def extract(images):
    return [images[:, :2, ::2, ::2], images[:, :1, ::4, ::4]]


@pytest.fixture
def dataset(tmp_path, write_category):
    datamodule = MVTecAD(write_category(tmp_path / "data", size=32), category="plate", num_workers=0)
    datamodule.setup()
    return datamodule.train_data


@pytest.mark.parametrize("folder", ["features", None])
def test_the_features_are_those_of_the_images_in_half_precision(dataset, tmp_path, folder):
    cached = cached_features(dataset, extract, "x", folder=folder and tmp_path / folder, batch_size=4)
    assert len(cached) == len(dataset)
    for stored, item in zip(cached, dataset, strict=True):
        assert stored.image_path == item.image_path
        assert stored.gt_label.item() == 0
        expected = torch.cat([level.flatten() for level in extract(item.image[None])])
        torch.testing.assert_close(stored.features, expected.half())


def count_reads(monkeypatch, dataset):
    reads = []
    original = type(dataset).__getitem__
    monkeypatch.setattr(type(dataset), "__getitem__", lambda self, i: reads.append(i) or original(self, i))
    return reads


def test_a_second_run_reads_no_image(dataset, tmp_path, monkeypatch):
    first = cached_features(dataset, extract, "x", folder=tmp_path / "features")
    reads = count_reads(monkeypatch, dataset)
    second = cached_features(dataset, extract, "x", folder=tmp_path / "features")
    assert not reads
    torch.testing.assert_close(second[3].features, first[3].features)


def rewritten(path, position):
    """Change a byte, but neither size nor time of modification."""
    stat = Path(path).stat()
    content = bytearray(Path(path).read_bytes())
    content[position] ^= 1
    Path(path).write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("change", ["time", "content", "transform", "identity"])
def test_what_changed_is_computed_again(dataset, tmp_path, monkeypatch, change, caplog):
    folder, identity = tmp_path / "features", "x"
    cached_features(dataset, extract, identity, folder=folder)
    if change == "time":
        os.utime(dataset.samples.image_path[0], (1, 1))
    elif change == "content":
        # Behind the pixels, so that it can still be read.
        rewritten(dataset.samples.image_path[0], -1)
    elif change == "transform":
        dataset.augmentations = v2.Resize((32, 32))
    else:
        identity = "y"
    reads = count_reads(monkeypatch, dataset)
    cached_features(dataset, extract, identity, folder=folder)
    assert set(reads) == ({0} if change in {"time", "content"} else set(range(len(dataset))))
    assert "is damaged" not in caplog.text


def test_of_more_images_only_the_new_ones_are_computed(dataset, tmp_path, monkeypatch, caplog):
    expected = cached_features(dataset, extract, "x", folder=None)
    old = [index for index in range(len(dataset)) if index not in {1, 4}]
    cached_features(dataset.subsample(old), extract, "x", folder=tmp_path / "features")
    reads = count_reads(monkeypatch, dataset)
    with caplog.at_level(logging.INFO):
        cached = cached_features(dataset, extract, "x", folder=tmp_path / "features", batch_size=1)
    assert reads == [1, 4]
    assert f"Those of {len(old)} images are read from earlier files" in caplog.text
    for stored, wanted in zip(cached, expected, strict=True):
        torch.testing.assert_close(stored.features, wanted.features, atol=0, rtol=0)


def test_rows_of_a_damaged_file_are_not_taken(dataset, tmp_path, caplog):
    folder = tmp_path / "features"
    expected = cached_features(dataset, extract, "x", folder=None)
    cached_features(dataset.subsample([0, 1, 2]), extract, "x", folder=folder)
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    (folder / "text.npy").write_bytes(b"[1, 2]")
    cached = cached_features(dataset, extract, "x", folder=folder)
    assert "is damaged" not in caplog.text, "nobody has asked for that file"
    for stored, wanted in zip(cached, expected, strict=True):
        torch.testing.assert_close(stored.features, wanted.features, atol=0, rtol=0)


def test_categories_share_what_is_kept(tmp_path, write_category, monkeypatch):
    root = write_category(tmp_path / "data", size=32)
    write_category(tmp_path / "data", size=32, category="other")
    datamodule = MVTecAD(root, category="plate", num_workers=0)
    datamodule.setup()
    other = MVTecAD(root, category="other", num_workers=0)
    other.setup()
    cached_features(datamodule.train_data, extract, "x", folder=tmp_path / "features")
    both = UnifiedDataset({"other": other.train_data, "plate": datamodule.train_data})
    reads = count_reads(monkeypatch, both)
    cached_features(both, extract, "x", folder=tmp_path / "features")
    assert reads == list(range(len(other.train_data)))


@pytest.mark.parametrize("position", [0, 4095, -1, -4096])
def test_bytes_tell_images_apart_where_times_do_not(tmp_path, monkeypatch, position):
    path = tmp_path / "image.png"
    path.write_bytes(bytes(20000))
    stat = Path(path).stat()
    monkeypatch.setattr(os, "fstat", lambda _: stat)
    before = image_identity(path)
    assert image_identity(path) == before
    rewritten(path, position)
    assert image_identity(path) != before


def test_the_time_of_change_tells_images_apart_where_these_bytes_do_not(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(bytes(20000))
    before = image_identity(path)
    time.sleep(0.05)  # the clock of a file system is coarse
    rewritten(path, 10000)
    assert image_identity(path) != before


@pytest.mark.parametrize("damage", ["flipped", "empty", "short", "long", "text", "other shape"])
def test_a_damaged_file_is_made_again(dataset, tmp_path, monkeypatch, damage, caplog):
    folder = tmp_path / "features"
    first = cached_features(dataset, extract, "x", folder=folder)[3].features
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    if damage == "other shape":
        np.save(path, np.zeros((2, 2), np.float16))
    else:
        path.write_bytes(
            {"flipped": content, "empty": b"", "short": content[:-700], "long": content + b"more", "text": b"[1, 2]"}[
                damage
            ]
        )
    reads = count_reads(monkeypatch, dataset)
    with caplog.at_level(logging.WARNING):
        again = cached_features(dataset, extract, "x", folder=folder)
    assert set(reads) == set(range(len(dataset)))
    assert caplog.text.count("is damaged; its features") == 1
    torch.testing.assert_close(again[3].features, first)
    assert open_features(path, len(dataset)) is not None


def test_two_that_write_the_same_file_and_disagree(dataset, tmp_path):
    folder = tmp_path / "features"

    def others_first(images):
        if not list(folder.glob("*.npy")):
            cached_features(dataset, lambda images: [2 * level for level in extract(images)], "x", folder=folder)
        return extract(images)

    ours = cached_features(dataset, others_first, "x", folder=folder)
    torch.testing.assert_close(
        ours[3].features, torch.cat([e.flatten() for e in extract(dataset[3].image[None])]).half()
    )
    assert [path.suffix for path in folder.iterdir()] == [".npy"]


def test_what_killed_runs_have_left_is_removed(dataset, tmp_path):
    folder = tmp_path / "features"
    folder.mkdir()
    killed, running = folder / "a.1.tmp", folder / "b.2.tmp"
    for path in (killed, running):
        path.write_bytes(b"half")
    os.utime(killed, (1, 1))
    for _ in range(2):
        cached_features(dataset, extract, "x", folder=folder)
    assert not killed.exists()
    assert running.exists()


@contextmanager
def full_disk():
    """The kernel refuses files of more than 4 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no such call on this system")
def test_a_disk_that_is_full_is_found_out_before_the_work(dataset, tmp_path, caplog):
    images = []
    with (
        caplog.at_level(logging.INFO),
        full_disk(),
        pytest.raises(FeatureCacheError, match="cannot be stored in .*too large"),
    ):
        cached_features(dataset, lambda batch: images.append(len(batch)) or extract(batch), "x", folder=tmp_path / "f")
    assert images == [1]  # of which the size was learnt
    assert not list((tmp_path / "f").iterdir())
    assert "Storing the frozen features of 6 images in" in caplog.text


def test_a_disk_that_fills(dataset, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with full_disk(), pytest.raises(FeatureCacheError, match="cannot be stored in .*too large"):
        cached_features(dataset, extract, "x", folder=tmp_path / "features", batch_size=2)
    assert not list((tmp_path / "features").iterdir())


def test_a_folder_that_cannot_be_written(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FeatureCacheError, match="cannot be stored in"):
        cached_features(dataset, extract, "x", folder=tmp_path / "file" / "features")


@pytest.mark.parametrize("folder", ["features", None])
def test_a_limit(dataset, tmp_path, folder):
    folder = folder and tmp_path / folder
    needed = 2e-9 * 6 * (2 * 16 * 16 + 8 * 8)
    with pytest.raises(FeatureCacheError, match="6 images need 6.91e-06 GB, the limit of the cache is 6e-06 GB"):
        cached_features(dataset, extract, "x", folder=folder, limit=6e-6)
    cached_features(dataset, extract, "x", folder=folder, limit=needed)


def test_features_that_half_precision_cannot_hold_are_refused_and_leave_no_file(dataset, tmp_path):
    with pytest.raises(FeatureCacheError, match="half precision"):
        cached_features(dataset, lambda images: [images * 1e6], "x", folder=tmp_path / "features")
    assert not list((tmp_path / "features").iterdir())


def test_a_full_disk_is_named(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(FeatureCacheError, match="are free"):
        cached_features(dataset, extract, "x", folder=tmp_path / "features")


def test_random_transforms_are_recognised(dataset):
    assert is_deterministic(dataset)
    dataset.augmentations = v2.Compose([v2.Resize((16, 16)), v2.CenterCrop(8)])
    assert is_deterministic(dataset)
    fixed, random = v2.Compose([v2.Resize((16, 16))]), v2.Compose([v2.Resize((16, 16)), v2.RandomHorizontalFlip()])
    assert is_deterministic(dataset, PreProcessor(fixed))
    assert not is_deterministic(dataset, PreProcessor(random))
    assert not is_deterministic(dataset, torch.nn.Dropout())
    dataset.augmentations = random
    assert not is_deterministic(dataset)


def train(tmp_path, tiny_arguments, data, cache, steps=4, model=None, **arguments):
    torch.manual_seed(0)
    model = UniAS(**tiny_arguments, **(model or {}), feature_cache=cache, jitter_probability=0.0, dropout=0.0)
    datamodule = UnifiedDataModule(
        "MVTecAD", ["plate", "lid"], data, num_workers=0, train_batch_size=4, seed=0, **arguments
    )
    seen = []
    step = model.training_step
    model.training_step = lambda batch, *rest: seen.append(type(datamodule.train_data)) or step(batch, *rest)
    Engine(max_steps=steps, default_root_dir=tmp_path, logger=False, barebones=True).fit(model, datamodule=datamodule)
    assert not isinstance(datamodule.train_data, FeatureDataset)
    return model, seen


@pytest.fixture
def data(tmp_path, write_category, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = write_category(tmp_path / "data")
    return write_category(root, "lid")


def test_training_on_stored_features_gives_the_same_weights(tmp_path, tiny_arguments, data):
    plain, seen = train(tmp_path, tiny_arguments, data, "off")
    assert FeatureDataset not in seen
    for cache in ("disk", "memory"):
        stored, seen = train(tmp_path, tiny_arguments, data, cache)
        assert seen == [FeatureDataset] * 4
        for ours, theirs in zip(stored.parameters(), plain.parameters(), strict=True):
            # Half precision of the inputs, seen through the sign-like first steps of AdamW.
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-2)
    assert list((tmp_path / "cache").rglob("*.npy"))


def test_random_transforms_and_short_runs_use_the_images(tmp_path, tiny_arguments, data):
    random = PreProcessor(v2.Compose([v2.Resize(tiny_arguments["image_size"]), v2.RandomHorizontalFlip()]))
    _, seen = train(tmp_path, tiny_arguments, data, "memory", model={"pre_processor": random})
    assert FeatureDataset not in seen
    _, seen = train(tmp_path, tiny_arguments, data, "memory", train_augmentations=v2.RandomHorizontalFlip())
    assert FeatureDataset not in seen
    _, seen = train(tmp_path, tiny_arguments, data, "memory", steps=3)
    assert FeatureDataset not in seen


def test_training_goes_on_without_a_cache(tmp_path, tiny_arguments, data, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    _, seen = train(tmp_path, tiny_arguments, data, "disk")
    assert seen == [UnifiedDataset] * 4
    assert [record.levelname for record in caplog.records if "cannot be stored" in record.message] == ["WARNING"]


def test_the_limit_is_an_argument(tmp_path, tiny_arguments, data, caplog):
    _, seen = train(tmp_path, tiny_arguments, data, "memory", model={"feature_cache_limit": 1e-6})
    assert seen == [UnifiedDataset] * 4
    assert "the limit of the cache is 1e-06 GB" in caplog.text


def test_the_command_lists_and_clears(dataset, data, monkeypatch, caplog):
    del data  # it moves the cache folder
    caplog.set_level(logging.INFO)
    cached_features(dataset, extract, "x", folder=feature_folder())
    (path,) = feature_folder().iterdir()
    for arguments in ([], ["--clear", "true"]):
        monkeypatch.setattr(sys, "argv", ["anomalib-unias", "cache", *arguments])
        cli.main()
        assert path.exists() == (not arguments)
    assert sum(f"0.1 MB  {path.name}" in line for line in caplog.messages) == 2
    assert f"1 files removed from {feature_folder()}" in caplog.text
