"""A few hundred scores of an image, which give approximately the number of its pixels above any threshold."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SKETCH_POINTS = 256


@dataclass(frozen=True)
class RankSketch:
    """Scores at some ranks of a set of scores.

    Half of the ranks are spaced evenly, the other half as a geometric series. So the number of scores above a threshold
    is known to within 0.5 % of all scores, and to within about 5 % of itself. Up to 256 scores, all are kept.

    Args:
        scores (NDArray): Scores at the ranks, decreasing ``(k,)``.
        size (int): Number of scores of the set.
        exact (bool): Whether the scores of all ranks are kept.
    """

    scores: NDArray[np.float32]
    size: int
    exact: bool

    @classmethod
    def of(cls, scores: NDArray[np.float32], exact: bool = False) -> "RankSketch":
        """Sketch of a set of scores.

        Args:
            scores (NDArray): Scores ``(N,)``.
            exact (bool): Keep all scores. Defaults to ``False``.

        Returns:
            RankSketch: At most about 256 scores, or all.

        Example:
            >>> sketch = RankSketch.of(np.arange(10_000, dtype=np.float32))
            >>> len(sketch.scores) <= 256, sketch.count_from(np.array([0, 9_990, 10_000])).tolist()
            (True, [10000.0, 10.0, 0.0])
        """
        descending = np.sort(scores)[::-1]
        kept = descending if exact else descending[_ranks(len(scores)) - 1]
        return cls(np.ascontiguousarray(kept), len(scores), exact)

    def count_from(self, thresholds: NDArray) -> NDArray[np.float64]:
        """Number of scores at or above each threshold.

        Args:
            thresholds (NDArray): Thresholds ``(T,)``.

        Returns:
            NDArray[np.float64]: Numbers ``(T,)``; the middle of the possible range where scores were left out.
        """
        ranks = np.arange(1, self.size + 1) if self.exact else _ranks(self.size)
        kept = len(ranks) - np.searchsorted(self.scores[::-1], thresholds)
        lower, upper = np.append(0, ranks)[kept], np.append(ranks - 1, self.size)[kept]
        return (lower + upper) / 2


@lru_cache
def _ranks(size: int) -> NDArray[np.int64]:
    """Ranks from 1 to ``size``, both included."""
    if size <= SKETCH_POINTS:
        return np.arange(1, size + 1)
    even, geometric = np.linspace(1, size, SKETCH_POINTS // 2), np.geomspace(1, size, SKETCH_POINTS // 2)
    return np.unique(np.concatenate([even, geometric]).round().astype(np.int64))
