import copy
import pickle

import pytest
import torch
from anomalib.data import InferenceBatch
from torch import Tensor

from anomalib_unias.post_processing.calibration import CategoryNeededError, calibrate
from anomalib_unias.post_processing.calibration_data import (
    CalibrationData,
    CalibrationDataError,
    map_statistics,
    shrink,
)
from anomalib_unias.post_processing.encoders import FeatureLayerError, FeatureTap, feature_maps
from anomalib_unias.post_processing.feature_memory import FeatureMemory, describe
from anomalib_unias.post_processing.fitting import (
    CalibrationOptions,
    empty_calibration,
    fit_calibration,
    specification,
)
from anomalib_unias.post_processing.regression import FeatureHead, train_head

LEVELS = torch.tensor([[0.1, 0.5], [1.0, 9.0], [4.0, 6.0]])
"""Mean of the maps of three products, and how far their maximum is above it."""


def options(**changes: object) -> CalibrationOptions:
    defaults = {
        "variant": "cada",
        "predictor": "neighbors",
        "statistics": "max",
        "convolutions": 1,
        "linear_layers": 2,
        "hidden_dim": 32,
        "dropout": 0.25,
        "learning_rate": 5e-2,
        "max_steps": 300,
        "batch_size": 16,
        "seed": 0,
    }
    return CalibrationOptions(**(defaults | changes))


def feature_map(product: Tensor, generator: torch.Generator) -> Tensor:
    """Features ``(N, 8, 4, 4)``, in which products differ in their channel means."""
    prototypes = torch.randn(3, 8, generator=torch.Generator().manual_seed(7))
    noise = 0.05 * torch.randn(len(product), 8, 4, 4, generator=generator)
    return prototypes[product, :, None, None] + noise


def data(images: int = 20, bias: float = 1.0, seed: int = 0, *, unseen: bool = False) -> CalibrationData:
    """Images of three products whose statistics vary by a tenth; ``bias`` scales all of them."""
    generator = torch.Generator().manual_seed(seed)
    product = torch.arange(3).repeat_interleave(images)
    maps = feature_map(product, generator)
    noise = (0.1 * torch.randn(len(product), 2, generator=generator)).exp()
    level, height = (bias * LEVELS[product] * noise).unbind(dim=1)
    return CalibrationData(
        descriptors=describe([maps]),
        statistics=torch.stack([level, level + height, height / 5], dim=1),
        categories=["abc"[k] for k in product],
        unseen=torch.full((len(product),), unseen),
        maps=maps.half(),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": "cada_a"},
        {"variant": "cada_b"},
        {},
        {"predictor": "regressor"},
        {"predictor": "regressor", "convolutions": 2, "linear_layers": 3},
        {"predictor": "regressor", "convolutions": 0, "linear_layers": 1},
    ],
)
def test_new_images_get_the_statistics_of_their_product(changes: dict) -> None:
    calibration = fit_calibration(data(), options(**changes))
    product = torch.tensor([2, 0, 1, 1])
    maps = [feature_map(product, torch.Generator().manual_seed(1))]
    level, height, unfamiliar = calibration(maps, ["abc"[k] for k in product])
    predicted = torch.stack([level, height], dim=1)
    # The network of the paper sees differences between the scores, not their ratios.
    spread = LEVELS.std(dim=0) if changes.get("predictor") == "regressor" else LEVELS[product]
    assert ((predicted - LEVELS[product]).abs() < 0.5 * spread).all()
    assert not unfamiliar.any()
    assert not any(parameter.requires_grad for parameter in calibration.parameters())


def test_standard_deviation_can_take_the_place_of_the_maximum() -> None:
    product = torch.arange(3)
    maps = [feature_map(product, torch.Generator().manual_seed(1))]
    _, height, _ = fit_calibration(data(), options(statistics="std"))(maps)
    torch.testing.assert_close(height, 3 * LEVELS[:, 1] / 5, rtol=0.3, atol=0)


ALL_VARIANTS = [{"variant": "cada_a"}, {"variant": "cada_b"}, {}, {"predictor": "regressor"}]


@pytest.mark.parametrize("changes", ALL_VARIANTS)
@pytest.mark.parametrize("zero", ["one product", "all products"])
def test_maps_that_are_zero_on_normal_images_do_not_blow_scores_up(changes: dict, zero: str, caplog) -> None:
    known = data()
    known.statistics[: 20 if zero == "one product" else 60] = 0.0
    calibration = fit_calibration(known, options(**changes, max_steps=60))
    prediction = calibration([feature_map(torch.tensor([0]), torch.Generator().manual_seed(1))], ["a"])
    anomaly_map = torch.zeros(1, 1, 8, 8)
    normal = calibrate(InferenceBatch(anomaly_map=anomaly_map), prediction, "max")
    anomaly_map[..., 2:4, 2:4] = 0.3
    defective = calibrate(InferenceBatch(anomaly_map=anomaly_map), prediction, "max")
    assert normal.pred_score.abs() < 1
    assert 0.1 < (defective.pred_score - normal.pred_score) < 0.3 / (1e-3 * 9)
    assert ("all normal images are constant" in caplog.text) == (zero == "all products")


