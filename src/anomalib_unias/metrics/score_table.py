"""Scores of any number of pixels, counted in a table of bounded size.

A row of the table is a range of scores (a cell), its columns are sums over the pixels whose score lies in the cell.
The cells adapt to the scores. A cell is given by the leading bits of the float32 number. While the scores take at most
``max_rows`` different values, nothing is dropped and the table is exact. Beyond that, trailing bits are dropped segment
by segment: every segment gets an equal share of ``max_rows``, and segments that need less leave the rest to the others.
A segment is an octave, the numbers between two powers of two. The octave below 1, where probabilities and similarities
concentrate, is divided further into the octaves of the distance from 1.

The result depends only on the set of scores, neither on their order nor on how they were split into batches or
processes: shares only shrink as scores are added, and dropping bits commutes with adding up.

Limitation: if scores of very different spread overlap in one segment, the widely spread ones take most of its cells,
and the narrow ones may fall into a few cells and count as tied.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

# Columns of a table. A table of counts has the first three, a table of a segmentation has all of them.
KEY, NORMAL, DEFECTIVE, REGION, DICE, IMAGE_FPR, IMAGE_TPR = range(7)
COUNT_WIDTH = 3
PIXEL_WIDTH = 7

# A float32 number: one bit for the sign and eight for the exponent give its octave, the other 23 can be dropped.
_OCTAVES = 512
_MANTISSA_BITS = 23
_MANTISSA_MASK = (1 << _MANTISSA_BITS) - 1
_MAGNITUDE_MASK = 0x7FFFFFFF
# Octaves of [0.5, 1) and of (-1, -0.5], and in how many segments each of them is divided.
_BELOW_ONE, _ABOVE_MINUS_ONE = 126, -127
_NEAR_ONE = _MANTISSA_BITS + 1
SEGMENTS = _OCTAVES + 2 * _NEAR_ONE

ScoreTable = NDArray[np.float64]
Precision = NDArray[np.int64]  # number of trailing bits that are dropped, by segment (560,)


def full_precision() -> Precision:
    """Precision of a table that drops nothing."""
    return np.zeros(SEGMENTS, dtype=np.int64)


def score_keys(scores: NDArray) -> NDArray[np.int32]:
    """Integers with the same order as the scores.

    Args:
        scores (NDArray): Scores of any shape, converted to float32. ``-0.0`` and ``0.0`` get the same key.

    Returns:
        NDArray[np.int32]: Keys ``(N,)``; ``a < b`` for two scores means the same for their keys.

    Example:
        >>> import numpy as np
        >>> score_keys(np.array([-1.5, -0.0, 0.0, 2.0])).tolist()
        [-1069547521, 0, 0, 1073741824]
    """
    bits = (np.ravel(scores).astype(np.float32, copy=False) + np.float32(0)).view(np.int32)
    return bits ^ ((bits >> 31) & _MAGNITUDE_MASK)


def key_scores(keys: NDArray) -> NDArray[np.float32]:
    """Scores of the keys, the inverse of :func:`score_keys`.

    Args:
        keys (NDArray): Keys of any shape and numeric type. The lower end of a cell may lie beyond the key of an
            infinite score, such keys give the infinite score.

    Returns:
        NDArray[np.float32]: Scores, of the shape of ``keys``.
    """
    lowest, highest = score_keys(np.array([-np.inf, np.inf]))
    bits = np.clip(keys, lowest, highest).astype(np.int32)
    return (bits ^ ((bits >> 31) & _MAGNITUDE_MASK)).view(np.float32)


def cell_ends(table: ScoreTable, dropped: Precision) -> NDArray[np.float32]:
    """The highest score that falls into each cell of a table, ``(n,)``."""
    keys = table[:, KEY].astype(np.int64)
    return key_scores(keys + (1 << dropped[_segments(keys)]) - 1)


def count_rows(scores: NDArray, defective: NDArray[np.bool_], dropped: Precision) -> ScoreTable:
    """Table of counts of labelled scores.

    Args:
        scores (NDArray): Scores of any shape.
        defective (NDArray[np.bool_]): Their labels, of the same shape.
        dropped (Precision): Number of trailing bits to drop, by segment.

    Returns:
        ScoreTable: ``(n, 3)`` with increasing keys.

    Example:
        >>> import numpy as np
        >>> scores = np.array([0.5, 2.0, 0.5])
        >>> count_rows(scores, scores > 1, full_precision())[:, [NORMAL, DEFECTIVE]].tolist()
        [[2.0, 0.0], [0.0, 1.0]]
    """
    return _count(_cells(score_keys(scores), dropped), defective.ravel())


def pixel_rows(anomaly_map: NDArray, mask: NDArray[np.bool_], dropped: Precision) -> tuple[ScoreTable, int]:
    """Table of one image: counts, and what the image adds to the curves that are means over regions or images.

    The column ``REGION`` adds up ``1 / area of the region`` over the pixels of defective regions (8-connected, as in
    anomalib's ``AUPRO``): its sum from the top down to a cell is the sum of the overlaps of all regions at that
    threshold. The column ``DICE`` holds the change of the image's Dice coefficient when the threshold falls from the
    next higher cell to this one: its sum from the top is the Dice coefficient at that threshold, minus the one of an
    empty prediction (1 for an image without defect, else 0). The sum of the column ``IMAGE_FPR`` from the top is the
    false positive rate of an image without defect, that of ``IMAGE_TPR`` the true positive rate of an image with one.

    Args:
        anomaly_map (NDArray): Anomaly map ``(H, W)``.
        mask (NDArray[np.bool_]): Ground truth ``(H, W)``.
        dropped (Precision): Number of trailing bits to drop, by segment.

    Returns:
        tuple[ScoreTable, int]: Table ``(n, 7)`` with increasing keys, and the number of defective regions.
    """
    cells = _cells(score_keys(anomaly_map), dropped)
    counts = _count(cells, mask.ravel())
    table = np.zeros((len(counts), PIXEL_WIDTH), order="F")
    table[:, :COUNT_WIDTH] = counts
    true_positives = _cumulated_from_top(counts[:, DEFECTIVE])
    predicted = true_positives + _cumulated_from_top(counts[:, NORMAL])
    dice = 2 * true_positives / (true_positives[0] + predicted)
    table[:, DICE] = dice - np.append(dice[1:], float(true_positives[0] == 0))
    if true_positives[0] == 0:
        table[:, IMAGE_FPR] = counts[:, NORMAL] / mask.size
        return table, 0

    table[:, IMAGE_TPR] = counts[:, DEFECTIVE] / true_positives[0]
    regions, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    area = statistics[:, cv2.CC_STAT_AREA]
    table[:, REGION] = _sum_per_cell(counts[:, KEY], cells[mask.ravel()], 1 / area[labels[mask]])
    return table, regions - 1  # component 0 is the background


def merge_tables(
    tables: Sequence[ScoreTable], dropped: Precision, max_rows: int | None
) -> tuple[ScoreTable, Precision]:
    """Add tables up and drop trailing bits until at most ``max_rows`` rows are left.

    Args:
        tables (Sequence[ScoreTable]): Tables with the same columns.
        dropped (Precision): Number of trailing bits dropped in any of the tables, by segment.
        max_rows (int | None): Largest number of rows of the result, at least 560; ``None`` for no limit.

    Returns:
        tuple[ScoreTable, Precision]: Table with increasing keys, and the number of trailing bits that it drops.
    """
    merged = _add_up(np.concatenate(tables), dropped)
    if max_rows is None or (len(merged) <= max_rows and not dropped.any()):
        return merged, dropped
    coarser = np.maximum(dropped, _fitting_precision(merged[:, KEY].astype(np.int32), dropped, max_rows))
    return (merged, dropped) if np.array_equal(coarser, dropped) else (_add_up(merged, coarser), coarser)


def _count(cells: NDArray, defective: NDArray[np.bool_]) -> ScoreTable:
    occupied, total = np.unique(cells, return_counts=True)
    table = np.empty((len(occupied), COUNT_WIDTH), order="F")
    table[:, KEY] = occupied
    table[:, DEFECTIVE] = _sum_per_cell(occupied, cells[defective])
    table[:, NORMAL] = total - table[:, DEFECTIVE]
    return table


def _add_up(rows: ScoreTable, dropped: Precision) -> ScoreTable:
    occupied, index = np.unique(_cells(rows[:, KEY].astype(np.int32), dropped), return_inverse=True)
    table = np.empty((len(occupied), rows.shape[1]), order="F")
    table[:, KEY] = occupied
    for column in range(1, rows.shape[1]):
        table[:, column] = np.bincount(index, weights=rows[:, column], minlength=len(occupied))
    return table


def _fitting_precision(keys: NDArray[np.int32], dropped: Precision, max_rows: int) -> Precision:
    """Fewest trailing bits to drop from increasing keys so that no segment exceeds its share of ``max_rows``."""
    segments = _segments(keys)
    share = _share(np.bincount(segments, minlength=SEGMENTS), dropped, max_rows)
    # Two neighbours share a cell once every bit up to the highest one in which they differ has been dropped.
    neighbours = segments[1:] == segments[:-1]
    bits_to_drop = np.frexp((keys[1:] ^ keys[:-1])[neighbours].astype(np.float64))[1]
    width = _MANTISSA_BITS + 1
    joined = np.bincount(segments[1:][neighbours] * width + bits_to_drop, minlength=SEGMENTS * width)
    joined = np.cumsum(joined.reshape(SEGMENTS, width), axis=1)
    cells = 1 + joined[:, -1:] - joined  # cells[i, b]: what is left of segment i when b bits are dropped
    return np.argmax(cells <= share, axis=1)


def _share(cells: NDArray, dropped: Precision, max_rows: int) -> int:
    """Largest number of cells that every segment may have if those that need less leave the rest to the others.

    A segment needs as many cells as it has different scores. If bits were dropped before, that number is not known any
    more, but it was more than the share at that time, and shares only shrink.
    """
    needed = np.sort(np.where(dropped > 0, max_rows, cells)[cells > 0])
    left = max_rows - np.append(0, np.cumsum(needed)[:-1])
    shares = left // np.arange(len(needed), 0, -1)
    return int(shares[np.argmax(shares < needed)])


def _segments(keys: NDArray) -> NDArray:
    octaves = keys >> _MANTISSA_BITS
    segments = octaves + _OCTAVES // 2
    near_one = np.flatnonzero((octaves == _BELOW_ONE) | (octaves == _ABOVE_MINUS_ONE))
    if len(near_one):
        near_keys = keys[near_one]
        negative = near_keys < 0
        distance = (np.where(negative, near_keys, ~near_keys) & _MANTISSA_MASK).astype(np.float32)
        # The octave of a whole number, as np.frexp gives it, but read from its bits, which is several times faster.
        bits = np.maximum((distance.view(np.int32) >> _MANTISSA_BITS) - _BELOW_ONE, 0)
        segments[near_one] = _OCTAVES + _NEAR_ONE * negative + bits
    return segments


def _cells(keys: NDArray, dropped: Precision) -> NDArray:
    """Lowest key of the cell of each key."""
    if not dropped.any():
        return keys
    bits = dropped.astype(keys.dtype)[_segments(keys)]
    return (keys >> bits) << bits


def _sum_per_cell(occupied: NDArray, cells: NDArray, weights: NDArray | None = None) -> NDArray:
    return np.bincount(np.searchsorted(occupied, cells), weights=weights, minlength=len(occupied))


def _cumulated_from_top(values: NDArray) -> NDArray:
    return np.cumsum(values[::-1])[::-1]
