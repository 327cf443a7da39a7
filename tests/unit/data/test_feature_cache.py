"""Frozen features that are computed once."""

import logging
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from torchvision.transforms import v2

from anomalib_unias import UniAS, UnifiedDataModule
from anomalib_unias.data.feature_cache import FeatureCacheError, FeatureDataset, cached_features, is_deterministic


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


@pytest.mark.parametrize("change", ["file", "transform", "identity", "damage"])
def test_what_changed_is_computed_again(dataset, tmp_path, monkeypatch, change, caplog):
    folder, identity = tmp_path / "features", "x"
    cached_features(dataset, extract, identity, folder=folder)
    if change == "file":
        os.utime(dataset.samples.image_path[0], (1, 1))
    elif change == "transform":
        dataset.augmentations = v2.Resize((32, 32))
    elif change == "identity":
        identity = "y"
    else:
        path = next(folder.glob("*.npy"))
        content = bytearray(path.read_bytes())
        content[-3] ^= 255
        path.write_bytes(content)
    reads = count_reads(monkeypatch, dataset)
    with caplog.at_level(logging.WARNING):
        cached_features(dataset, extract, identity, folder=folder)
    assert set(reads) == set(range(len(dataset)))
    assert ("damaged" in caplog.text) == (change == "damage")


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
    dataset.augmentations = v2.Compose([v2.Resize((16, 16)), v2.RandomHorizontalFlip()])
    assert not is_deterministic(dataset)


def train(tmp_path, tiny_arguments, data, cache, steps=4, **arguments):
    torch.manual_seed(0)
    model = UniAS(**tiny_arguments, feature_cache=cache, jitter_probability=0.0, dropout=0.0)
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


def test_random_augmentations_and_short_runs_use_the_images(tmp_path, tiny_arguments, data):
    _, seen = train(tmp_path, tiny_arguments, data, "memory", train_augmentations=v2.RandomHorizontalFlip())
    assert FeatureDataset not in seen
    _, seen = train(tmp_path, tiny_arguments, data, "memory", steps=3)
    assert FeatureDataset not in seen
