import copy
import pickle
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPR, AUPRO
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from anomalib_unias.metrics import PIXEL_METRICS, PixelMetrics, PixelTable, pixel_metrics


def dice_per_image(maps: np.ndarray, masks: np.ndarray, threshold: float) -> float:
    """Mean over the images, written down as the paper says it."""
    values = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        predicted = anomaly_map >= threshold
        if mask.any():
            values.append(2 * (predicted & mask).sum() / (predicted.sum() + mask.sum()))
        else:
            values.append(float(not predicted.any()))
    return float(np.mean(values))


def exact_aupro(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """One threshold at a time; independent of the code under test."""
    regions = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [anomaly_map[labels == number] for number in range(1, count + 1)]
    normal = maps[~masks]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        overlap = np.mean([(region >= threshold).mean() for region in regions])
        points.append(((normal >= threshold).mean(), overlap))
    area = 0.0
    for (left, low), (right, high) in pairwise(points):
        if left >= limit or right == left:
            continue
        end = min(right, limit)
        at_end = low + (high - low) * (end - left) / (right - left)
        area += (end - left) * (low + at_end) / 2
    return area / limit


def expected_metrics(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    labels, scores = masks.ravel(), maps.ravel()
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    total = (precision + recall)[:-1]
    best_f1 = thresholds[np.flatnonzero(f1[:-1] > f1.max() - 1e-9)[0]]
    best_total = thresholds[np.flatnonzero(total > total.max() - 1e-9)[0]]
    predicted = maps >= best_f1
    return {
        "pixel_auroc": roc_auc_score(labels, scores),
        "pixel_ap": average_precision_score(labels, scores),
        "pixel_f1max": f1.max(),
        "aupro": exact_aupro(maps, masks, 0.3),
        "aupimo": float("nan"),  # it needs 100,000 good pixels, see test_aupimo.py
        "dsc": dice_per_image(maps, masks, best_total),
        "dsc_best_f1": dice_per_image(maps, masks, best_f1),
        "iou": (predicted & masks).sum() / (predicted | masks).sum(),
    }


def computed(maps: np.ndarray, masks: np.ndarray, batch_size: int = 3, **arguments: object) -> dict[str, float]:
    metric = PixelMetrics(**arguments)
    for start in range(0, len(maps), batch_size):
        batch = slice(start, start + batch_size)
        metric.update(torch.from_numpy(maps[batch]), torch.from_numpy(masks[batch]))
    return {name: float(value) for name, value in metric.compute().items()}


@st.composite
def segmentations(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A few tiny maps with ties, constant ones included, and at least one pixel of either kind."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(2, 6)))
    levels = draw(st.sampled_from([1, 2, 3, 10, 1000]))
    scale = draw(st.sampled_from([-1.0, 1e-30, 1.0, 1e30]))
    maps = (scale * rng.integers(0, levels, shape)).astype(np.float32)
    masks = rng.random(shape) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    masks[rng.random(len(masks)) < 0.3] = False
    masks.flat[:2] = True, False
    return maps, masks


@settings(deadline=None, max_examples=60)
@given(segmentations(), st.integers(1, 4), st.booleans())
def test_agrees_with_sklearn_and_definitions(
    segmentation: tuple[np.ndarray, np.ndarray], batch_size: int, exact: bool
) -> None:
    maps, masks = segmentation
    expected = expected_metrics(maps, masks)
    assert computed(maps, masks, batch_size, exact=exact) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def noise(rng: np.random.Generator, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth noise with blobs that stand out from it by varying degrees."""
    masks = ndimage.gaussian_filter(rng.standard_normal((count, size, size)), (0, 3, 3)) > 0.2
    masks[::2] = False
    signal = rng.random((count, 1, 1)) * 4 * masks
    return rng.standard_normal((count, size, size)) + signal, masks


def awkward_maps() -> Iterator[object]:
    z, masks = noise(np.random.default_rng(0), 12, 96)
    distributions = {
        "normal": z,
        "sigmoid": 1 / (1 + np.exp(-z)),
        "far from zero": 1000 + 0.01 * z,
        "many octaves": np.exp(12 * z),
        "many zeros": np.maximum(z, 0) ** 4,
        "outlier": np.where(np.arange(96) == 0, 1e30, z),
        "growing": z * 10.0 ** np.arange(-6, 6)[:, None, None],
        "infinite": np.where(z > 3, np.inf, z),
        "8 bit": np.round(32 * z),
    }
    for name, maps in distributions.items():
        yield pytest.param(maps.astype(np.float32), masks, id=name)


@pytest.mark.parametrize(("maps", "masks"), awkward_maps())
def test_bounded_and_exact_mode_on_awkward_maps(maps: np.ndarray, masks: np.ndarray) -> None:
    exact = computed(maps, masks, exact=True)
    bounded = computed(maps, masks, max_rows=2**14)  # an eighth of the default, for a tenth of a megapixel
    assert bounded == pytest.approx(exact, abs=1e-3, nan_ok=True)
    finite = np.nan_to_num(maps, posinf=1e38)
    assert exact["pixel_ap"] == pytest.approx(average_precision_score(masks.ravel(), finite.ravel()), abs=1e-6)
    assert exact["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), finite.ravel()), abs=1e-6)


def test_agrees_with_anomalib() -> None:
    maps, masks = noise(np.random.default_rng(1), 6, 64)
    maps = (1 / (1 + np.exp(-maps))).astype(np.float32)
    ours = computed(maps, masks)
    batch = ImageBatch(
        image=torch.zeros(6, 3, 64, 64), anomaly_map=torch.from_numpy(maps), gt_mask=torch.from_numpy(masks)
    )
    for stock, name in ((AUPRO, "aupro"), (AUPR, "pixel_ap")):
        metric = stock(fields=["anomaly_map", "gt_mask"])
        metric.update(batch)
        assert float(metric.compute()) == pytest.approx(ours[name], abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_order_and_batches_do_not_matter(batch_size: int) -> None:
    maps, masks = noise(np.random.default_rng(2), 12, 48)
    maps = maps.astype(np.float32)
    order = np.random.default_rng(batch_size).permutation(12)
    reference = computed(maps, masks, max_rows=600)
    assert computed(maps[order], masks[order], batch_size, max_rows=600) == pytest.approx(
        reference, abs=1e-12, nan_ok=True
    )


def test_tables_of_parts_add_up_to_the_table_of_all() -> None:
    maps, masks = noise(np.random.default_rng(3), 12, 48)
    maps, masks = torch.from_numpy(maps), torch.from_numpy(masks)
    whole = PixelMetrics(max_rows=600)
    whole.update(maps, masks)
    tables = []
    for part in (slice(0, 1), slice(1, 9), slice(9, 12)):
        metric = PixelMetrics(max_rows=600)
        metric.update(maps[part], masks[part])
        tables.append(metric.table())
    joint = pixel_metrics(PixelTable.joint(tables, 600))
    assert joint == pytest.approx(
        {name: float(value) for name, value in whole.compute().items()}, abs=1e-12, nan_ok=True
    )


def test_without_defects_or_without_normal_pixels_metrics_are_undefined() -> None:
    maps = np.random.default_rng(0).random((2, 4, 4)).astype(np.float32)
    no_defect = computed(maps, np.zeros(maps.shape, dtype=bool))
    assert np.isnan(list(no_defect.values())).all()
    all_defect = computed(maps, np.ones(maps.shape, dtype=bool))
    assert np.isnan([all_defect["pixel_auroc"], all_defect["aupro"]]).all()
    assert all_defect["pixel_ap"] == all_defect["dsc"] == all_defect["iou"] == 1
    assert np.isnan(list(pixel_metrics(PixelMetrics().table()).values())).all()


def test_a_constant_map_ranks_nothing() -> None:
    masks = np.zeros((2, 4, 4), dtype=bool)
    masks[0, :2] = True
    values = computed(np.full(masks.shape, 0.3, dtype=np.float32), masks)
    expected = {"pixel_auroc": 0.5, "pixel_ap": 0.25, "aupro": 0.15, "iou": 0.25}
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert values["dsc"] == pytest.approx((2 * 8 / 24 + 0) / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_and_a_channel_dimension(dtype: torch.dtype) -> None:
    maps, masks = noise(np.random.default_rng(4), 4, 16)
    maps = torch.from_numpy(maps).to(dtype)
    metric = PixelMetrics()
    metric.update(maps[:, None], 255 * torch.from_numpy(masks).to(torch.uint8)[:, None])
    assert float(metric.compute()["pixel_ap"]) == pytest.approx(
        average_precision_score(masks.ravel(), maps.float().numpy().ravel()), abs=1e-9
    )


def test_memory_does_not_grow_with_the_images() -> None:
    rng = np.random.default_rng(0)
    metric = PixelMetrics(max_rows=4096)
    mask = torch.zeros(1, 64, 64)
    mask[:, 10:20, 10:20] = 1
    sizes = []
    for _ in range(60):
        metric.update(torch.from_numpy(rng.standard_normal((1, 64, 64))), mask)
        sizes.append(sum(rows.numel() * rows.element_size() for rows in metric.rows))
    one_image = 64 * 64 * 56
    assert max(sizes) <= 2 * 4096 * 56 + one_image
    assert len(metric.table().rows) <= 4096


def test_wrong_input_is_refused() -> None:
    metric = PixelMetrics()
    with pytest.raises(ValueError, match=r"\(1, 4, 4\) need masks of the same shape, got \(1, 8, 8\)"):
        metric.update(torch.zeros(1, 4, 4), torch.zeros(1, 8, 8))
    with pytest.raises(ValueError, match=r"\(B, H, W\) or \(B, 1, H, W\), got \(1, 2, 4, 4\)"):
        metric.update(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4))
    maps = torch.zeros(3, 4, 4)
    maps[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN for image number 1 of the batch"):
        metric.update(maps, torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="at least 560, got 100"):
        PixelMetrics(max_rows=100)
    with pytest.raises(ValueError, match="got 0"):
        PixelMetrics(fpr_limit=0)


def test_reset_pickle_and_deepcopy() -> None:
    maps, masks = noise(np.random.default_rng(5), 4, 16)
    metric = PixelMetrics()
    metric.update(torch.from_numpy(maps), torch.from_numpy(masks))
    expected = metric.compute()
    np.testing.assert_equal(pickle.loads(pickle.dumps(metric)).compute(), expected)
    copied = copy.deepcopy(metric)
    metric.reset()
    metric.update(torch.from_numpy(maps), torch.from_numpy(masks))
    np.testing.assert_equal(metric.compute(), expected)
    np.testing.assert_equal(copied.compute(), expected)
    assert list(expected) == list(PIXEL_METRICS)
    assert not metric.state_dict()
