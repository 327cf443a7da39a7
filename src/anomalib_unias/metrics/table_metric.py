"""Base class of metrics that count scores in a table of bounded size."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from anomalib_unias.metrics.score_table import (
    COUNT_WIDTH,
    SEGMENTS,
    Precision,
    ScoreTable,
    full_precision,
    merge_tables,
)


class TableMetric(Metric):
    """A torchmetrics metric whose state is a table of scores, see :mod:`anomalib_unias.metrics.score_table`.

    Args:
        exact (bool): Keep every distinct float32 score, in memory that grows with the images. Defaults to ``False``.
        max_rows (int): Largest number of rows of the table, at least 560. Defaults to ``131072``.

    Raises:
        ValueError: If ``max_rows`` is less than 560.
    """

    is_differentiable = False
    full_state_update = False
    columns: ClassVar[int] = COUNT_WIDTH
    rows: list[Tensor]
    dropped: Tensor

    def __init__(self, exact: bool = False, max_rows: int = 2**17) -> None:
        super().__init__()
        if max_rows < SEGMENTS:
            msg = f"max_rows is the number of rows of a table, at least {SEGMENTS}, got {max_rows}."
            raise ValueError(msg)
        self.max_rows = None if exact else max_rows
        self._buffer_size = max_rows
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.add_state("dropped", default=torch.from_numpy(full_precision()), dist_reduce_fx="max")
        self.reset()

    def reset(self) -> None:
        """Forget all scores."""
        super().reset()
        # A process that sees no image must send rows of the same width and type as the others.
        self.rows = [self._state(np.empty((0, self.columns)))]

    def add_rows(self, rows: ScoreTable) -> None:
        """Add rows to the state; the first entry of the list has the rows that are merged already."""
        self.rows.append(self._state(rows))
        if sum(map(len, self.rows[1:])) > max(self._buffer_size, len(self.rows[0])):
            merged, dropped = self.merged_rows()
            self.rows = [self._state(merged)]
            self.dropped = torch.from_numpy(dropped).to(self.device)

    @property
    def precision(self) -> Precision:
        """Number of trailing bits of the key that the rows drop, by segment ``(560,)``."""
        return self.dropped.cpu().numpy()

    def merged_rows(self) -> tuple[ScoreTable, Precision]:
        """All rows added up, and the number of trailing bits of the key that they drop."""
        # One tensor after torchmetrics has synchronised the processes, else a list.
        tables = self.rows if isinstance(self.rows, list) else [dim_zero_cat(self.rows)]
        return merge_tables([table.cpu().numpy().view(np.float64) for table in tables], self.precision, self.max_rows)

    def _state(self, rows: ScoreTable) -> Tensor:
        # The bits of the float64 numbers as integers: Apple's MPS has no float64, and a state moves with its model.
        return torch.from_numpy(rows.view(np.int64)).to(self.device)


def require_numbers(scores: NDArray, names: Sequence[str] | None = None) -> None:
    """Refuse NaN scores: they have no rank, so no metric can count them.

    Args:
        scores (NDArray): Scores, one or more per image, ``(B, ...)``.
        names (Sequence[str] | None): Names of the ``B`` images in the message. Defaults to ``None``: their numbers in
            the batch.

    Raises:
        ValueError: If any score is NaN; the message names the images.
    """
    if np.issubdtype(scores.dtype, np.floating):
        broken = np.flatnonzero(np.isnan(scores).any(axis=tuple(range(1, scores.ndim))))
        if len(broken):
            images = ", ".join(names[i] if names is not None else f"number {i} of the batch" for i in broken[:5])
            more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
            msg = (
                f"Anomaly scores must be numbers, got NaN for image {images}{more}. "
                "Check the images and whether training diverged (learning rate, mixed precision)."
            )
            raise ValueError(msg)
