import copy
import pickle

import pytest
import torch
from anomalib.data import InferenceBatch
from torch import Tensor

from anomalib_unias import CadaPostProcessor
from anomalib_unias.post_processing.calibration import calibrate
from anomalib_unias.post_processing.calibration_data import (
    CalibrationData,
    CalibrationDataError,
    map_statistics,
    pixel_sample,
)
from anomalib_unias.post_processing.clusters import image_descriptors
from anomalib_unias.post_processing.encoders import FeatureLayerError, FeatureTap, feature_maps
from anomalib_unias.post_processing.fitting import (
    CalibrationOptions,
    empty_calibration,
    fit_calibration,
    specification,
)
from anomalib_unias.post_processing.published import CategoryNeededError
from anomalib_unias.post_processing.regression import FeatureHead, shrink, train_head

LEVELS = torch.tensor([[0.1, 0.5], [1.0, 9.0], [4.0, 6.0]])
"""Mean of the maps of three products, and how far their maximum is above it."""


def options(**changes: object) -> CalibrationOptions:
    return CadaPostProcessor(**({"hidden_dim": 32, "max_steps": 300} | changes)).options()  # type: ignore[arg-type]


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
        descriptors=image_descriptors([maps]),
        statistics=torch.stack([level, level + height, height / 5, level / 2], dim=1),
        scores=level + height,
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
def test_normal_images_of_all_products_get_the_same_scores(changes: dict) -> None:
    calibration = fit_calibration(data(), options(**changes))
    product = torch.tensor([2, 0, 1, 1])
    maps = [feature_map(product, torch.Generator().manual_seed(1))]
    prediction = calibration(maps, ["abc"[k] for k in product])
    level, height = LEVELS[product].unbind(dim=1)
    if changes.get("predictor") == "regressor":
        # The network of the paper sees differences between the scores, not their ratios.
        predicted = torch.stack([prediction.map_offset, prediction.map_scale], dim=1)
        assert ((predicted - LEVELS[product]).abs() < 0.5 * LEVELS.std(dim=0)).all()
    else:
        peaks = torch.stack([level + height, level], dim=1)[:, :, None]
        scores = calibrate(InferenceBatch(anomaly_map=peaks), prediction, "max").pred_score
        assert (scores / scores.mean() - 1).abs().max() < 0.15
    assert not any(parameter.requires_grad for parameter in calibration.parameters())


def test_standard_deviation_can_take_the_place_of_the_maximum() -> None:
    product = torch.arange(3)
    maps = [feature_map(product, torch.Generator().manual_seed(1))]
    height = fit_calibration(data(), options(predictor="regressor", convolutions=0, statistics="std"))(maps).map_scale
    torch.testing.assert_close(height, 3 * LEVELS[:, 1] / 5, rtol=0.3, atol=0.5)


ALL_VARIANTS = [{"variant": "cada_a"}, {"variant": "cada_b"}, {}, {"predictor": "regressor"}]


@pytest.mark.parametrize("changes", ALL_VARIANTS)
@pytest.mark.parametrize("zero", ["one product", "all products"])
def test_maps_that_are_zero_on_normal_images_do_not_blow_scores_up(changes: dict, zero: str, caplog) -> None:
    known = data()
    known.statistics[: 20 if zero == "one product" else 60] = 0.0
    known.scores = known.statistics[:, 1]
    calibration = fit_calibration(known, options(**changes, max_steps=60))
    prediction = calibration([feature_map(torch.tensor([0]), torch.Generator().manual_seed(1))], ["a"])
    anomaly_map = torch.zeros(1, 1, 8, 8)
    normal = calibrate(InferenceBatch(anomaly_map=anomaly_map), prediction, "max")
    anomaly_map[..., 2:4, 2:4] = 0.3
    defective = calibrate(InferenceBatch(anomaly_map=anomaly_map), prediction, "max")
    assert normal.pred_score.abs() < 1
    assert 0.1 < (defective.pred_score - normal.pred_score) < 0.3 / 1e-3
    assert ("all normal images are constant" in caplog.text) == (zero == "all products" and changes != {})


@pytest.mark.parametrize("predictor", ["clusters", "regressor"])
def test_strange_images_are_flagged(predictor: str) -> None:
    known = data()
    calibration = fit_calibration(known, options(predictor=predictor))
    strange = [50 * torch.randn(5, 8, 4, 4, generator=torch.Generator().manual_seed(3))]
    assert calibration(strange).unfamiliar.all()


def test_predictions_of_the_network_stay_in_the_range_of_training() -> None:
    known = data()
    strange = [50 * torch.randn(5, 8, 4, 4, generator=torch.Generator().manual_seed(3))]
    level, height, *_ = fit_calibration(known, options(predictor="regressor"))(strange)
    mean, maximum, *_ = known.statistics.unbind(dim=1)
    for values, seen in ((level, mean), (height, maximum - mean)):
        assert (values >= seen.min()).all()
        assert (values <= seen.max()).all()


