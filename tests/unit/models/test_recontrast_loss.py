"""Loss, mining and anomaly map of ReContrast against values recorded from the published functions.

Another recording: ``RECONTRAST_FIXTURE=<file.npz> RECONTRAST_SEED=<S>``; the inputs are generated from the seed.
"""

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from anomalib_unias.models.components import score_of_map
from anomalib_unias.models.recontrast.anomaly_map import AnomalyMapGenerator
from anomalib_unias.models.recontrast.loss import ReContrastLoss, cosine_distance, mine, mining_strength

SHARED = Path(os.environ.get("ANOMALIB_UNIAS_SHARED", Path(__file__).parents[4] / "shared"))
FIXTURE = Path(os.environ.get("RECONTRAST_FIXTURE", SHARED / "fixtures" / "recontrast_loss.npz"))
SEED = int(os.environ.get("RECONTRAST_SEED", "1"))

LEVELS = {1: (24, 32), 2: (40, 16), 3: (112, 8)}
PAIRS = (0, 1)
TOLERANCE = 1e-4

needs_recording = pytest.mark.skipif(not FIXTURE.is_file(), reason=f"recorded values not found: {FIXTURE}")


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode("utf-8")) + SEED)


def generated() -> tuple[list[list[torch.Tensor]], list[list[torch.Tensor]]]:
    """Targets and reconstructions of both pairs, shallow to deep."""
    targets, reconstructions = [[], []], [[], []]
    for level, (channels, size) in LEVELS.items():
        rng = generator(f"frozen.{level}")
        frozen = rng.standard_normal((4, channels, size, size)) + 0.5 * rng.standard_normal((1, channels, 1, 1))
        encoder = frozen + 0.3 * generator(f"encoder.{level}").standard_normal(frozen.shape)
        for pair, features in zip(PAIRS, (frozen, encoder), strict=True):
            target = features.astype(np.float32)
            rng = generator(f"head{pair}.{level}")
            strength = rng.standard_normal((4, 1, 4, 4)).repeat(size // 4, axis=2).repeat(size // 4, axis=3)
            noise = rng.standard_normal((4, channels, size, size))
            reconstruction = 1.7 * target.astype(np.float64) + 0.8 * np.exp(0.7 * strength) * noise
            targets[pair].append(torch.from_numpy(target))
            reconstructions[pair].append(torch.from_numpy(reconstruction.astype(np.float32)))
    return targets, reconstructions


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(FIXTURE, allow_pickle=False) as data:
        return dict(data)


@pytest.fixture(scope="module")
def inputs() -> tuple[list[list[torch.Tensor]], list[list[torch.Tensor]]]:
    return generated()


def learn(inputs, strength: float | None) -> tuple[float, list[list[torch.Tensor]]]:
    """Loss and its gradients; the targets ask for one, and must not get it."""
    targets, reconstructions = ([[one.clone().requires_grad_() for one in pair] for pair in pairs] for pairs in inputs)
    loss = ReContrastLoss()(targets, reconstructions, strength)
    loss.backward()
    assert all(one.grad is None for pair in targets for one in pair)
    return loss.item(), [[one.grad for one in pair] for pair in reconstructions]


def assert_recorded(recorded, name: str, tensor: torch.Tensor) -> None:
    assert list(tensor.shape) == recorded[f"{name}.shape"].tolist()
    values, std = tensor.double().flatten().numpy(), float(recorded[f"{name}.std"])
    assert np.abs(values[recorded[f"{name}.idx"]] - recorded[f"{name}.val"]).max() <= TOLERANCE * std
    for statistic in ("mean", "std", "min", "max"):
        assert abs(getattr(values, statistic)() - float(recorded[f"{name}.{statistic}"])) <= TOLERANCE * std


def norms(gradients: list[list[torch.Tensor]]) -> np.ndarray:
    return np.array([[float(one.double().norm()) for one in pair] for pair in gradients])


@needs_recording
def test_generated_set_is_the_recorded_one(recorded, inputs):
    (frozen, encoder), (first, second) = inputs
    sums = [[float(level.double().sum()) for level in levels] for levels in (frozen, encoder, first, second)]
    np.testing.assert_allclose(sums, recorded["insum"], rtol=1e-6, atol=1e-4)


@needs_recording
def test_loss_without_mining(recorded, inputs):
    loss, gradients = learn(inputs, None)
    assert loss == pytest.approx(float(recorded["loss_plain"]), abs=1e-6)
    np.testing.assert_allclose(norms(gradients), recorded["grad_norm_plain"], rtol=1e-4)
    levels = [
        [learn(([[t]], [[r]]), None)[0] for t, r in zip(*pair, strict=True)] for pair in zip(*inputs, strict=True)
    ]
    np.testing.assert_allclose(levels, recorded["loss_level"], rtol=0, atol=1e-6)


@needs_recording
@pytest.mark.parametrize("strength", [-3.0, -0.5, 0.0, 1.0])
def test_mining(recorded, inputs, strength):
    tag = f"a{strength:+.1f}"
    loss, gradients = learn(inputs, strength)
    assert loss == pytest.approx(float(recorded[f"loss_{tag}"]), abs=1e-6)
    np.testing.assert_allclose(norms(gradients), recorded[f"grad_norm_{tag}"], rtol=1e-4)
    kept = [[int((one != 0).any(dim=1).sum()) for one in pair] for pair in gradients]
    np.testing.assert_array_equal(kept, recorded[f"kept_{tag}"])
    for pair in PAIRS:
        for level in LEVELS:
            assert_recorded(recorded, f"grad_{tag}_head{pair}.{level}", gradients[pair][level - 1])


@needs_recording
def test_distances(recorded, inputs):
    targets, reconstructions = inputs
    for pair in PAIRS:
        for level in LEVELS:
            distance = cosine_distance(targets[pair][level - 1], reconstructions[pair][level - 1])
            assert_recorded(recorded, f"dist_head{pair}.{level}", distance)
            mean, std = float(distance.double().mean()), float(distance.double().std())
            assert mean == pytest.approx(float(recorded["dist_mean"][pair, level - 1]), rel=1e-5)
            assert std == pytest.approx(float(recorded["dist_std_unbiased"][pair, level - 1]), rel=1e-5)


@needs_recording
def test_maps_and_scores(recorded, inputs):
    assert_recorded(recorded, "map_sum_raw", AnomalyMapGenerator((128, 128), sigma=0.0)(*inputs).squeeze(1))
    smooth = AnomalyMapGenerator((128, 128))(*inputs)
    assert_recorded(recorded, "map_sum_sigma4", smooth.squeeze(1))
    np.testing.assert_allclose(score_of_map(smooth, "max"), recorded["score_max"], rtol=1e-5)
    np.testing.assert_allclose(score_of_map(smooth, "top"), recorded["score_top1pct"], rtol=1e-5)


@needs_recording
def test_schedule_of_the_mining(recorded):
    strengths = [mining_strength(int(step), 2000) for step in recorded["alpha_it"]]
    np.testing.assert_allclose(strengths, recorded["alpha_val"], rtol=0, atol=1e-12)


def test_mining_leaves_the_values_alone(inputs):
    """Whatever is mined: the loss that is shown goes on."""
    (target, *_), (reconstruction, *_) = inputs[0][0], inputs[1][0]
    assert torch.equal(mine(target, reconstruction, 1.0), reconstruction)
    assert learn(inputs, 1.0)[0] == learn(inputs, None)[0]


@pytest.mark.parametrize("size", [(40, 24), (12, 9)])
def test_the_map_is_smoothed_as_scipy_does(size):
    """Also where the Gaussian reaches beyond the image on both sides."""
    rng = torch.Generator().manual_seed(0)
    target, reconstruction = (torch.randn(1, 5, *size, generator=rng) for _ in range(2))
    smooth = AnomalyMapGenerator(size)([[target]], [[reconstruction]])[0, 0]
    expected = gaussian_filter(cosine_distance(target, reconstruction)[0].double().numpy(), sigma=4)
    np.testing.assert_allclose(smooth, expected, rtol=1e-5)
