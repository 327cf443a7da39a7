"""Prototypes of normal features, and what they do to the anomaly map."""

import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from torch.nn.functional import cosine_similarity

from anomalib_unias import UniAS
from anomalib_unias.models.unias.anomaly_map import AnomalyMapGenerator
from anomalib_unias.models.unias.components import NormalPrototypes

CHANNELS, STRIDES = (6, 8, 10), (4, 8, 16)


def features(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(count, channels, 64 // stride, 96 // stride, generator=generator)
        for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]


@pytest.fixture
def memory():
    memory = NormalPrototypes(CHANNELS, STRIDES, count=50)
    memory.fit(memory.sample(features(4), images=4))
    return memory


def test_views_show_a_patch_in_different_ways(memory):
    found = {name: (view.levels, view.grid_stride, len(view.prototypes)) for name, view in memory.views.items()}
    assert found == {
        "all": ((0, 1, 2), 8, 50),
        "deep": ((1, 2), 8, 50),
        "finest": ((0,), 4, 12),
        "deepest": ((2,), 16, 50),
    }
    sizes = [distance.shape for distance in memory(features(2, seed=1))]
    assert sizes == [(2, 1, 8, 12), (2, 1, 8, 12), (2, 1, 16, 24), (2, 1, 4, 6)]


def test_levels_that_are_too_fine_are_not_compared_by_themselves():
    memory = NormalPrototypes((4, 6, 8, 10), (2, 4, 8, 16), count=50)
    assert memory.views["finest"].levels == (1,)


@pytest.mark.parametrize("channels", [(6, 8), (6,)])
def test_few_levels_leave_out_what_would_be_twice_the_same(channels):
    memory = NormalPrototypes(channels, STRIDES[-len(channels) :], count=5)
    assert list(memory.views) == (["all", "finest", "deepest"] if len(channels) == 2 else ["all", "deepest"])
    images = [feature[:, :count] for feature, count in zip(features(2)[-len(channels) :], channels, strict=True)]
    memory.fit(memory.sample(images, images=2))
    assert all(distance.isfinite().all() for distance in memory(images))


@pytest.mark.parametrize("scale", [0, 1e-3, 1e3])
def test_patches_that_are_all_like_a_prototype(scale):
    memory = NormalPrototypes(CHANNELS, STRIDES, count=5)
    images = [scale * feature[:1].repeat(40, 1, 1, 1) for feature in features(1)]
    memory.fit([view.describe(images).flatten(0, 2) for view in memory.views.values()])
    for distance, unknown in zip(memory(images), memory(features(1, seed=1)), strict=True):
        assert distance.isfinite().all()
        assert unknown.isfinite().all()


@pytest.mark.parametrize("name", ["all", "deep", "finest", "deepest"])
def test_distance_is_that_to_the_nearest_prototype(memory, name):
    view = memory.views[name]
    patches = (view.describe(features(2, seed=1)) - view.mean) @ view.components
    expected = torch.cdist(patches.flatten(0, 2), view.prototypes).amin(dim=1).view(patches.shape[:3]) / view.usual
    torch.testing.assert_close(view(features(2, seed=1)).squeeze(1), expected, atol=1e-4, rtol=1e-4)


def test_by_direction_the_distance_is_the_mean_cosine_distance(memory):
    # There are fewer channels than components, so nothing is left out.
    view = memory.views["all"]
    prototypes = view.prototypes @ view.components.mT + view.mean
    patches = view.describe(features(2, seed=1))
    parts = list(zip(patches.split(CHANNELS, dim=-1), prototypes.split(CHANNELS, dim=-1), strict=True))
    cosines = [cosine_similarity(patch[..., None, :], prototype, dim=-1) for patch, prototype in parts]
    expected = (2 * (1 - torch.stack(cosines)).mean(dim=0).amin(dim=-1)).sqrt()
    torch.testing.assert_close(view(features(2, seed=1)).squeeze(1) * view.usual, expected, atol=1e-4, rtol=1e-4)


def test_components_are_whitened_half_the_way():
    view = NormalPrototypes(CHANNELS, STRIDES, count=5).views["finest"]
    patches = torch.randn(4000, CHANNELS[0]) * torch.tensor([9.0, 4, 1, 1, 1, 1])
    view.fit(patches)
    deviations = ((patches - view.mean) @ view.components).std(dim=0)
    torch.testing.assert_close(deviations[-2:], torch.tensor([6.0, 9.0]), atol=0.3, rtol=0.05)


def test_usual_normal_patches_have_the_distance_one(memory):
    for view, distance in zip(memory.views.values(), memory(features(4)), strict=True):
        # Prototypes are among the patches and have none.
        share = 1 - len(view.prototypes) / distance.numel()
        assert (distance.square().mean() / share).sqrt() == pytest.approx(1, abs=0.05)


def test_known_patches_are_near_and_others_are_not():
    enough = NormalPrototypes(CHANNELS, STRIDES, count=4 * 16 * 24 * 4)
    enough.fit([view.describe(features(4)).flatten(0, 2) for view in enough.views.values()])
    for known, unknown in zip(enough(features(4)), enough(features(4, seed=1)), strict=True):
        assert known.max() < 0.03
        assert unknown.mean() > 0.2


def test_only_the_view_by_direction_leaves_brightness_out(memory):
    images = features(2, seed=1)
    brighter = [3 * images[0], images[1], 0.2 * images[2]]
    same = {name: torch.allclose(view(images), view(brighter), atol=1e-4) for name, view in memory.views.items()}
    assert same == {"all": True, "deep": False, "finest": False, "deepest": False}


def test_sample_is_spread_over_the_images():
    memory = NormalPrototypes(CHANNELS, STRIDES, count=5)
    few = memory.sample(features(2), images=2)
    assert [patches.shape for patches in few] == [(192, 24), (192, 18), (768, 6), (48, 10)]
    assert [len(patches) for patches in memory.sample(features(2), images=20_000)] == [6, 6, 6, 6]


def test_geometric_mean_of_distances_is_multiplied_into_the_map():
    targets = [torch.rand(2, 5, 8, 8), torch.rand(2, 5, 4, 4)]
    reconstructions = [torch.rand_like(target) for target in targets]
    generator = AnomalyMapGenerator([2, 1], (16, 16), blur=False, weights=[1, 0.5])
    first, second = generator.level_maps(targets, reconstructions)
    distances = [torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)]
    expected = generator.prototype_smoother(first * second.sqrt() * (distances[0] * distances[1]).sqrt())
    found = generator(targets, reconstructions, distances)
    torch.testing.assert_close(found[..., ::15, ::15], expected[..., ::7, ::7])