def test_the_network_of_the_paper_learns_what_a_plain_implementation_learns() -> None:
    known, torch_seed = data(images=40), 0
    chosen = options(predictor="regressor", dropout=0.0, max_steps=400)
    fitted = fit_calibration(known, chosen)
    maps = known.maps.float()
    maps = (maps - maps.mean()) / maps.std(correction=0)
    mean, maximum, *_ = known.statistics.unbind(dim=1)
    targets = torch.stack([mean, maximum - mean], dim=1)
    normalised = (targets - targets.mean(dim=0)) / targets.std(dim=0, correction=0)

    with torch.random.fork_rng():
        torch.manual_seed(torch_seed)
        convolution = torch.nn.Conv2d(8, 8, 3, padding=1)
        first, second = torch.nn.Linear(8, 32), torch.nn.Linear(32, 2)

        def network(images: Tensor) -> Tensor:
            pooled = torch.relu(convolution(images)).mean(dim=(2, 3))
            return second(torch.relu(first(pooled)))

        parameters = [p for layer in (convolution, first, second) for p in layer.parameters()]
        velocity, order = [torch.zeros_like(p) for p in parameters], torch.empty(0, dtype=torch.long)
        for _ in range(400):
            order = torch.randperm(len(maps)) if len(order) == 0 else order
            batch, order = order[:16], order[16:]
            difference = (network(maps[batch]) - normalised[batch]).abs()
            loss = torch.where(difference < 1, difference**2 / 2, difference - 0.5).sum(dim=1).mean()
            gradients = torch.autograd.grad(loss, parameters)
            norm = torch.stack([g.norm() for g in gradients]).norm()
            with torch.no_grad():
                for p, g, v in zip(parameters, gradients, velocity, strict=True):
                    v.mul_(0.9).add_(g * min(1.0, 1.0 / (norm + 1e-6)) + 1e-4 * p)
                    p.sub_(5e-2 * v)

    prediction = fitted([known.maps.float()])
    expected = network(maps).detach() * targets.std(dim=0, correction=0) + targets.mean(dim=0)
    expected = expected.clamp(min=targets.amin(dim=0), max=targets.amax(dim=0))
    torch.testing.assert_close(prediction.map_offset, expected[:, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(prediction.map_scale, expected[:, 1], rtol=1e-3, atol=1e-3)


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
    scores = torch.rand(3, 4, 4)
    for predictor in ("clusters", "regressor"):
        one, other = (
            calibrate(
                InferenceBatch(anomaly_map=scores * factor),
                fit_calibration(known, options(predictor=predictor, max_steps=40))(maps),
                "max",
            ).pred_score
            for known, factor in ((small, 1.0), (large, 1000.0))
        )
        torch.testing.assert_close(one * (1000 if predictor == "clusters" else 1), other, rtol=1e-3, atol=1e-4)


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
    expected = [[m.mean(), m.max(), m.std(), m.min()] for m in maps]
    torch.testing.assert_close(map_statistics(InferenceBatch(anomaly_map=maps)), torch.tensor(expected))
    torch.testing.assert_close(map_statistics(InferenceBatch(anomaly_map=maps[:, 0])), torch.tensor(expected))
    with pytest.raises(CalibrationDataError, match="no anomaly map"):
        map_statistics(InferenceBatch(pred_score=torch.zeros(3)))


def test_some_pixels_stand_for_a_map() -> None:
    maps = torch.rand(3, 1, 60, 50, generator=torch.Generator().manual_seed(0)) ** 4
    pixels = pixel_sample(InferenceBatch(anomaly_map=maps))
    assert pixels.shape == (3, 1001)
    torch.testing.assert_close(pixels[:, 0], maps.amax(dim=(1, 2, 3)))
    torch.testing.assert_close(pixels[:, -1], maps.amin(dim=(1, 2, 3)))
    for level in (0.01, 0.1, 0.9):
        shares = [(scores > level).float().mean(dim=1) for scores in (pixels, maps.flatten(1))]
        torch.testing.assert_close(*shares, atol=1.5e-3, rtol=0)
    small = torch.arange(6.0).view(1, 2, 3)
    assert pixel_sample(InferenceBatch(anomaly_map=small)).tolist() == [[5, 4, 3, 2, 1, 0]]


@pytest.mark.parametrize("changes", [{"variant": "cada_b"}, {"predictor": "regressor"}])
def test_the_networks_see_new_images_at_the_grid_that_they_were_trained_at(changes: dict) -> None:
    fitted, fine = fit_calibration(data(), options(**changes)), torch.randn(6, 8, 28, 14)
    for found, expected in zip(fitted([fine])[:4], fitted([shrink(fine)])[:4], strict=True):
        torch.testing.assert_close(found, expected)


def test_large_feature_maps_shrink_and_keep_their_mean() -> None:
    features = torch.rand(2, 3, 56, 28)
    assert shrink(features).shape == (2, 3, 7, 7)
    torch.testing.assert_close(image_descriptors([shrink(features)]), image_descriptors([features]))
    assert shrink(torch.rand(1, 3, 1, 5)).shape == (1, 3, 1, 5)
