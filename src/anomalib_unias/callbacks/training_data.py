"""The owner of a datamodule's training images during a run."""

from collections.abc import Callable
from typing import Any

from anomalib.data import AnomalibDataset
from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_unias.data.feature_cache import FeatureDataset
from anomalib_unias.data.held_out import HeldOutOrder

from .shared import shared_callback


class TrainingData(Callback):
    """Changes the training images of a datamodule for one run, and gives them back when it ends, however it ends.

    Nothing else writes to ``train_data``. Models and post-processors share one for each trainer::

        held_out = TrainingData.of(trainer).hold_out(trainer, 0.1)      # in ``setup``
        TrainingData.of(trainer).replace_by_features(trainer, compute)  # in ``on_fit_start``

    Images are held out first: the loader of the training images may be made between these two hooks.
    """

    def __init__(self) -> None:
        self._datamodule: Any = None
        self._complete: AnomalibDataset | None = None
        self._order: HeldOutOrder | None = None
        self._held_out: set[int] = set()

    @staticmethod
    def of(trainer: Trainer) -> "TrainingData":
        """The owner of the training images of a trainer.

        Args:
            trainer (Trainer): Any trainer.

        Returns:
            TrainingData: Always the same one.
        """
        return shared_callback(trainer, TrainingData)

    def hold_out(self, trainer: Trainer, fraction: float, seed: int = 0) -> AnomalibDataset:
        """Take a share of the normal images of each category out of the training.

        Who asks for the same share gets the same images; a larger share holds those of a smaller one, so that no more
        is taken out than the largest. Therefore the seed of the first who asks counts for the whole run.

        Args:
            trainer (Trainer): In or after ``setup``, before features are kept. It has a datamodule of anomalib.
            fraction (float): Share in ``(0, 1)``; at least one image of each category.
            seed (int): Which images. Defaults to ``0``.

        Returns:
            AnomalibDataset: The images that are held out.

        Raises:
            ValueError: If the fraction is out of its range.
            HeldOutError: If a category has a single normal image.
            RuntimeError: If features stand for the images already.
        """
        complete = self._take(trainer)
        if self._order is None:
            self._order = HeldOutOrder(complete, seed)
        chosen = self._order.first(fraction)
        if not chosen <= self._held_out:
            if isinstance(self._datamodule.train_data, FeatureDataset):
                msg = "Images are to be held out of features that are kept already: ask for them in setup."
                raise RuntimeError(msg)
            self._held_out |= chosen
            self._datamodule.train_data = self._remaining(complete)
        return complete.subsample(sorted(chosen))

    def images(self, trainer: Trainer) -> AnomalibDataset:
        """The images that a run learns from, also where features stand for them.

        Args:
            trainer (Trainer): Of a run whose loader of training images has been made.

        Returns:
            AnomalibDataset: Without those that are held out.
        """
        loader: Any = trainer.train_dataloader
        dataset = loader.dataset
        return dataset.images if isinstance(dataset, FeatureDataset) else dataset

    def replace_by_features(self, trainer: Trainer, compute: Callable[[AnomalibDataset], FeatureDataset]) -> None:
        """Let the run read features of a frozen network for its images.

        Args:
            trainer (Trainer): In ``on_fit_start``. It has a datamodule of anomalib.
            compute (Callable[[AnomalibDataset], FeatureDataset]): Gets the images that are not held out.
        """
        self._take(trainer)
        self._datamodule.train_data = compute(self._datamodule.train_data)
        # To count the steps of a run that is limited by epochs, Lightning 2.x has made its loader already.
        trainer.fit_loop._combined_loader = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the images back: Lightning does not tear down after an error."""
        del trainer, pl_module, exception
        self._give_back()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the images back."""
        del trainer, pl_module
        self._give_back()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the images back."""
        del trainer, pl_module, stage
        self._give_back()

    def _take(self, trainer: Trainer) -> AnomalibDataset:
        if self._complete is None:
            self._datamodule = trainer.datamodule  # type: ignore[attr-defined]
            self._complete = self._datamodule.train_data
        return self._complete

    def _remaining(self, complete: AnomalibDataset) -> AnomalibDataset:
        return complete.subsample([row for row in range(len(complete)) if row not in self._held_out])

    def _give_back(self) -> None:
        if self._complete is not None:
            self._datamodule.train_data = self._complete
        self._datamodule, self._complete, self._order, self._held_out = None, None, None, set()