def test_negative_number(tiny_arguments):
    with pytest.raises(ValueError, match="prototypes is a number"):
        UniAS(**tiny_arguments, prototypes=-1)


@pytest.mark.parametrize("cache", ["off", "memory"])
def test_chosen_once_in_training_and_kept_in_the_checkpoint(tmp_path, tiny_arguments, write_category, cache):
    data = write_category(tmp_path / "data")
    model = UniAS(**tiny_arguments, prototypes=40, feature_cache=cache)
    datamodule = MVTecAD(data, "plate", num_workers=0, train_batch_size=4, seed=0)
    engine = Engine(max_steps=4, default_root_dir=tmp_path, logger=False)
    engine.fit(model, datamodule=datamodule)
    assert model.model.prototypes.fitted
    chosen = model.model.prototypes.state_dict()
    assert all(chosen[name].std(dim=0).min() > 0 for name in chosen if name.endswith("prototypes"))
    restored = UniAS.load_from_checkpoint(engine.best_model_path or engine.trainer.checkpoint_callback.best_model_path)
    torch.testing.assert_close(restored.model.prototypes.state_dict(), chosen)
    images = torch.rand(2, 3, *model.model.image_size)
    with torch.no_grad():
        torch.testing.assert_close(restored.eval().model(images).anomaly_map, model.eval().model(images).anomaly_map)


def test_same_seed_same_prototypes(tmp_path, tiny_arguments, write_category):
    data = write_category(tmp_path / "data")
    chosen = []
    for _ in range(2):
        torch.manual_seed(0)
        model = UniAS(**tiny_arguments, prototypes=40, feature_cache="off")
        datamodule = MVTecAD(data, "plate", num_workers=0, train_batch_size=4, seed=0)
        Engine(max_steps=1, default_root_dir=tmp_path, logger=False).fit(model, datamodule=datamodule)
        chosen.append(model.model.prototypes.state_dict())
    torch.testing.assert_close(*chosen, atol=0, rtol=0)
