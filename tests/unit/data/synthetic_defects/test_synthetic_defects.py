"""Synthetic defects: masks that tell where an image was changed, the same ones for the same seed."""

import numpy as np
import pandas as pd
import pytest
import torch

from anomalib_unias import UnifiedDataModule
from anomalib_unias.data.synthetic_defects import SyntheticDefects
from anomalib_unias.data.synthetic_defects.dataset import varied, with_defect
from anomalib_unias.data.synthetic_defects.fills import FILLS, Scene
from anomalib_unias.data.synthetic_defects.shapes import SHAPES, stroke

SIZE = (64, 96)


@pytest.fixture(scope="module")
def images(write_category, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for category in ("cup", "plate"):
        write_category(root, category)
    datamodule = UnifiedDataModule("MVTecAD", "all", root=root, num_workers=0)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule.train_data


@pytest.fixture
def textures():
    rng = np.random.default_rng(0)
    return [rng.uniform(0, 1, (*SIZE, 3)).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_shapes_are_masks(shape):
    rng = np.random.default_rng(1)
    masks = np.stack([shape(*SIZE, rng) for _ in range(50)])
    assert masks.shape == (50, *SIZE)
    assert masks.dtype == np.float32
    assert 0 <= masks.min() < masks.max() <= 1
    assert np.ptp(masks.mean(axis=(1, 2))) > 0.005


@pytest.mark.parametrize("fill", FILLS, ids=lambda fill: fill.__name__)
def test_fills_change_an_image(fill, textures):
    rng = np.random.default_rng(1)
    mask = stroke(*SIZE, rng)
    filled = fill(Scene(textures[0], mask, textures[1], textures[2], rng))
    assert filled.shape == (*SIZE, 3)
    inside = mask > 0.5
    assert np.abs(filled - textures[0])[inside].mean() > 0.01


@pytest.mark.parametrize("fill", ["tinted", "rough"])
def test_grey_images_stay_grey(fill):
    grey = np.repeat(np.random.default_rng(0).uniform(0, 1, (*SIZE, 1)), 3, axis=2).astype(np.float32)
    function = next(function for function in FILLS if function.__name__ == fill)
    filled = function(Scene(grey, np.ones(SIZE, np.float32), grey, grey, np.random.default_rng(1)))
    assert np.ptp(filled, axis=2).max() < 1e-6


def test_an_image_is_changed_inside_the_shape_only_and_the_mask_is_there(textures):
    for seed in range(30):
        image, mask = with_defect(*textures, np.random.default_rng(seed))
        change = np.abs(image - textures[0]).mean(axis=2)
        assert 12 <= mask.sum() < 0.8 * mask.size
        assert change[mask].mean() > 2 * change[~mask].mean()
        assert 0 <= image.min() <= image.max() <= 1


def test_sizes_are_spread(images):
    shares = np.array([pair.mask.float().mean() for pair in (SyntheticDefects(images, SIZE, 80)[i] for i in range(80))])
    assert (shares < 0.01).sum() > 5
    assert (shares > 0.1).sum() > 5


def test_same_seed_and_index_same_pair(images):
    first, second = SyntheticDefects(images, SIZE, 10, seed=1), SyntheticDefects(images, SIZE, 10, seed=1)
    assert torch.equal(first[7].image, second[7].image)
    assert torch.equal(first[7].mask, second[7].mask)
    assert not torch.equal(first[7].image, SyntheticDefects(images, SIZE, 10, seed=2)[7].image)


def test_pairs_have_the_size_and_categories_take_turns(images):
    pairs = SyntheticDefects(images, SIZE, 4)
    assert [pairs[index].category for index in range(len(pairs))] == ["cup", "plate", "cup", "plate"]
    assert pairs[0].image.shape == pairs[0].normal.shape == (3, *SIZE)
    assert pairs[0].mask.shape == SIZE
    with pytest.raises(IndexError):
        pairs[4]


def test_a_varied_image_is_another_one_but_near():
    smooth = np.linspace(0.2, 0.6, SIZE[0] * SIZE[1] * 3, dtype=np.float32).reshape(*SIZE, 3)
    changed = varied(smooth, np.random.default_rng(0))
    assert 0.001 < np.abs(changed - smooth).mean() < 0.1


def test_an_image_of_one_colour_may_have_no_defect():
    white = np.ones((*SIZE, 3), np.float32)
    image, mask = with_defect(white, white, white, np.random.default_rng(0))
    assert (np.abs(image - white).mean(axis=2)[mask] > 0).all()


class _NoNormalImage:
    samples = pd.DataFrame({"label_index": [1, 1]})


@pytest.mark.parametrize(("count", "message"), [(0, "count=0"), (5, "got 0 of them")])
def test_nothing_to_make_defects_of(images, count, message):
    with pytest.raises(ValueError, match=message):
        SyntheticDefects(_NoNormalImage() if count else images, SIZE, count)
