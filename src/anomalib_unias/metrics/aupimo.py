"""Area under the per-image overlap curve (AUPIMO), from counts instead of all maps at once.

The AUPIMO of an image is its true positive rate, averaged over the logarithm of the shared false positive rate (the
mean rate of the images *without* defect) from 1e-5 to 1e-4 (Bertoldo et al., "AUPIMO: Redefining Visual Anomaly
Detection Benchmarks with High Speed and Low Tolerance", BMVC 2024). Thresholds and bounds are those of
``anomalib.metrics.AUPIMO``, which needs all maps in memory; on exact counts the two agree.
"""

from typing import NamedTuple

import numpy as np
import torch
from anomalib.metrics.pimo.functional import aupimo_normalizing_factor, thresh_at_shared_fpr_level
from numpy.typing import NDArray
from scipy.integrate import trapezoid

FPR_BOUNDS = (1e-5, 1e-4)
# Defaults of anomalib 2.7.0: the number of thresholds between the lowest and the highest score of the images without
# defect, and how many of them must lie between the bounds.
_THRESHOLDS = 300_000
_FEWEST_POINTS = 31


class SharedFprRange(NamedTuple):
    """Thresholds at which the images without defect have a mean false positive rate within the bounds of AUPIMO.

    Args:
        thresholds (NDArray): Increasing thresholds ``(K,)``; a score equal to a threshold counts as above it.
        log_rates (NDArray): Natural logarithm of the false positive rate at each of them, decreasing ``(K,)``.
    """

    thresholds: NDArray[np.float32]
    log_rates: NDArray[np.float64]

    @classmethod
    def of(cls, scores: NDArray[np.float32], rates: NDArray) -> "SharedFprRange | None":
        """Find the range.

        Args:
            scores (NDArray): Distinct scores of the pixels of the images without defect, increasing ``(n,)``.
            rates (NDArray): Mean false positive rate of these images at each score, decreasing from 1 ``(n,)``.

        Returns:
            SharedFprRange | None: ``None`` where anomalib refuses to compute: if there are too few pixels to have a
            false positive rate of 1e-5, or too few thresholds within the bounds.
        """
        low, high = float(scores[0]), float(scores[-1])
        if not np.isfinite([low, high]).all() or low == high or rates[-1] > FPR_BOUNDS[0]:
            return None
        # In a narrow range of scores there are fewer float32 numbers than that.
        thresholds = torch.linspace(low, high, _THRESHOLDS, dtype=torch.float32).unique_consecutive()
        index = np.searchsorted(scores, thresholds.numpy()).clip(max=len(scores) - 1)
        shared = torch.from_numpy(np.minimum(rates, 1)[index])
        last, first = (thresh_at_shared_fpr_level(thresholds, shared, bound)[0] for bound in FPR_BOUNDS)
        if last + 1 - first < _FEWEST_POINTS:
            return None
        inside = slice(first, last + 1)
        return cls(thresholds.numpy()[inside], np.log(shared.numpy()[inside]))

    def mean_over(self, true_positive_rate: NDArray) -> float:
        """AUPIMO of an image.

        Args:
            true_positive_rate (NDArray): True positive rate at each threshold ``(K,)``.

        Returns:
            float: Mean over the logarithm of the shared false positive rate, in ``[0, 1]``.
        """
        area = trapezoid(true_positive_rate[::-1], self.log_rates[::-1])
        return float(np.clip(area / aupimo_normalizing_factor(FPR_BOUNDS), 0, 1))