def test_unseen_images_correct_what_training_images_score_too_low() -> None:
    both = data(images=30, bias=0.2) + data(images=4, seed=5, unseen=True)
    product = torch.arange(3)
    maps = [feature_map(product, torch.Generator().manual_seed(1))]
    corrected, _, _ = fit_calibration(both, options())(maps)
    torch.testing.assert_close(corrected, LEVELS[:, 0], rtol=0.25, atol=0)
    as_published, _, _ = fit_calibration(data(images=30, bias=0.2), options())(maps)
    assert (as_published < 0.3 * LEVELS[:, 0]).all()


def test_worthless_statistics_of_training_images_do_no_harm() -> None:
    training = data(images=30)
    training.statistics = torch.rand_like(training.statistics) * 1e-6  # a memory bank knows each of its patches
    maps = [feature_map(torch.arange(3), torch.Generator().manual_seed(1))]
    level, _, _ = fit_calibration(training + data(images=6, seed=5, unseen=True), options())(maps)
    torch.testing.assert_close(level, LEVELS[:, 0], rtol=0.15, atol=0)


def test_predictions_follow_what_varies_within_a_product() -> None:
    along = torch.linspace(0, 1, 100)  # such as the exposure
    statistics = (10**along)[:, None] * torch.tensor([1.0, 2.0, 0.5])
    descriptors = along[:, None, None, None]
    known = CalibrationData(describe([descriptors]), statistics, None, torch.arange(100) % 10 == 5)
    level, _, _ = fit_calibration(known, options())([descriptors])
    assert (level / statistics[:, 0]).log().abs().max() < 0.6  # one number for all would leave log(10) / 2 = 1.15


def test_images_that_no_unseen_one_is_connected_with_take_the_nearest() -> None:
    groups = torch.arange(3).repeat_interleave(20)
    descriptors = torch.tensor([0.0, 5.0, 6.0])[groups] + 0.01 * torch.rand(60)
    statistics = torch.tensor([1.0, 10.0, 99.0])[groups][:, None] * torch.tensor([1.0, 2.0, 0.5])
    unseen = (groups < 2) & (torch.arange(60) % 5 == 0)
    known = CalibrationData(descriptors[:, None], statistics, None, unseen)
    level, _, _ = fit_calibration(known, options())([descriptors[:, None, None, None]])
    torch.testing.assert_close(level, torch.tensor([1.0, 10.0, 10.0])[groups], rtol=0.01, atol=0)


def test_unseen_images_correct_all_of_their_product_and_no_other() -> None:
    # Two products that vary along a line, each with unseen images in the middle of it only.
    along = torch.linspace(0, 1, 15).repeat(2)
    product = torch.arange(2).repeat_interleave(15)
    unseen = (along > 0.4) & (along < 0.6)
    descriptors = torch.stack([along, 2.0 * product], dim=1)[:, :, None, None]
    factor = torch.tensor([5.0, 0.2])
    statistics = torch.where(unseen, factor[product], 1.0)[:, None] * torch.tensor([1.0, 2.0, 0.5])
    known = CalibrationData(describe([descriptors]), statistics, None, unseen)
    level, height, _ = fit_calibration(known, options())([descriptors])
    far = along > 0.9
    torch.testing.assert_close(level[far], factor[product][far], rtol=0.2, atol=0)
    torch.testing.assert_close(height[far], factor[product][far], rtol=0.2, atol=0)


@pytest.mark.parametrize("predictor", ["neighbors", "regressor"])
def test_predictions_stay_in_the_range_of_training_and_strange_images_are_flagged(predictor: str) -> None:
    known = data()
    calibration = fit_calibration(known, options(predictor=predictor))
    strange = [50 * torch.randn(5, 8, 4, 4, generator=torch.Generator().manual_seed(3))]
    level, height, unfamiliar = calibration(strange)
    assert unfamiliar.all()
    mean, maximum, _ = known.statistics.unbind(dim=1)
    for values, seen in ((level, mean), (height, maximum - mean)):
        assert (values >= seen.min()).all()
        assert (values <= seen.max()).all()


@pytest.mark.parametrize("changes", [{"variant": "cada_a"}, {"variant": "cada_b"}, {}, {"predictor": "regressor"}])
def test_a_calibration_is_rebuilt_from_plain_data_and_a_state_dict(changes: dict) -> None:
    fitted = fit_calibration(data(), options(**changes))
    rebuilt = empty_calibration(copy.deepcopy(specification(fitted)))
    rebuilt.load_state_dict(fitted.state_dict())
    maps, names = [feature_map(torch.arange(3), torch.Generator().manual_seed(1))], ["a", "b", "c"]
    for one, other in zip(fitted(maps, names), rebuilt(maps, names), strict=True):
        assert torch.equal(one, other)


