import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from anomalib_unias.metrics.image_pixels import REGION_COLUMNS, ImagePixels, region_table
from anomalib_unias.metrics.rank_sketch import SKETCH_POINTS, RankSketch
from anomalib_unias.metrics.scored_image import ScoredImage


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 5000, 300_000])
@pytest.mark.parametrize("levels", [3, 10**6])
def test_a_sketch_knows_how_many_scores_there_are(size: int, levels: int) -> None:
    scores = np.random.default_rng(size).integers(0, levels, size).astype(np.float32)
    thresholds = np.unique(np.append(scores, [-1, levels]))
    expected = size - np.searchsorted(np.sort(scores), thresholds)
    sketch = RankSketch.of(scores)
    assert len(sketch.scores) <= SKETCH_POINTS
    error = np.abs(sketch.count_from(thresholds) - expected)
    assert (error <= 0.005 * size).all()
    assert (error <= 0.06 * expected).all()
    assert np.array_equal(RankSketch.of(scores, exact=True).count_from(thresholds), expected)
    if size <= SKETCH_POINTS:
        assert not error.any()


def example(seed: int, size: int = 64, predicted: bool = True) -> tuple[ScoredImage, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.standard_normal((size, size)), 2) > 0.15
    anomaly_map = (rng.random((size, size)) + 0.5 * mask).astype(np.float32)
    marked = torch.from_numpy(anomaly_map > 1.4) if predicted else None
    maps = torch.from_numpy(anomaly_map), torch.from_numpy(mask)
    return ScoredImage("a", f"{seed}.png", 1, 0.0, 0.0, 1.0, *maps, marked), anomaly_map, mask


def test_regions_and_dice() -> None:
    image, anomaly_map, mask = example(0)
    pixels = ImagePixels.of(image, exact=True)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    expected = sorted(
        ((labels == n).sum(), anomaly_map[labels == n].max(), float((anomaly_map[labels == n] > 1.4).any()))
        for n in range(1, count + 1)
    )
    found = zip(pixels.areas, pixels.peaks, pixels.found, strict=True)
    assert sorted(found) == [pytest.approx(each) for each in expected]
    assert 0 < pixels.found.sum() < count
    assert (pixels.size, pixels.peak) == (64 * 64, anomaly_map.max())
    assert pixels.marked == pytest.approx((anomaly_map > 1.4).mean())
    sketch = ImagePixels.of(image)
    for threshold in (0.2, 0.9, 1.2):
        predicted = anomaly_map >= threshold
        dice = 2 * (predicted & mask).sum() / (predicted.sum() + mask.sum())
        assert pixels.dice(threshold) == pytest.approx(dice)
        assert sketch.dice(threshold) == pytest.approx(dice, abs=0.01)
    assert np.isnan(pixels.dice(np.nan))


def test_an_image_without_defect() -> None:
    image, _, mask = example(1, predicted=False)
    pixels = ImagePixels.of(image._replace(mask=torch.from_numpy(np.zeros_like(mask))))
    assert (pixels.dice(5.0), pixels.dice(0.1), len(pixels.areas)) == (1, 0, 0)
    assert np.isnan([pixels.marked, pixels.aupimo(None)]).all()


def test_table_of_regions() -> None:
    images = [example(seed, predicted=seed != 2)[0] for seed in range(3)]
    parts = [ImagePixels.of(image) for image in images]
    frame = pd.DataFrame({"category": "a", "image_path": [image.image_path for image in images], "pixels": parts})
    frame.loc[3] = ["b", "no mask", None]
    table = region_table(frame)
    assert list(table.columns) == list(REGION_COLUMNS)
    assert len(table) == sum(len(part.areas) for part in parts)
    second = table[table["image_path"] == "1.png"]
    assert second["area"].tolist() == parts[1].areas.tolist()
    assert second["share"].tolist() == pytest.approx(parts[1].areas / 64**2)
    assert table.loc[table["image_path"] == "2.png", "found"].isna().all()
    assert list(region_table(frame.iloc[3:]).columns) == list(REGION_COLUMNS)


def test_an_image_takes_little_memory_whatever_its_size() -> None:
    sizes = [
        len(pickle.dumps(ImagePixels.of(example(3, size=size)[0]._replace(mask=square(size))))) for size in (64, 512)
    ]
    assert max(sizes) < 4000
    assert sizes[1] < 1.2 * sizes[0]


def square(size: int) -> torch.Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[10:50, 10:50] = True
    return mask
