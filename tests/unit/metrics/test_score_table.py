import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anomalib_unias.metrics.score_table import (
    DEFECTIVE,
    IMAGE_FPR,
    IMAGE_TPR,
    KEY,
    NORMAL,
    cell_ends,
    count_rows,
    full_precision,
    key_scores,
    merge_tables,
    pixel_rows,
    score_keys,
)

numbers = st.floats(width=32, allow_nan=False)


@given(arrays(np.float32, st.integers(1, 30), elements=numbers))
def test_keys_have_the_order_of_the_scores(scores: np.ndarray) -> None:
    keys = score_keys(scores)
    assert np.array_equal(keys[:, None] < keys[None], scores[:, None] < scores[None])
    assert np.array_equal(key_scores(keys), scores)


def awkward_scores(rng: np.random.Generator, count: int) -> np.ndarray:
    """Both signs, many octaves, ties, a narrow band far from zero, saturation at 1, the largest numbers."""
    return np.concatenate(
        [
            rng.standard_normal(count),
            np.exp(20 * rng.standard_normal(count)),
            1000 + 0.01 * rng.random(count),
            np.tanh(4 * rng.standard_normal(count)),
            np.repeat([0.0, -0.0, np.inf, -np.inf, 3e38, -3e38, 1e-45], 5),
        ]
    ).astype(np.float32)


@pytest.mark.parametrize("parts", [2, 3, 7, 40, 300])
@pytest.mark.parametrize("ordered", [False, True])
def test_a_table_depends_on_the_set_of_scores_only(parts: int, ordered: bool) -> None:
    rng = np.random.default_rng(parts)
    scores = awkward_scores(rng, 3000)
    if ordered:
        scores = np.sort(scores)
    defective = rng.random(len(scores)) < 0.1
    all_at_once = merge_tables([count_rows(scores, defective, full_precision())], full_precision(), 600)

    table, dropped = np.empty((0, 3)), full_precision()
    for part in np.array_split(np.arange(len(scores)) if ordered else rng.permutation(len(scores)), parts):
        rows = count_rows(scores[part], defective[part], dropped)
        table, dropped = merge_tables([table, rows], dropped, 600)

    assert np.array_equal(table, all_at_once[0])
    assert np.array_equal(dropped, all_at_once[1])
    assert dropped.any()
    assert len(table) <= 600
    assert table[:, DEFECTIVE].sum() == defective.sum()
    assert table[:, NORMAL].sum() == (~defective).sum()


def test_a_table_is_exact_while_it_has_room() -> None:
    rng = np.random.default_rng(0)
    scores = awkward_scores(rng, 200)
    rows = count_rows(scores, np.zeros(len(scores), dtype=bool), full_precision())
    table, dropped = merge_tables([rows], full_precision(), 1000)
    assert not dropped.any()
    assert np.array_equal(key_scores(table[:, KEY]), np.unique(scores))


def test_cells_contain_their_scores_and_do_not_overlap() -> None:
    scores = awkward_scores(np.random.default_rng(0), 3000)
    rows = count_rows(scores, np.zeros(len(scores), dtype=bool), full_precision())
    table, dropped = merge_tables([rows], full_precision(), 600)
    low, high = key_scores(table[:, KEY]), cell_ends(table, dropped)
    assert (low[1:] > high[:-1]).all()
    cell = np.searchsorted(low, scores, side="right") - 1
    assert (scores <= high[cell]).all()


def test_a_narrow_band_keeps_its_order_beside_a_wide_one() -> None:
    rng = np.random.default_rng(0)
    wide, narrow = rng.standard_normal(200_000), 100 + 0.01 * rng.standard_normal(200_000)
    scores = np.concatenate([wide, narrow]).astype(np.float32)
    rows = count_rows(scores, np.zeros(len(scores), dtype=bool), full_precision())
    table, _ = merge_tables([rows], full_precision(), 2**16)
    assert (key_scores(table[:, KEY]) > 50).sum() > 300


def test_probabilities_near_one_keep_their_order() -> None:
    rng = np.random.default_rng(0)
    scores = (1 / (1 + np.exp(-6 * rng.standard_normal(400_000)))).astype(np.float32)
    rows = count_rows(scores, np.zeros(len(scores), dtype=bool), full_precision())
    table, _ = merge_tables([rows], full_precision(), 2**16)
    assert (key_scores(table[:, KEY]) > 0.999).sum() > 5000


def test_one_image_gives_regions_and_dice() -> None:
    anomaly_map = np.array([[9, 8, 0, 0], [0, 7, 0, 0], [0, 0, 0, 0], [5, 0, 0, 6]], dtype=np.float32)
    mask = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=bool)  # diagonals connect
    table, regions = pixel_rows(anomaly_map, mask, full_precision())
    from_the_top = np.cumsum(table[::-1, 1:], axis=0)
    normal, defective, overlap, dice, image_fpr, image_tpr = from_the_top.T
    assert regions == 2
    assert normal.tolist() == [0, 1, 1, 1, 2, 13]
    assert defective.tolist() == [1, 1, 2, 3, 3, 3]
    assert overlap.tolist() == [0.5, 0.5, 1, 2, 2, 2]
    assert dice == pytest.approx([2 / 4, 2 / 5, 4 / 6, 6 / 7, 6 / 8, 6 / 19])
    assert image_tpr == pytest.approx([1 / 3, 1 / 3, 2 / 3, 1, 1, 1])
    assert not image_fpr.any()
    good, _ = pixel_rows(anomaly_map, np.zeros_like(mask), full_precision())
    assert good[::-1, IMAGE_FPR].tolist() == [1 / 16] * 5 + [11 / 16]
    assert not good[:, IMAGE_TPR].any()
