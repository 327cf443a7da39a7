"""Report image files that the data sets of anomalib cannot read, or read wrongly without an error."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataset
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader

from .errors import UnreadableImageError
from .reading import check_header, read_rgb, require_file


class ImageCheck(Callback):
    """Checks the image files of a run, for data sets that do not check them.

    The datamodules of this package refuse a bad file when they read it. This callback is for those of anomalib 2.7.0:
    they wait forever on a pipe, read more than 8 bits per channel as white, and do not name a truncated file. It checks
    before the run that every path is a regular file, and the header of each image once, when its batch starts.

    Raises:
        OSError: Before the run, if a path is not a regular file.
        UnreadableImageError: At the first batch with an image of more than 8 bits per channel.
    """

    def __init__(self) -> None:
        self._checked: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the files of the datamodule."""
        del pl_module, stage
        for path in _files(trainer):
            require_file(path)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check files that are predicted without a datamodule."""
        self.setup(trainer, pl_module, "predict")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Check the images of a batch."""
        del trainer, pl_module, batch_idx
        self._check(batch)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Check the images of a batch."""
        del trainer, pl_module, batch_idx, dataloader_idx
        self._check(batch)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Add the file name to an error of Pillow, which does not name a file with damaged image data."""
        del pl_module
        # System errors have an errno, errors of this package a type of their own.
        if type(exception) is not OSError or exception.errno is not None:
            return
        for path in _files(trainer):
            try:
                read_rgb(path)
            except UnreadableImageError as error:
                exception.args = (f"{exception}\n{error}",)
                return

    def _check(self, batch: Any) -> None:
        for path in getattr(batch, "image_path", None) or ():
            # Images that were made in memory may have any name.
            if path not in self._checked and Path(path).is_file():
                check_header(path)
            self._checked.add(path)


def _files(trainer: Trainer) -> Iterator[str | Path]:
    """Paths of the images of the datamodule, and of images that are predicted without one."""
    datamodule = getattr(trainer, "datamodule", None)
    data = [getattr(datamodule, name, None) for name in ("train_data", "val_data", "test_data")]
    data += [getattr(loader, "dataset", None) for loader in CombinedLoader(trainer.predict_dataloaders).flattened]
    for dataset in data:
        if isinstance(dataset, AnomalibDataset):
            yield from dataset.samples.image_path
        else:
            yield from getattr(dataset, "image_filenames", ())  # of anomalib's PredictDataset
