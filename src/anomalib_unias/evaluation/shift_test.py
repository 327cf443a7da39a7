"""Repeat a test on changed images."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import pandas as pd
import torch
from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule
from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_unias.evaluation.error_rates import DEPLOYED, error_rates
from anomalib_unias.evaluation.image_statistics import bootstrap_statistics, statistics_of_rows
from anomalib_unias.evaluation.intervals import percentile_interval
from anomalib_unias.evaluation.shifts import SHIFTS, Shift, apply_shift
from anomalib_unias.metrics import UnifiedEvaluator
from anomalib_unias.metrics.image_pixels import REGION_COLUMNS
from anomalib_unias.metrics.unified_results import MIXED

SHIFT_COLUMNS = ("shift", "strength", "amount", "category", "metric", "value", "low", "high")
SHIFT_METRICS = ("image_auroc", "false_alarm_rate", "miss_rate")
NO_SHIFT = "none"


class ShiftedImages(Callback):
    """Changes the images of a test, and their masks with them, before the pre-processor of the model sees them.

    Random choices depend on the seed, the category, and the last three parts of the path of an image.

    Args:
        shift (Shift): Change.
        amount (float): Amount, in the unit of the change.
        seed (int): Seed. Defaults to ``0``.
    """

    def __init__(self, shift: Shift, amount: float, seed: int = 0) -> None:
        self.shift = shift
        self.amount = amount
        self.seed = seed

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Change a batch."""
        del trainer, pl_module, dataloader_idx
        size = len(batch.image)
        categories = getattr(batch, "category", None) or [""] * size
        paths = batch.image_path or [f"{batch_idx}/{index}" for index in range(size)]
        names = [
            "/".join([category, *PurePath(path).parts[-3:]]) for category, path in zip(categories, paths, strict=True)
        ]
        masks = [None] * size if batch.gt_mask is None else batch.gt_mask
        pairs = [
            apply_shift(self.shift, self.amount, image, mask, name, self.seed)
            for image, mask, name in zip(batch.image, masks, names, strict=True)
        ]
        batch.image = torch.stack([image for image, _ in pairs])
        if batch.gt_mask is not None:
            batch.gt_mask = torch.stack([mask for _, mask in pairs if mask is not None])


def measure_shift(
    model: AnomalibModule, data: AnomalibDataModule, shifts: Sequence[Shift] = SHIFTS, seed: int = 0
) -> pd.DataFrame:
    """Test a trained model on its test set, unchanged and with every change at every strength.

    Threshold and labels stay the same, although a strong change may hide a small defect, even from people.

    Args:
        model (AnomalibModule): Trained model with its threshold.
        data (AnomalibDataModule): Its data.
        shifts (Sequence[Shift]): Changes. Defaults to all of :data:`~anomalib_unias.evaluation.shifts.SHIFTS`.
        seed (int): Seed of the changes and of the bootstrap. Defaults to ``0``.

    Returns:
        pd.DataFrame: Columns :data:`SHIFT_COLUMNS`, for every category and ``mixed``: ``image_auroc`` with a bootstrap
        interval, ``false_alarm_rate`` and ``miss_rate`` at the threshold of the model with exact ones, all at 95 %.
        ``strength`` is 0 (``shift`` is ``none``) to 3. NaN where undefined, also without a threshold.
    """
    evaluator, visualizer = model.evaluator, model.visualizer
    only_images = UnifiedEvaluator(validation=(), print_table=False, log="stock", test_pixels=False)
    model.evaluator, model.visualizer = only_images, None
    try:
        rows = [(NO_SHIFT, 0, 0.0, *row) for row in _rows(_tested(model, data, []), seed)]
        for shift in shifts:
            for strength, amount in enumerate(shift.amounts, start=1):
                images = _tested(model, data, [ShiftedImages(shift, amount, seed)])
                rows += [(shift.name, strength, float(amount), *row) for row in _rows(images, seed)]
    finally:
        model.evaluator, model.visualizer = evaluator, visualizer
    return pd.DataFrame(rows, columns=list(SHIFT_COLUMNS))


def _tested(model: AnomalibModule, data: AnomalibDataModule, callbacks: list[Callback]) -> pd.DataFrame:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    # Callbacks of the trainer come before those of the model, such as the pre-processor.
    trainer = Trainer(callbacks=callbacks, enable_progress_bar=False, devices=1, **quiet)  # type: ignore[arg-type]
    trainer.test(model, datamodule=data, verbose=False)
    assert isinstance(model.evaluator, UnifiedEvaluator)
    return model.evaluator.images


def _rows(images: pd.DataFrame, seed: int) -> list[tuple[str, str, float, float, float]]:
    """Category, metric, value and interval."""
    rates = error_rates(images, pd.DataFrame(columns=list(REGION_COLUMNS)), float("nan"))
    rates = rates[rates["at"] == DEPLOYED].set_index("category")
    values = statistics_of_rows(images, torch.ones(1, len(images)).double().numpy())
    drawn = bootstrap_statistics(images, seed=seed)
    rows = []
    for category in [*sorted(images["category"].unique()), MIXED]:
        key, rate = (category, "image_auroc"), rates.loc[category]
        rows += [
            (*key, float(values[key][0]), *percentile_interval(drawn[key])),
            (category, "false_alarm_rate", *rate[["false_alarm_rate", "false_alarm_low", "false_alarm_high"]]),
            (category, "miss_rate", *rate[["miss_rate", "miss_low", "miss_high"]]),
        ]
    return rows
