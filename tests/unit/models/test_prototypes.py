"""Prototypes of normal features, and what they do to the anomaly map."""

import openvino as ov
import pytest
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from torch import nn
from torch.nn.functional import cosine_similarity

from anomalib_unias import UniAS
from anomalib_unias.models.unias.anomaly_map import AnomalyMapGenerator
from anomalib_unias.models.unias.components import NormalPrototypes, Patches, PrototypeSelection, image_numbers

CHANNELS, STRIDES = (6, 8, 10), (4, 8, 16)


def features(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(count, channels, 64 // stride, 96 // stride, generator=generator)
        for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]


def choose(memory, images):
    """Choose prototypes from images, given as one batch; their numbers are 0, 1, ..."""
    selection = PrototypeSelection(memory, batches=1)
    selection.first_pass(images)
    selection.end_first_pass()
    selection.second_pass(images, torch.arange(len(images[0])))
    selection.end_second_pass()
    return memory


def two_products(count, seed=0):
    """Images of two products: the features of the second are larger, by as much for all of them."""
    images = features(2 * count, seed)
    for feature in images:
        feature[count:] += 5
    return images


@pytest.fixture
def memory():
    return choose(NormalPrototypes(CHANNELS, STRIDES, count=50), features(4))


def test_views_show_a_patch_in_different_ways(memory):
    found = {name: (view.levels, view.grid_stride, view.prototypes.shape[1]) for name, view in memory.views.items()}
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
    choose(memory, images)
    assert all(distance.isfinite().all() for distance in memory(images))


@pytest.mark.parametrize("scale", [0, 1e-3, 1e3])
def test_patches_that_are_all_like_a_prototype(scale):
    images = [scale * feature[:1].repeat(40, 1, 1, 1) for feature in features(1)]
    memory = choose(NormalPrototypes(CHANNELS, STRIDES, count=5), images)
    for distance, unknown in zip(memory(images), memory(features(1, seed=1)), strict=True):
        assert distance.isfinite().all()
        assert unknown.isfinite().all()


@pytest.mark.parametrize("name", ["all", "deep", "finest", "deepest"])
def test_distance_is_that_to_the_nearest_prototype(memory, name):
    view = memory.views[name]
    patches = (view.describe(features(2, seed=1)) - view.mean) @ view.components
    expected = torch.cdist(patches.flatten(0, 2), view.prototypes[0]).amin(dim=1).view(patches.shape[:3]) / view.usual
    torch.testing.assert_close(view(features(2, seed=1)).squeeze(1), expected, atol=1e-4, rtol=1e-4)


def test_by_direction_the_distance_is_the_mean_cosine_distance(memory):
    # There are fewer channels than components, so nothing is left out.
    view = memory.views["all"]
    prototypes = view.prototypes[0] @ view.components.mT + view.mean
    patches = view.describe(features(2, seed=1))
    parts = list(zip(patches.split(CHANNELS, dim=-1), prototypes.split(CHANNELS, dim=-1), strict=True))
    cosines = [cosine_similarity(patch[..., None, :], prototype, dim=-1) for patch, prototype in parts]
    expected = (2 * (1 - torch.stack(cosines)).mean(dim=0).amin(dim=-1)).sqrt()
    torch.testing.assert_close(view(features(2, seed=1)).squeeze(1) * view.usual, expected, atol=1e-4, rtol=1e-4)


def test_components_are_whitened_half_the_way():
    view = NormalPrototypes(CHANNELS, STRIDES, count=5).views["finest"]
    patches = torch.randn(4000, CHANNELS[0]) * torch.tensor([9.0, 4, 1, 1, 1, 1])
    view.fit_components(patches)
    deviations = ((patches - view.mean) @ view.components).std(dim=0)
    torch.testing.assert_close(deviations[-2:], torch.tensor([6.0, 9.0]), atol=0.3, rtol=0.05)


def test_patches_of_another_normal_image_have_the_distance_one_on_average():
    memory = choose(NormalPrototypes(CHANNELS, STRIDES, count=200), features(40))
    for distance in memory(features(40, seed=1)):
        assert distance.square().mean().sqrt() == pytest.approx(1, abs=0.05)


def test_known_patches_are_near_and_others_are_not():
    enough = choose(NormalPrototypes(CHANNELS, STRIDES, count=4 * 16 * 24 * 4), features(4))
    for known, unknown in zip(enough(features(4)), enough(features(4, seed=1)), strict=True):
        assert known.max() < 0.03
        assert unknown.mean() > 0.2


def test_every_kind_of_image_has_its_own_prototypes():
    memory = choose(NormalPrototypes(CHANNELS, STRIDES, count=20), two_products(12))
    assert len(memory.kinds) == 2
    images = two_products(3, seed=1)
    kinds = memory.kinds(images).cluster
    assert kinds.tolist() in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])
    for view, found in zip(memory.views.values(), memory(images), strict=True):
        patches = (view.describe(images) - view.mean) @ view.components
        for image, kind, distance in zip(patches, kinds, found, strict=True):
            expected = torch.cdist(image.flatten(0, 1), view.prototypes[kind]).amin(dim=1) / view.usual[kind]
            torch.testing.assert_close(distance.flatten(), expected, atol=1e-3, rtol=1e-3)


