"""Detects drift: scores on the line whose distribution differs from that in validation."""

from collections import deque
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from anomalib_unias.deploy.errors import InspectionError
from anomalib_unias.deploy.results import last_results

FEWEST_SCORES = 30
# Significance level: some hundred checks a day must not warn by chance.
_LEVEL = 1e-4
# Checks per window; the checked images overlap.
_CHECKS_PER_WINDOW = 4


class DriftWatch:
    """Compares the scores of the last images with those of normal images in validation.

    It uses the two-sample Kolmogorov-Smirnov test (``scipy.stats.ks_2samp``) at the level 0.0001, four times per
    window. It notices a change of the lamp, the camera or the material, in either direction, even if no image exceeds
    the threshold. A few percent of defective images do not count as drift, but a fifth may.

    Args:
        reference (NDArray): Scores of normal images ``(N,)``, by the same export.
        window (int): Number of last images that are compared. Defaults to ``200``.

    Attributes:
        window (int): Number of last images that are compared.
        checked (bool): Whether there were enough images for a check.

    Raises:
        InspectionError: If there are fewer than 30 scores, or the window is smaller.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> watch = DriftWatch(rng.normal(0.2, 0.05, 100), window=40)
        >>> sentences = [watch.add(score) for score in rng.normal(0.3, 0.05, 40)]
        >>> sentences[-1].partition(" (")[0]
        'The scores of the last 40 images are higher than in validation'
    """

    def __init__(self, reference: NDArray, window: int = 200) -> None:
        if len(reference) < FEWEST_SCORES or window < FEWEST_SCORES:
            msg = (
                f"Drift is detected from {FEWEST_SCORES} scores or more, got {len(reference)} of validation and a "
                f"window of {window}."
            )
            raise InspectionError(msg)
        self.window = window
        self.checked = False
        self._reference = np.asarray(reference, dtype=float)
        self._scores: deque[float] = deque(maxlen=window)
        self._until_check = window
        self._drifted = False

    @classmethod
    def read(cls, path: Path, window: int = 200) -> "DriftWatch":
        """Read the reference scores from the output of an inspection of normal validation images.

        Args:
            path (Path): File of JSON lines. The last line of an image counts; errors are left out.
            window (int): Number of last images that are compared. Defaults to ``200``.

        Returns:
            DriftWatch: An instance without scores to compare yet.

        Raises:
            FileNotFoundError: If there is no such file.
            InspectionError: If a line is not a result of an inspection, or there are too few.
        """
        if not path.is_file():
            msg = f"{path} does not exist: expected what 'anomalib-unias inspect' wrote about normal validation images."
            raise FileNotFoundError(msg)
        return cls(np.array([entry["score"] for entry in last_results(path).values()]), window)

    def add(self, score: float) -> str | None:
        """Add the score of an image, and check for drift when it is due.

        Args:
            score (float): Image score.

        Returns:
            str | None: A sentence when drift begins, and another one when it has ended; otherwise ``None``.
        """
        self._scores.append(score)
        self._until_check -= 1
        if self._until_check:
            return None
        self._until_check = max(1, self.window // _CHECKS_PER_WINDOW)
        self.checked = True
        p_value = float(ks_2samp(self._reference, list(self._scores), method="asymp").pvalue)
        if (p_value < _LEVEL) == self._drifted:
            return None
        self._drifted = not self._drifted
        last = f"The scores of the last {len(self._scores)} images"
        if not self._drifted:
            return f"{last} are again like those of validation."
        now, before = np.median(self._scores), np.median(self._reference)
        how = "differently distributed" if now == before else "higher" if now > before else "lower"
        return (
            f"{last} are {how} than in validation (median {now:.4g}, was {before:.4g}; p = {p_value:.0e}): false "
            "alarms and misses may differ from those of the report. Check lighting, camera and material."
        )