def test_the_same_seed_gives_the_same_network_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one, other = (fit_calibration(data(), options(predictor="regressor", max_steps=60)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_training_of_the_network_stops_when_it_no_longer_improves() -> None:
    head = FeatureHead(4, 1, convolutions=0, linear_layers=1, dropout=0.0)
    features = torch.randn(16, 4, 1, 1)
    arguments = {"learning_rate": 0.5, "batch_size": 16}
    steps = train_head(
        head, features, torch.nn.Identity(), lambda values, _: values.square().mean(), max_steps=5000, **arguments
    )
    assert 250 <= steps < 5000
    with pytest.raises(FloatingPointError, match="learning_rate"):
        train_head(
            head.requires_grad_(),
            features * torch.nan,
            torch.nn.Identity(),
            lambda v, _: v.mean(),
            max_steps=3,
            **arguments,
        )


def test_scale_of_the_scores_does_not_matter() -> None:
    small, large = data(), data(bias=1000.0)
    maps = [feature_map(torch.arange(3), torch.Generator().manual_seed(1))]
    for predictor in ("neighbors", "regressor"):
        one, other = (fit_calibration(d, options(predictor=predictor, max_steps=40))(maps) for d in (small, large))
        torch.testing.assert_close(1000 * one.level, other.level, rtol=1e-3, atol=0)


@pytest.mark.parametrize("names", [None, ["a", "unknown", "c"]])
def test_cada_a_asks_for_known_categories(names: list[str] | None) -> None:
    calibration = fit_calibration(data(), options(variant="cada_a"))
    with pytest.raises(CategoryNeededError, match=r"category|unknown"):
        calibration([feature_map(torch.arange(3), torch.Generator())], names)


@pytest.mark.parametrize("variant", ["cada_a", "cada_b"])
def test_labels_are_asked_for_in_training(variant: str) -> None:
    unlabelled = data()
    unlabelled.categories = None
    with pytest.raises(CalibrationDataError, match="category of every training image"):
        fit_calibration(unlabelled, options(variant=variant))


def test_projection_keeps_the_distances_of_descriptors() -> None:
    descriptors = torch.randn(30, 12, generator=torch.Generator().manual_seed(0))
    normalised = (descriptors - descriptors.mean(0)) / descriptors.std(0, correction=0) / 12**0.5
    memory = FeatureMemory.fit(descriptors)
    torch.testing.assert_close(memory.between(), torch.cdist(normalised, normalised).square(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(memory([descriptors[:, :, None, None]]), memory.between(), rtol=1e-4, atol=1e-5)
    assert FeatureMemory.fit(descriptors, dimensions=3).bank.shape == (30, 3)


def test_a_channel_that_never_changes_has_no_say() -> None:
    descriptors = torch.cat([torch.randn(9, 3), torch.full((9, 1), 7.0)], dim=1)
    assert torch.isfinite(FeatureMemory.fit(descriptors).between()).all()


def test_tokens_become_maps_without_class_tokens() -> None:
    tokens = torch.arange(2 * 10 * 4).reshape(2, 10, 4).float()
    (as_map,) = feature_maps({"blocks.1": tokens})
    assert as_map.shape == (2, 4, 3, 3)
    assert torch.equal(as_map.flatten(2).transpose(1, 2), tokens[:, 1:])
    assert [tuple(m.shape) for m in feature_maps([torch.zeros(2, 5), (torch.zeros(2, 3, 4, 4),)])] == [
        (2, 5, 1, 1),
        (2, 3, 4, 4),
    ]


def test_output_without_tensors_is_refused() -> None:
    with pytest.raises(FeatureLayerError, match="without any tensor"):
        feature_maps({"a": None})


def test_tap_hands_out_the_first_output_once() -> None:
    tap = FeatureTap()
    tap(None, None, torch.ones(2, 3, 1, 1))
    tap(None, None, torch.zeros(2, 3, 1, 1))
    assert tap.take(2)[0].sum() == 6
    with pytest.raises(FeatureLayerError, match="not called"):
        tap.take(2)
    tap(None, None, torch.zeros(8, 3, 1, 1))
    with pytest.raises(FeatureLayerError, match="parts of images"):
        pickle.loads(pickle.dumps(tap)).take(2)


def test_statistics_of_maps() -> None:
    maps = torch.rand(3, 1, 5, 7)
    expected = [[m.mean(), m.max(), m.std()] for m in maps]
    torch.testing.assert_close(map_statistics(InferenceBatch(anomaly_map=maps)), torch.tensor(expected))
    torch.testing.assert_close(map_statistics(InferenceBatch(anomaly_map=maps[:, 0])), torch.tensor(expected))
    with pytest.raises(CalibrationDataError, match="no anomaly map"):
        map_statistics(InferenceBatch(pred_score=torch.zeros(3)))


def test_large_feature_maps_shrink_and_keep_their_mean() -> None:
    features = torch.rand(2, 3, 56, 28)
    assert shrink(features).shape == (2, 3, 7, 7)
    torch.testing.assert_close(describe([shrink(features)]), describe([features]))
    assert shrink(torch.rand(1, 3, 1, 5)).shape == (1, 3, 1, 5)