def test_what_is_normal_for_another_product_is_not_normal_here():
    memory = choose(NormalPrototypes(CHANNELS, STRIDES, count=20), two_products(12))
    normal, defective = two_products(1, seed=1), two_products(1, seed=1)
    for feature in defective:
        rows, columns = (side // 2 for side in feature.shape[-2:])
        feature[0, :, :rows, :columns] = feature[1, :, :rows, :columns]  # a part of the second product in the first
    found = {
        name: [view(images, memory.kinds(images).cluster)[0, 0, 0, 0] for images in (normal, defective)]
        for name, view in memory.views.items()
    }
    # Random directions are all equally far from each other.
    del found["all"]
    assert all(after > 1.5 * before for before, after in found.values())


def test_prototypes_of_an_image_can_be_left_out():
    images = two_products(12)
    memory = choose(NormalPrototypes(CHANNELS, STRIDES, count=20), images)
    kinds = memory.kinds(images).cluster
    for view, found in zip(memory.views.values(), memory(images, torch.arange(24)), strict=True):
        patches = (view.describe(images) - view.mean) @ view.components
        for image, kind in enumerate(kinds):
            others = view.prototypes[kind][view.source[kind] != image]
            expected = torch.cdist(patches[image].flatten(0, 1), others).amin(dim=1) / view.usual[kind]
            torch.testing.assert_close(found[image].flatten(), expected, atol=1e-3, rtol=1e-3)


def test_without_its_prototypes_a_training_image_is_as_far_away_as_a_new_one():
    memory = choose(NormalPrototypes(CHANNELS, STRIDES, count=1000), features(20))
    known, new = memory(features(20)), memory(features(20, seed=1))
    for seen, left_out, unseen in zip(known, memory(features(20), torch.arange(20)), new, strict=True):
        assert seen.mean() < 0.97 * unseen.mean()
        torch.testing.assert_close(left_out.mean(), unseen.mean(), rtol=0.05, atol=0)
    unknown = memory(features(20, seed=1), torch.arange(100, 120))
    assert all(torch.equal(one, other) for one, other in zip(unknown, new, strict=True))


def test_prototypes_are_not_left_out_if_there_are_no_others():
    memory = choose(NormalPrototypes(CHANNELS, STRIDES, count=20), features(1))
    found = memory(features(1), torch.arange(1))
    assert all(torch.equal(one, other) for one, other in zip(found, memory(features(1)), strict=True))


def test_images_are_numbered_by_their_paths():
    numbers = image_numbers(["a/000.png", "b/000.png", "a/001.png", "a/000.png"])
    assert len(numbers.unique()) == 3
    assert numbers[0] == numbers[3]


def test_usual_distance_is_that_of_each_kind():
    images = two_products(12)
    for feature in images:
        feature[:12] *= 0.1  # the first product varies less
    memory = choose(NormalPrototypes(CHANNELS, STRIDES, count=50), images)
    kinds = memory.kinds(images).cluster
    deep = memory.views["deep"]
    assert deep.usual[kinds[-1]] > 3 * deep.usual[kinds[0]]
    unknown = two_products(4, seed=1)
    for feature in unknown:
        feature[:4] *= 0.1
    for distance in memory.views["finest"](unknown, memory.kinds(unknown).cluster).split(4):
        assert distance.square().mean().sqrt() == pytest.approx(1, abs=0.1)


def test_few_images_are_no_kind_of_their_own():
    assert len(choose(NormalPrototypes(CHANNELS, STRIDES, count=5), two_products(9)).kinds) == 1


def test_groups_of_similar_images_within_a_product_are_no_kinds():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(60, sum(CHANNELS), generator=generator)
    for start in (0, 12):  # twelve images are much like each other, and twelve others
        images[start : start + 12] = images[start] + 0.01 * images[start : start + 12]
    memory = NormalPrototypes(CHANNELS, STRIDES, count=5)
    memory.fit_kinds(images)
    assert len(memory.kinds) == 1
    memory.fit_kinds(images[:24])
    assert len(memory.kinds) == 2


def test_many_kinds_share_the_memory_of_sixteen():
    view = NormalPrototypes(CHANNELS, STRIDES, count=20).views["deep"]
    kinds = torch.arange(40).repeat_interleave(30)
    view.fit(Patches(torch.randn(1200, 18), kinds, torch.arange(1200)), range(40))
    assert view.prototypes.shape == (40, 8, 18)


def test_a_kind_without_images_takes_the_prototypes_of_its_neighbour():
    memory = NormalPrototypes(CHANNELS, STRIDES, count=20)
    selection = PrototypeSelection(memory, batches=1)
    selection.first_pass(two_products(12))
    selection.end_first_pass()
    memory.kinds.centers[1] = 1e6
    selection._counts = torch.tensor([24, 0])
    selection.second_pass(two_products(12), torch.arange(24))
    selection.end_second_pass()
    for view in memory.views.values():
        torch.testing.assert_close(view.usual[1], view.usual[0], rtol=0.3, atol=0)
        assert torch.cdist(view.prototypes[1], view.prototypes[0]).amin(dim=1).max() < view.usual[0] * 3


def test_a_kind_may_have_no_images_in_the_second_pass():
    """Random augmentations differ between the passes."""
    memory = NormalPrototypes(CHANNELS, STRIDES, count=20)
    selection = PrototypeSelection(memory, batches=1)
    selection.first_pass(two_products(12))
    selection.end_first_pass()
    selection.second_pass([feature[:12] for feature in two_products(12)], torch.arange(12))
    selection.end_second_pass()
    assert all(view.prototypes.shape[0] == 2 and view.prototypes.isfinite().all() for view in memory.views.values())
    assert all(view.prototypes.std(dim=1).min() > 0 for view in memory.views.values())


def test_prototypes_of_all_kinds_are_loaded_into_a_new_model():
    chosen = choose(NormalPrototypes(CHANNELS, STRIDES, count=20), two_products(12))
    restored = NormalPrototypes(CHANNELS, STRIDES, count=20)
    restored.load_state_dict(chosen.state_dict())
    images = two_products(2, seed=1)
    for found, expected in zip(restored(images), chosen(images), strict=True):
        torch.testing.assert_close(found, expected, atol=0, rtol=0)


class Exported(nn.Module):
    def __init__(self, memory):
        super().__init__()
        self.memory = memory

    def forward(self, first, second, third):
        return tuple(self.memory([first, second, third]))


def test_an_export_compares_each_image_with_the_prototypes_of_its_kind(tmp_path):
    model = Exported(choose(NormalPrototypes(CHANNELS, STRIDES, count=20), two_products(12))).eval()
    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in CHANNELS)
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        model, tuple(two_products(2)), path, dynamo=True, dynamic_shapes=shapes, optimize=False, verbose=False
    )
    # This processor might compute in bfloat16 otherwise.
    compiled = ov.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    both = two_products(3, seed=1)
    for images in (both, [feature[4:5] for feature in both]):
        found = compiled([feature.numpy() for feature in images])
        for index, expected in enumerate(model(*images)):
            torch.testing.assert_close(torch.from_numpy(found[index]), expected, atol=1e-4, rtol=1e-4)


def test_prototypes_of_a_version_without_kinds_are_one_kind(memory):
    saved = {name: value for name, value in memory.state_dict().items() if not name.startswith("kinds.")}
    for name, value in saved.items():
        if name.endswith((".prototypes", ".usual")):
            saved[name] = value[0]
    restored = choose(NormalPrototypes(CHANNELS, STRIDES, count=50), two_products(12))
    restored.load_state_dict(saved)
    for found, expected in zip(restored(features(2, seed=1)), memory(features(2, seed=1)), strict=True):
        torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_prototypes_of_a_version_that_did_not_save_their_images(memory):
    saved = {name: value for name, value in memory.state_dict().items() if not name.endswith(".source")}
    restored = choose(NormalPrototypes(CHANNELS, STRIDES, count=50), two_products(12))
    restored.load_state_dict(saved)
    for found, expected in zip(restored(features(2, seed=1)), memory(features(2, seed=1)), strict=True):
        torch.testing.assert_close(found, expected, atol=0, rtol=0)
    assert not restored.knows_images


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
    expected = generator.product_smoother(first * second.sqrt() * (distances[0] * distances[1]).sqrt())
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
    assert all(chosen[name].std(dim=1).min() > 0 for name in chosen if name.endswith("prototypes"))
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
