"""Evaluator that reports each category separately."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal

import pandas as pd
import torch
from anomalib.metrics import Evaluator
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.types import STEP_OUTPUT
from rich.console import Console

from anomalib_unias.metrics.collection import Collection
from anomalib_unias.metrics.pixel_metrics import PIXEL_METRICS, PixelMetrics
from anomalib_unias.metrics.scored_image import Scores, count_unrepeated, split_batch
from anomalib_unias.metrics.unified_results import (
    GAP,
    IMAGE_METRICS,
    MEAN,
    MIXED,
    UnifiedResults,
    refuse_summary_rows,
    summarize,
    unified_metrics,
)

# Width, in characters, of a console that is not a terminal (a log file); wide enough for the table.
_TABLE_WIDTH = 150


class UnifiedEvaluator(Evaluator):
    """Evaluates every category by itself, their mean, and the joint set with one threshold. For any anomalib model.

    The metrics are those of :func:`~anomalib_unias.metrics.image_metrics` (image level and deployed threshold) and
    :func:`~anomalib_unias.metrics.pixel_metrics`, which define each one. They are

    - computed on the raw scores of the model. anomalib 2.7.0 post-processes before it evaluates and clamps scores to
      ``[0, 1]``, which makes the highest ones equal. Labels are those of the post-processor.
    - computed in one pass and bounded memory, independent of batches, order and processes. Images that the sampler
      repeats, so that all processes have equally many, count once.
    - named ``mean_<metric>`` (of categories), ``mixed_<metric>`` (joint set), ``gap_<metric>`` (mean minus mixed) and,
      if there is more than one category, ``<category>/<metric>``. ``image_AUROC``, ``image_F1Score``, ``pixel_AUROC``
      and ``pixel_F1Score`` of the joint set are logged under anomalib's names too (F1 at the deployed threshold).

    The category of an image is ``batch.category`` (a list of names), else the category or the name of the data set.
    An image counts at pixel level if the batch has masks and ``batch.mask_valid``, if there is one, is true for it.
    Masks are ``> 0``. A NaN score is an error that names the image.

    After a test, :attr:`results`, :attr:`images`, :attr:`regions` and :attr:`curves` are data frames, and the console
    shows a table. An evaluator is not part of a checkpoint: pass it to ``load_from_checkpoint`` if it is not the
    model's default.

    Args:
        validation (Sequence[str]): Metrics to log in validation, as ``val_mean_<metric>`` and
            ``val_mixed_<metric>``, for checkpoints and early stopping. Metrics at the deployed threshold are not
            available there. Defaults to ``("image_auroc", "pixel_ap")``.
        log (Literal["all", "summary", "stock"]): What a test logs and returns: everything, all but the single
            categories (so the keys do not depend on the categories), or only anomalib's four. Defaults to ``"all"``.
        print_table (bool): Print the table at the end of a test. Defaults to ``True``.
        exact (bool): Keep every distinct score of a pixel, in memory that grows. Defaults to ``False``.
        max_rows (int): Largest number of ranges of pixel scores that are distinguished, per category, at least 560.
            Defaults to ``131072``.
        fpr_limit (float): False positive rate up to which ``aupro`` is integrated. Defaults to ``0.3``.
        test_pixels (bool): Whether a test evaluates maps and masks, which is most of its work. Defaults to ``True``.

    Raises:
        ValueError: If ``validation`` or ``log`` names something that does not exist.

    Example:
        >>> from anomalib.models import Padim
        >>> model = Padim(pre_trained=False, evaluator=UnifiedEvaluator())
    """

    def __init__(
        self,
        validation: Sequence[str] = ("image_auroc", "pixel_ap"),
        log: Literal["all", "summary", "stock"] = "all",
        print_table: bool = True,
        exact: bool = False,
        max_rows: int = 2**17,
        fpr_limit: float = 0.3,
        test_pixels: bool = True,
    ) -> None:
        super().__init__(compute_on_cpu=False)
        if unknown := set(validation) - {*IMAGE_METRICS, *PIXEL_METRICS}:
            expected = [*IMAGE_METRICS, *PIXEL_METRICS]
            msg = f"validation names {sorted(unknown)}, which do not exist; expected some of {expected}."
            raise ValueError(msg)
        if log not in {"all", "summary", "stock"}:
            msg = f"log is 'all', 'summary' or 'stock', got {log!r}."
            raise ValueError(msg)
        self.validation = tuple(validation)
        self.logged = log
        self.print_table = print_table
        self.fpr_limit = fpr_limit
        self.test_pixels = test_pixels
        self.max_rows = None if exact else max_rows
        self._new_pixel_metrics = partial(PixelMetrics, exact=exact, max_rows=max_rows, fpr_limit=fpr_limit)
        self._new_pixel_metrics()  # wrong arguments fail here, not at the end of training
        self._raw_scores = RawScores()
        self._validated = self._tested = Collection(self._new_pixel_metrics)
        self._results = UnifiedResults.empty()

    @property
    def results(self) -> pd.DataFrame:
        """Metrics of the last test: ``category`` (also ``mean``, ``mixed``, ``gap``), ``metric``, ``value``."""
        return self._results.metrics

    @property
    def images(self) -> pd.DataFrame:
        """Images of the last test, columns as in :class:`~anomalib_unias.metrics.UnifiedResults`."""
        return self._results.images

    @property
    def regions(self) -> pd.DataFrame:
        """Defective regions of the last test, columns as in :class:`~anomalib_unias.metrics.UnifiedResults`."""
        return self._results.regions

    @property
    def pixel_counts(self) -> pd.DataFrame:
        """Pixel counts of the images of the last test at some thresholds, for intervals of pixel metrics."""
        return self._results.pixel_counts

    @property
    def curves(self) -> pd.DataFrame:
        """ROC, precision-recall and per-region-overlap curves of the last test."""
        return self._results.curves

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the scores of a test before any other callback, in particular the post-processor.

        Raises:
            ValueError: If the data set is called ``mean``, ``mixed`` or ``gap``, like a row of the summary.
        """
        super().setup(trainer, pl_module, stage)
        refuse_summary_rows([data_name(trainer, None)])
        if stage == "test":
            trainer.callbacks = [self._raw_scores, *self._other_callbacks(trainer)]  # type: ignore[attr-defined]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the table, below that of Lightning."""
        del pl_module
        if stage == "test":
            trainer.callbacks = self._other_callbacks(trainer)  # type: ignore[attr-defined]
            if self.print_table and len(self.results):
                _print(self._results)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start without images."""
        del trainer, pl_module
        self._validated = Collection(self._new_pixel_metrics)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect a batch, whose scores are not post-processed."""
        del pl_module, outputs
        if self.validation:
            scores = Scores.of(batch)
            if set(self.validation).isdisjoint(PIXEL_METRICS):
                scores = scores._replace(pixel=None)
            loader = one_of(trainer.val_dataloaders, dataloader_idx)
            _collect(self._validated, batch, scores, trainer, loader, batch_idx, None)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the validation metrics."""
        images, tables = self._validated.images(), self._validated.pixel_tables(pl_module.device)
        self._validated = Collection(self._new_pixel_metrics)
        if len(images):
            metrics = unified_metrics(images, tables, self.fpr_limit, self.max_rows)
            values = metrics.set_index(["category", "metric"])["value"]
            names = [(scope, metric) for scope in (MEAN, MIXED) for metric in self.validation]
            self._log(trainer, {f"val_{scope}_{metric}": values[scope, metric] for scope, metric in names})

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start without images."""
        del trainer, pl_module
        self._tested = Collection(self._new_pixel_metrics, "all" if self.max_rows is None else "sketch")
        self._results = UnifiedResults.empty()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect a batch: raw scores of the model, labels of the post-processor."""
        del outputs
        loader = one_of(trainer.test_dataloaders, dataloader_idx)
        post_processor = getattr(pl_module, "post_processor", None)
        scores = self._raw_scores.pop()
        if not self.test_pixels:
            scores = scores._replace(pixel=None)
        _collect(self._tested, batch, scores, trainer, loader, batch_idx, post_processor)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the metrics."""
        images, tables = self._tested.images(), self._tested.pixel_tables(pl_module.device)
        mask_f1 = self._tested.mask_f1()
        self._tested = Collection(self._new_pixel_metrics)
        if not len(images):
            return
        self._results = results = summarize(images, tables, self.fpr_limit, self.max_rows)
        results.warn_of_undefined()
        values = {
            "image_AUROC": results.value(MIXED, "image_auroc"),
            "image_F1Score": _label_f1(results.images),
            "pixel_AUROC": results.value(MIXED, "pixel_auroc"),
            "pixel_F1Score": mask_f1,
        }
        if self.logged != "stock":
            values |= results.named(MEAN, MIXED, GAP, separator="_")
        if self.logged == "all" and len(results.categories) > 1:
            values |= results.named(*results.categories, separator="/")
        self._log(trainer, values)

    def _other_callbacks(self, trainer: Trainer) -> list[Callback]:
        return [callback for callback in trainer.callbacks if callback is not self._raw_scores]  # type: ignore[attr-defined]

    def _log(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        # All processes have the same values; Lightning asks for an average anyway.
        self.log_dict(dict(values), sync_dist=True)  # type: ignore[operator]
        if trainer.barebones:
            # Lightning does not log in barebones mode; the engine then returns what it finds here.
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
            trainer.logged_metrics.update(trainer.callback_metrics)


class RawScores(Callback):
    """Keeps the scores of a batch as the model gave them.

    anomalib 2.7.0 passes batches to the post-processor before the evaluator, and the post-processor replaces the
    scores in them.
    """

    def __init__(self) -> None:
        self._scores: Scores | None = None

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Store the scores."""
        del trainer, pl_module, outputs, batch_idx, dataloader_idx
        self._scores = Scores.of(batch)

    def pop(self) -> Scores:
        """Return the scores and forget them.

        Returns:
            Scores: Scores of the current batch.
        """
        assert self._scores is not None
        scores, self._scores = self._scores, None
        return scores


def _collect(
    collection: Collection,
    batch: Any,
    scores: Scores,
    trainer: Trainer,
    loader: Any,
    batch_idx: int,
    post_processor: Any,
) -> None:
    unrepeated = count_unrepeated(loader, batch_idx, len(scores.image))
    for image in islice(split_batch(batch, scores, data_name(trainer, loader), post_processor), unrepeated):
        collection.add(image)


def data_name(trainer: Trainer, loader: Any) -> str:
    """Find the name of a data set without categories.

    Args:
        trainer (Trainer): Trainer; its datamodule may have a category or a name.
        loader (Any): Data loader; its data set may have a category or a name.

    Returns:
        str: The category or name, ``"all"`` if there is none.
    """
    sources = (getattr(trainer, "datamodule", None), getattr(loader, "dataset", None))
    names = (getattr(source, name, None) for name in ("category", "name") for source in sources)
    return next((str(name) for name in names if name), "all")


def one_of(loaders: Any, index: int) -> Any:
    """Choose a loader.

    Args:
        loaders (Any): One loader or several.
        index (int): Index of the loader, if there are several.

    Returns:
        Any: The loader.
    """
    return loaders[index] if isinstance(loaders, Sequence) else loaders


def _label_f1(images: pd.DataFrame) -> float:
    """F1 score of the predicted labels; NaN without predictions, or if no image is or is predicted defective."""
    found = (images["predicted"] * images["label"]).sum(skipna=False)
    counted = images["predicted"].sum(skipna=False) + images["label"].sum()
    return float(2 * found / counted) if counted else float("nan")


@rank_zero_only
def _print(results: UnifiedResults) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_TABLE_WIDTH)
    console.print(results.console_table())
