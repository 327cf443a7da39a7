"""The default calibration: kinds of images, and a level of normal scores for each."""

import pytest
import torch
from anomalib.data import InferenceBatch
from sklearn.metrics import average_precision_score
from torch import Tensor

from anomalib_unias import CadaPostProcessor
from anomalib_unias.post_processing.calibration import calibrate
from anomalib_unias.post_processing.calibration_data import CalibrationData
from anomalib_unias.post_processing.clusters import ImageClusters
from anomalib_unias.post_processing.fitting import (
    calibrated_by_others,
    empty_calibration,
    fit_calibration,
    specification,
    without_own_influence,
)
from anomalib_unias.post_processing.levels import ClusterStatistics, LevelCalibration
from anomalib_unias.post_processing.selection import Examples, choose_map_power, pixel_ap

OPTIONS = CadaPostProcessor().options()


def products(count: int, images: int, seed: int = 0, noise: float = 0.15) -> tuple[Tensor, Tensor, Tensor]:
    """Descriptors, product and log score of images; products differ in both, images of one a little."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randn(count, 40, generator=torch.Generator().manual_seed(7))
    level = torch.randn(count, generator=torch.Generator().manual_seed(8))
    product = torch.arange(count).repeat_interleave(images)
    descriptors = places[product] + 0.1 * torch.randn(len(product), 40, generator=generator)
    return descriptors, product, level[product] + noise * torch.randn(len(product), generator=generator)


def known(descriptors: Tensor, scores: Tensor, unseen: Tensor) -> CalibrationData:
    statistics = torch.stack([scores / 2, scores, scores / 5, scores / 9], dim=1)
    return CalibrationData(descriptors, statistics, scores, None, unseen)


def every(nth: int, product: Tensor) -> Tensor:
    """One in ``nth`` images of each product."""
    first = torch.searchsorted(product, product)
    return (torch.arange(len(product)) - first) % nth == 0


def calibrated(calibration: LevelCalibration, descriptors: Tensor, scores: Tensor) -> Tensor:
    maps = scores[:, None, None, None].expand(-1, 1, 2, 2)
    prediction = calibration([descriptors[:, :, None, None]])
    return calibrate(InferenceBatch(pred_score=scores, anomaly_map=maps), prediction, "model").pred_score


@pytest.mark.parametrize("images", [3, 5, 8, 40])
@pytest.mark.parametrize("count", [5, 40, 200])
def test_levels_are_nearly_those_of_a_table_with_labels(count: int, images: int) -> None:
    descriptors, product, logs = products(count, images)
    unseen = every(10, product)
    calibration = fit_calibration(known(descriptors, logs.exp(), unseen), OPTIONS)
    new, labels, _ = products(count, 1, seed=1)
    truth = torch.randn(count, generator=torch.Generator().manual_seed(8))
    table = torch.stack([logs[unseen & (product == k)].mean() for k in range(count)])

    predicted = calibration([new[:, :, None, None]]).score_scale.log()
    error, of_table = ((x - x.mean() - truth + truth.mean()).abs().mean() for x in (predicted, table))
    assert error <= 2 * of_table
    assert torch.equal(labels, torch.arange(count))


def test_very_unequal_numbers_of_images() -> None:
    descriptors, product, logs = products(6, 300)
    sizes = torch.tensor([300, 100, 30, 10, 5, 3])
    kept = (torch.arange(len(product)) - torch.searchsorted(product, product)) < sizes[product]
    descriptors, product, logs = descriptors[kept], product[kept], logs[kept]
    calibration = fit_calibration(known(descriptors, logs.exp(), every(10, product)), OPTIONS)
    assert len(calibration.clusters) == 6
    truth = torch.randn(6, generator=torch.Generator().manual_seed(8))
    predicted = calibration([products(6, 1, seed=1)[0][:, :, None, None]]).score_scale.log()
    assert ((predicted - predicted.mean()) - (truth - truth.mean())).abs().max() < 0.4


def test_one_kind_of_images_is_left_alone() -> None:
    descriptors, _, logs = products(1, 60)
    calibration = fit_calibration(known(descriptors, logs.exp(), torch.arange(60) % 10 == 0), OPTIONS)
    scores = torch.rand(5) + 0.1
    torch.testing.assert_close(calibrated(calibration, descriptors[:5], scores), scores)


def test_images_that_are_all_alike_give_finite_scores() -> None:
    alike = torch.ones(12, 4)
    calibration = fit_calibration(known(alike, torch.ones(12), torch.arange(12) < 3), OPTIONS)
    assert torch.isfinite(calibrated(calibration, alike, torch.ones(12))).all()


def test_a_channel_that_never_changes_has_no_say() -> None:
    descriptors, product, _ = products(3, 20)
    constant = torch.cat([descriptors, torch.full((60, 1), 7.0)], dim=1)
    unseen = every(10, product)
    one, other = ImageClusters.fit(descriptors, unseen), ImageClusters.fit(constant, unseen)
    assert torch.equal(one.assign(descriptors).cluster, other.assign(constant).cluster)


def test_only_unseen_images_tell_the_level() -> None:
    descriptors, product, logs = products(3, 40)
    unseen = every(4, product)
    biased = torch.where(unseen, logs, logs - 3.0 * product)  # a memory that knows some products by heart
    fair, other = (fit_calibration(known(descriptors, x.exp(), unseen), OPTIONS) for x in (logs, biased))
    torch.testing.assert_close(fair.score_levels, other.score_levels, rtol=0, atol=0.05)


def test_levels_that_few_images_tell_count_less() -> None:
    values = torch.tensor([0.0, 0.2, -0.2, 0.1, -0.1, 1.0])
    clusters = torch.tensor([0, 0, 0, 0, 0, 1])
    means = ClusterStatistics.fit(values, clusters, 3, torch.ones(6, dtype=torch.bool))
    within = 0.1 / 4
    between = 0.5 - within * (1 / 5 + 1) / 2
    expected = [-0.5 * 5 * between / (5 * between + within), 0.5 * between / (between + within), 0.0]
    torch.testing.assert_close(means.levels(), torch.tensor(expected))


def test_one_image_of_each_kind_does_not_tell_the_level_of_a_model_that_knows_the_others_by_heart() -> None:
    # The values of the training images are equal; the one other image of a kind is above them by anything.
    values = torch.tensor([1.0, 1.01, 1.5, 1.0, 1.01, 1.0, 1.0, 1.01, 1.2])
    clusters, unseen = torch.arange(3).repeat_interleave(3), torch.arange(9) % 3 == 2
    means = ClusterStatistics.fit(values, clusters, 3, unseen)
    assert means.levels().abs().max() < 0.4 * (values[unseen] - values[unseen].mean()).abs().max()

    # Where they tell the level of the training images as well, it counts.
    kinds = torch.tensor([0.0, 3.0, -2.0])
    levels = ClusterStatistics.fit(values + kinds[clusters], clusters, 3, unseen).levels()
    expected = values[unseen] + kinds
    torch.testing.assert_close(levels, expected - expected.mean(), atol=0.05, rtol=0.05)


def test_a_kind_without_unseen_images_has_the_level_of_the_nearest_one() -> None:
    descriptors, product, logs = products(3, 40)
    descriptors[product == 2] = descriptors[product == 0] + 0.5  # another kind, next to product 0
    calibration = fit_calibration(known(descriptors, logs.exp(), every(4, product) & (product < 2)), OPTIONS)
    assert len(calibration.clusters) == 3
    cluster = calibration.clusters.assign(descriptors).cluster
    levels = [calibration.score_levels[cluster[product == k][0]] for k in range(3)]
    assert levels[2] == levels[0] != levels[1]


def test_products_that_do_not_differ_are_not_calibrated() -> None:
    descriptors, product, _ = products(4, 50)
    noise = torch.randn(len(product), generator=torch.Generator().manual_seed(2))
    noise -= torch.stack([noise[product == k].mean() for k in range(4)])[product]
    calibration = fit_calibration(known(descriptors, noise.exp(), torch.ones(200, dtype=torch.bool)), OPTIONS)
    assert calibration.score_levels.abs().max() == 0


def test_scores_of_all_kinds_get_the_same_spread() -> None:
    descriptors, product, logs = products(3, 200)
    levels = torch.stack([logs[product == k].mean() for k in range(3)])[product]
    logs = levels + (logs - levels) * torch.tensor([0.3, 1.0, 2.0])[product]
    everything = torch.ones(len(product), dtype=torch.bool)
    calibration = fit_calibration(known(descriptors, logs.exp(), everything), OPTIONS)
    scores = calibrated(calibration, descriptors, logs.exp())
    found = torch.stack([scores[product == k].std() for k in range(3)])
    expected = torch.stack([logs[product == k].std() for k in range(3)])
    assert expected.max() > 5 * expected.min()
    torch.testing.assert_close(found, found.mean().expand(3), rtol=0.1, atol=0)
    for k in range(3):
        assert torch.equal(scores[product == k].argsort(), logs[product == k].argsort())
    means = torch.stack([scores[product == k].mean() for k in range(3)])
    torch.testing.assert_close(means, logs.mean().exp().expand(3), rtol=0.1, atol=0)

    calibration.score_power.fill_(0.0)
    torch.testing.assert_close(calibrated(calibration, descriptors, logs.exp()), logs.exp())


def test_calibrations_of_a_version_without_spreads_still_load() -> None:
    descriptors, _, logs = products(3, 80)
    calibration = fit_calibration(known(descriptors, logs.exp(), torch.ones(240, dtype=torch.bool)), OPTIONS)
    saved = {name: value for name, value in calibration.state_dict().items() if "spreads" not in name}
    del saved["score_center"]
    restored = empty_calibration(specification(calibration))
    restored.load_state_dict(saved)
    scores = calibrated(restored, descriptors, logs.exp())
    levels = calibration.score_levels[calibration.clusters.assign(descriptors).cluster]
    torch.testing.assert_close(scores, (logs - levels).exp())
    assert not torch.allclose(scores, calibrated(calibration, descriptors, logs.exp()), rtol=1e-3)


def test_few_images_do_not_tell_a_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    clusters = torch.tensor([0] * 60 + [1] * 60 + [2] * 49 + [3] * 50)
    values = torch.randn(len(clusters), generator=generator) * torch.tensor([1.0, 2.0, 3.0, 0.0])[clusters]
    statistics = ClusterStatistics.fit(values, clusters, 5, torch.ones(len(clusters), dtype=torch.bool))
    variances = torch.stack([values[clusters == k].var() for k in range(4)])
    common = (variances * torch.tensor([59, 59, 48, 49])).sum() / 215
    expected = torch.tensor([*(variances[:2] / common).sqrt(), 1.0, 0.25, 1.0])
    torch.testing.assert_close(statistics.spreads(), expected)
    without = statistics.without_each(values, clusters)[1]
    torch.testing.assert_close(without[0], (values[1:60].var() / common).sqrt())
    assert (without[120:] == 1).all()


def test_thresholds_know_each_image_only_from_the_others() -> None:
    descriptors, _, logs = products(3, 80)
    unseen = torch.arange(240) % 80 >= 20
    data = known(descriptors, logs.exp(), unseen)
    calibration = fit_calibration(data, OPTIONS)
    index = 25
    cluster = calibration.clusters.assign(descriptors).cluster
    of_all = ClusterStatistics.fit(logs, cluster, 3, unseen)
    rest = unseen & (cluster == cluster[index])
    rest[index] = False
    weight = rest.sum() * of_all.between / (rest.sum() * of_all.between + of_all.within)
    level = weight * (logs[rest].double().mean() - of_all.common)
    spread = (logs[rest].double().var() / (of_all.squares.sum() / 177)).sqrt()
    expected = calibration.of_scores(level.float(), spread.float())
    found = [part[5] for part in without_own_influence(calibration, data)]
    torch.testing.assert_close(torch.stack(found), torch.stack(expected))
    own = calibration([descriptors[index, None, :, None, None]])
    assert not torch.allclose(own.score_scale, found[1], rtol=1e-3)


def test_an_image_alone_of_its_kind_counts_two_standard_deviations() -> None:
    values, clusters = torch.tensor([0.0, 1.0, 5.0]), torch.tensor([0, 0, 1])
    means = ClusterStatistics.fit(values, clusters, 2, torch.ones(3, dtype=torch.bool))
    levels, _ = means.without_each(values, clusters)
    torch.testing.assert_close(means.levels()[1] - levels[2], torch.tensor(2 * 0.5**0.5))


def test_scores_that_may_be_negative_are_shifted() -> None:
    descriptors, product, logs = products(3, 40)
    calibration = fit_calibration(known(descriptors, logs, every(4, product)), OPTIONS)
    assert not calibration.score_logarithm
    scores = calibrated(calibration, descriptors, logs)
    apart = torch.stack([scores[product == k].mean() for k in range(3)])
    assert apart.max() - apart.min() < 0.25 * (logs.max() - logs.min())


def examples(offset: float = 0.0, factor: float = 1.0, count: int = 60, ratio: float = 4.0) -> tuple[Examples, Tensor]:
    """Normal and defective images of two kinds with levels 1 and ``ratio``."""
    generator = torch.Generator().manual_seed(0)
    clusters = torch.arange(count) % 2
    level = torch.tensor([1.0, ratio])[clusters]
    maps = (0.5 + torch.rand(count, 6, 6, generator=generator)) * level[:, None, None]
    masks = torch.zeros(count, 6, 6, dtype=torch.bool)
    masks[: 2 * count // 3, 2:4, 2:4] = True
    maps[masks] = factor * maps[masks] + offset
    return Examples(maps, masks, clusters), torch.tensor([1.0, ratio]).log()


def test_maps_are_calibrated_as_far_as_that_helps_on_synthetic_defects() -> None:
    found, levels = examples(factor=2.0)
    assert choose_map_power(found, levels, logarithm=True) >= 0.75
    found, levels = examples(offset=7.0)
    assert choose_map_power(found, levels, logarithm=True) == 0.0


def test_a_gain_that_may_be_chance_does_not_calibrate_maps(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        few, many = (
            choose_map_power(*examples(factor=1.3, count=count, ratio=1.05), logarithm=True) for count in (30, 600)
        )
    assert few == 0.0
    assert many > 0.0
    # With few images the gain is as large, but less certain.
    gains = [float(record.args[2]) - float(record.args[3]) for record in caplog.records]
    assert gains[0] > gains[1] > 0


def test_pixel_ap_of_images_that_count_several_times() -> None:
    found, _ = examples(factor=2.0)
    weights = torch.randint(3, (2, 60), generator=torch.Generator().manual_seed(0)).float()
    for row, value in zip(weights, pixel_ap(found.maps, found.masks, weights), strict=True):
        times = row.long()[:, None, None].expand_as(found.maps).flatten()
        truth, scores = (part.flatten().repeat_interleave(times) for part in (found.masks, found.maps))
        assert float(value) == pytest.approx(average_precision_score(truth.numpy(), scores.numpy()), abs=1e-5)


def test_without_defects_there_is_nothing_to_choose_by() -> None:
    found, levels = examples(factor=2.0)
    normal = Examples(found.maps, torch.zeros_like(found.masks), found.clusters)
    assert choose_map_power(normal, levels, logarithm=True) == 0.0


def test_images_of_a_product_that_was_left_out_are_unfamiliar() -> None:
    descriptors, product, logs = products(5, 40)
    learned = product > 0
    unseen = every(10, product)[learned]
    calibration = fit_calibration(known(descriptors[learned], logs[learned].exp(), unseen), OPTIONS)
    new, labels, _ = products(5, 40, seed=3)
    flagged = calibration([new[:, :, None, None]]).unfamiliar
    assert flagged[labels == 0].all()
    assert flagged[labels > 0].float().mean() <= 0.02


def test_thresholds_come_from_each_unseen_image_as_the_others_calibrate_it() -> None:
    descriptors, _, logs = products(3, 80)
    unseen = torch.arange(240) % 80 >= 20
    data = known(descriptors, logs.exp(), unseen)
    data.pixels = logs.exp()[:, None] * torch.linspace(1, 0.1, 7)
    calibration = fit_calibration(data, OPTIONS)
    output, prediction = calibrated_by_others(calibration, data)
    torch.testing.assert_close(output.pred_score, data.scores[unseen])
    torch.testing.assert_close(output.anomaly_map[:, 0, 0], data.pixels[unseen])
    own = calibration([descriptors[unseen][:, :, None, None]])
    torch.testing.assert_close((prediction.map_offset, prediction.map_scale), (own.map_offset, own.map_scale))
    torch.testing.assert_close(
        (prediction.score_offset, prediction.score_scale), without_own_influence(calibration, data)
    )
    assert not torch.allclose(prediction.score_scale, own.score_scale, rtol=1e-3)


def test_a_model_without_image_scores_has_those_of_its_maps() -> None:
    descriptors, _, logs = products(3, 40)
    calibration = fit_calibration(known(descriptors, logs.exp(), torch.ones(120, dtype=torch.bool)), OPTIONS)
    calibration.map_power.zero_()
    maps = logs.exp()[:, None, None, None] * torch.linspace(0.1, 1, 4).view(1, 1, 2, 2)
    prediction = calibration([descriptors[:, :, None, None]])
    given, missing = (
        calibrate(InferenceBatch(pred_score=score, anomaly_map=maps), prediction, "model").pred_score
        for score in (logs.exp(), None)
    )
    torch.testing.assert_close(missing, given)
