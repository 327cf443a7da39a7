"""AUPIMO against anomalib's, on enough good pixels to have a false positive rate of 1e-5."""

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPIMO

from anomalib_unias.metrics import PixelMetrics
from anomalib_unias.metrics.aupimo import SharedFprRange
from anomalib_unias.metrics.image_pixels import ImagePixels
from anomalib_unias.metrics.scored_image import ScoredImage


@pytest.fixture(scope="module")
def maps() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.gamma(2, 1, (14, 128, 128)).astype(np.float32)


@pytest.fixture(scope="module")
def masks(maps: np.ndarray) -> np.ndarray:
    """Four defective images; changes the maps: their defects stand out by varying degrees."""
    masks = np.zeros(maps.shape, dtype=bool)
    for index in range(4):
        masks[index, 10 : 20 + 9 * index, 20:60] = True
        maps[index][masks[index]] += 8 + 2 * index
    return masks


@pytest.fixture(scope="module")
def expected(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """AUPIMO of the defective images by anomalib."""
    metric = AUPIMO(return_average=False)
    batch = ImageBatch(
        image=torch.zeros(len(maps), 3, 1, 1), anomaly_map=torch.from_numpy(maps), gt_mask=torch.from_numpy(masks)
    )
    metric.update(batch)
    return metric.compute()[1].aupimos.numpy()[:4]


def computed(maps: np.ndarray, masks: np.ndarray, **arguments: object) -> PixelMetrics:
    metric = PixelMetrics(**arguments)
    metric.update(torch.from_numpy(maps), torch.from_numpy(masks))
    return metric


def pixels(anomaly_map: np.ndarray, mask: np.ndarray, exact: bool) -> ImagePixels:
    tensors = torch.from_numpy(anomaly_map), torch.from_numpy(mask)
    return ImagePixels.of(ScoredImage("a", "", 1, 0.0, 0.0, 0.0, *tensors, None), exact)


def test_agrees_with_anomalib(maps: np.ndarray, masks: np.ndarray, expected: np.ndarray) -> None:
    assert expected.min() < 0.5 < expected.max()
    table = computed(maps, masks, exact=True).table()
    assert table.aupimo == pytest.approx(expected.mean(), abs=1e-6)
    exact = [pixels(maps[index], masks[index], exact=True).aupimo(table.shared_fpr) for index in range(4)]
    assert exact == pytest.approx(expected, abs=1e-6)
    sketched = [pixels(maps[index], masks[index], exact=False).aupimo(table.shared_fpr) for index in range(4)]
    assert sketched == pytest.approx(expected, abs=5e-3)


def test_bounded_memory_hardly_changes_it(maps: np.ndarray, masks: np.ndarray, expected: np.ndarray) -> None:
    assert computed(maps, masks, max_rows=2**14).table().aupimo == pytest.approx(expected.mean(), abs=1e-3)


def test_undefined(maps: np.ndarray, masks: np.ndarray) -> None:
    few = computed(maps[2:7], masks[2:7])  # 49,152 good pixels
    no_defects, no_good = computed(maps[4:], masks[4:]), computed(maps[:4], masks[:4])
    constant = computed(np.ones_like(maps), masks)
    assert np.isnan([float(metric.compute()["aupimo"]) for metric in (few, no_defects, no_good, constant)]).all()
    infinite = np.where(maps == maps[5].max(), np.inf, maps)
    assert np.isnan(float(computed(infinite, masks).compute()["aupimo"]))


@pytest.mark.parametrize(("offset", "scale"), [(0, 1), (1, 1e-3)])
def test_what_is_always_found_has_the_highest_value(offset: float, scale: float) -> None:
    """Between 1 and 1.001 there are fewer float32 numbers than thresholds; anomalib 2.7.0 fails there."""
    exceeded = np.geomspace(1, 1e-6, 100_000)
    scores, first = np.unique((offset - scale * np.log(exceeded)).astype(np.float32), return_index=True)
    shared = SharedFprRange.of(scores, exceeded[first])
    assert shared is not None
    assert (np.diff(shared.thresholds) > 0).all()
    assert shared.mean_over(np.ones(len(shared.thresholds))) == pytest.approx(1, abs=0.01)
