"""Refuses images that the data sets of anomalib read wrongly without an error."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from .reading import check_header


class DepthCheck(Callback):
    """Stops a run at an image with more than 8 bits per channel, which anomalib 2.7.0 has read as white.

    The data modules of this package refuse such an image when they read it. This is for those of anomalib. The header
    of each file is looked at once.

    Raises:
        UnreadableImageError: At the first batch with such an image.
    """

    def __init__(self) -> None:
        self._checked: set[str] = set()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at the images of a batch."""
        del trainer, pl_module, batch_idx
        self._check(batch)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at the images of a batch."""
        del trainer, pl_module, batch_idx, dataloader_idx
        self._check(batch)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    def _check(self, batch: Any) -> None:
        for path in getattr(batch, "image_path", None) or ():
            # Images that were made in memory may carry any name.
            if path not in self._checked and Path(path).is_file():
                check_header(path)
            self._checked.add(path)
