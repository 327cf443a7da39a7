"""Prototypes of normal features, and what they do to the anomaly map."""

import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.models.components import KCenterGreedy
from torch.nn.functional import cosine_similarity

from anomalib_unias import UniAS
from anomalib_unias.models.unias.anomaly_map import AnomalyMapGenerator
from anomalib_unias.models.unias.components import NormalPrototypes
from anomalib_unias.models.unias.components.prototypes import BoundedKCenterGreedy

CHANNELS, STRIDES = (6, 8, 10), (4, 8, 16)


def features(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(count, channels, 64 // stride, 96 // stride, generator=generator)
        for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]


@pytest.fixture
def fitted():
    memory = NormalPrototypes(CHANNELS, STRIDES, count=50)
    memory.fit(memory.sample(features(4), images=4))
    return memory


def test_distance_is_the_mean_cosine_distance_to_the_nearest(fitted):
    # There are fewer channels than components, so nothing is left out.
    prototypes = fitted.prototypes @ fitted.components.mT + fitted.mean
    places = fitted.describe(features(2, seed=1))
    parts = list(zip(places.split(CHANNELS, dim=-1), prototypes.split(CHANNELS, dim=-1), strict=True))
    cosines = [cosine_similarity(place[..., None, :], prototype, dim=-1) for place, prototype in parts]
    expected = (1 - torch.stack(cosines)).mean(dim=0).amin(dim=-1)
    torch.testing.assert_close(fitted(features(2, seed=1)).squeeze(1), expected, atol=1e-5, rtol=1e-4)


def test_known_places_are_near_and_others_are_not(fitted):
    enough = NormalPrototypes(CHANNELS, STRIDES, count=4 * 8 * 12 + 3)
    enough.fit(enough.describe(features(4)).flatten(0, 2))
    assert enough(features(4)).max() < 1e-5
    assert enough(features(4, seed=1)).min() > 0.01
    assert fitted(features(4)).mean() < fitted(features(4, seed=1)).mean()


def test_distance_does_not_depend_on_brightness_of_a_level(fitted):
    images = features(2, seed=1)
    torch.testing.assert_close(fitted(images), fitted([3 * images[0], images[1], 0.2 * images[2]]))


def test_sample_is_spread_over_the_images():
    memory = NormalPrototypes(CHANNELS, STRIDES, count=5)
    assert memory.sample(features(2), images=2).shape == (2 * 8 * 12, sum(CHANNELS))
    assert memory.sample(features(2), images=20_000).shape == (6, sum(CHANNELS))


def test_selection_is_that_of_anomalib():
    places = torch.randn(500, 16)
    torch.manual_seed(0)
    ours = BoundedKCenterGreedy(places, 40).select_coreset_idxs()
    torch.manual_seed(0)
    assert ours == KCenterGreedy(places[:, None], 40.5 / 500).select_coreset_idxs()


def test_selection_takes_no_new_memory_for_a_place():
    selection = BoundedKCenterGreedy(torch.randn(500, 16), 40)
    selection.select_coreset_idxs()
    distances = selection.min_distances
    before = distances.data_ptr(), distances.sum()
    selection.update_distances(7)
    assert selection.min_distances is distances
    assert (distances.data_ptr(), distances[7]) == (before[0], pytest.approx(0, abs=1e-4))
    assert distances.sum() <= before[1]


def test_distance_weighs_as_much_as_all_levels():
    targets = [torch.rand(2, 5, 8, 8), torch.rand(2, 5, 4, 4)]
    reconstructions = [torch.rand_like(target) for target in targets]
    generator = AnomalyMapGenerator([2, 1], (16, 16), blur=False)
    first, second = generator.level_maps(targets, reconstructions)
    distance = torch.rand(2, 1, 8, 8)
    expected = (first * second).sqrt() * distance
    found = generator(targets, reconstructions, distance)
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
    chosen = model.model.prototypes.prototypes.clone()
    assert chosen.std(dim=0).min() > 0
    restored = UniAS.load_from_checkpoint(engine.best_model_path or engine.trainer.checkpoint_callback.best_model_path)
    torch.testing.assert_close(restored.model.prototypes.prototypes, chosen)
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
        chosen.append(model.model.prototypes.prototypes)
    torch.testing.assert_close(*chosen, atol=0, rtol=0)
