"""Scaling of the features, and their split into a smooth part and its residual."""

import pytest
import torch

from anomalib_unias.models.unias.components import FeatureFilter, FeatureScaler


def features(*sizes: float) -> torch.Tensor:
    """Channels of these root mean squares."""
    noise = torch.randn(4, len(sizes), 32, 32, generator=torch.Generator().manual_seed(0))
    noise /= noise.square().mean(dim=(0, 2, 3), keepdim=True).sqrt()
    return noise * torch.tensor(sizes)[None, :, None, None]


def mean_squares(feature: torch.Tensor) -> torch.Tensor:
    return feature.square().mean(dim=(0, 2, 3))


@pytest.mark.parametrize(("equality", "ratio"), [(0.0, 16.0), (0.5, 4.0), (1.0, 1.0)])
def test_levels_have_unit_mean_square(equality, ratio):
    """Channels keep their proportions, half of them, or none; levels of any size become alike."""
    levels = [features(1.0, 4.0), features(100.0, 400.0, 100.0)]
    scaler = FeatureScaler([2, 3], equality)
    scaler.fit([mean_squares(level) for level in levels])
    for level in scaler(levels):
        found = mean_squares(level)
        assert found.mean().item() == pytest.approx(1, rel=1e-4)
        assert (found[1] / found[0]).item() == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize("dead", [0.0, 1e-6])
def test_a_dead_channel_is_not_blown_up(dead):
    scaler = FeatureScaler([3])
    scaler.fit([mean_squares(features(1.0, 1.0, dead))])
    living, _, bounded = scaler.scale_0
    assert bounded <= 1.3e2 * living
    assert scaler([features(1.0, 1.0, 1e-3)])[0][:, 2].square().mean() < 0.1


def test_without_training_nothing_is_scaled():
    level = features(2.0, 3.0)
    scaler = FeatureScaler([2])
    assert torch.equal(scaler([level])[0], level)
    assert not scaler.fitted
    scaler.fit([mean_squares(level)])
    assert scaler.fitted


def test_decoder_sees_the_smooth_part_and_its_residual():
    level = features(1.0, 2.0)
    (seen,), (target,) = FeatureFilter([2])([level])
    torch.testing.assert_close(seen[:, :2], target)
    torch.testing.assert_close(seen[:, :2] + seen[:, 2:], level)
    assert (mean_squares(target) < 0.7 * mean_squares(level)).all()
    (flat,), _ = FeatureFilter([1])([torch.full((1, 1, 8, 8), 3.0)])
    torch.testing.assert_close(flat[0, :, 4, 4], torch.tensor([3.0, 0.0]))
