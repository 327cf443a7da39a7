"""Callback that writes the report of a test."""

from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT

from anomalib_unias.metrics.evaluator import RawScores, UnifiedEvaluator, data_name, one_of
from anomalib_unias.metrics.scored_image import count_unrepeated, split_batch
from anomalib_unias.metrics.unified_results import UnifiedResults
from anomalib_unias.report.gallery import Galleries
from anomalib_unias.report.page import Report, write_report
from anomalib_unias.report.pictures import draw_picture, map_on_unit_scale, original_colors
from anomalib_unias.report.settings import run_settings
from anomalib_unias.report.threshold import deployed_threshold, normalized_threshold


class EvaluationReport(Callback):
    """Writes a self-contained report after a test: ``report/index.html``, and its numbers as JSON and CSV files.

    The page opens from disk without network. It has tables per category, of their mean, of the joint set and of the
    gap between the two, false alarms and misses with 95 % intervals, the share of defects found by size and kind, ROC
    and precision-recall curves, the distributions of the image scores of all categories, one below the other, with the
    common threshold, galleries of misses, false alarms and hits, suspicious labels, and the settings of the run. On a
    second page, ``threshold.html``, the reader can move the threshold.

    Works with any anomalib model. The numbers are those of the model's
    :class:`~anomalib_unias.metrics.UnifiedEvaluator`; for a model with another evaluator, the report adds one of its
    own, which logs nothing.

    Memory does not grow with the number of images (beyond what the evaluator keeps): galleries have a few small
    pictures.

    Args:
        folder (str | Path | None): Folder of the report. Defaults to ``None``: the folder ``report`` beside the folder
            ``images`` of the engine's results.
        pictures (int): Number of pictures in each gallery per category. Defaults to ``4``.

    Raises:
        ValueError: If ``pictures`` is negative.

    Example:
        >>> from anomalib.engine import Engine
        >>> engine = Engine(callbacks=[EvaluationReport()])

        From the command line: ``anomalib train ... --trainer.callbacks anomalib_unias.EvaluationReport``
    """

    def __init__(self, folder: str | Path | None = None, pictures: int = 4) -> None:
        if pictures < 0:
            msg = f"pictures is the number of pictures per gallery and category, 0 or more, got {pictures}."
            raise ValueError(msg)
        self.folder = folder
        self.pictures = pictures
        self._raw_scores = RawScores()
        self._added_evaluator = _SilentEvaluator(validation=(), print_table=False)
        self._galleries = Galleries(pictures)
        self._written: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Run after all other callbacks of a test, but read its scores before any of them."""
        if stage != "test":
            return
        self._written = None
        others = self._other_callbacks(trainer)
        needs_evaluator = not any(isinstance(callback, UnifiedEvaluator) for callback in others)
        added = [self._added_evaluator] if needs_evaluator else []
        trainer.callbacks = [self._raw_scores, *others, *added, self]  # type: ignore[attr-defined]
        for evaluator in added:
            evaluator.setup(trainer, pl_module, stage)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the callbacks, and print the path of the report below the tables of the test."""
        del pl_module
        if stage == "test":
            trainer.callbacks = [*self._other_callbacks(trainer), self]  # type: ignore[attr-defined]
            if self._written:
                rank_zero_info(f"Report: {self._written}")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with empty galleries."""
        del trainer
        self._galleries = Galleries(self.pictures, normalized_threshold(getattr(pl_module, "post_processor", None)))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the pictures of a batch that belong in a gallery."""
        del outputs
        scores = self._raw_scores.pop()
        loader = one_of(trainer.test_dataloaders, dataloader_idx)
        unrepeated = count_unrepeated(loader, batch_idx, len(scores.image))
        post_processor = getattr(pl_module, "post_processor", None)
        images = split_batch(batch, scores, data_name(trainer, loader), post_processor)
        for index, image in enumerate(islice(images, unrepeated)):
            self._galleries.add(image, partial(_draw, pl_module, batch, index, image.mask))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report."""
        galleries = self._galleries.of_all_processes()
        evaluator = next(callback for callback in trainer.callbacks if isinstance(callback, UnifiedEvaluator))  # type: ignore[attr-defined]
        if not len(evaluator.images):
            rank_zero_warn("The test had no images: no report is written.")
            return
        if trainer.is_global_zero:
            report = Report(
                results=UnifiedResults(
                    *(evaluator.results, evaluator.images, evaluator.curves),
                    *(evaluator.regions, evaluator.pixel_counts),
                ),
                threshold=deployed_threshold(evaluator.images, getattr(pl_module, "post_processor", None)),
                galleries=galleries,
                settings=run_settings(trainer, pl_module),
            )
            folder = Path(self.folder) if self.folder is not None else Path(trainer.default_root_dir) / "report"
            self._written = write_report(report, folder)

    def _other_callbacks(self, trainer: Trainer) -> list[Callback]:
        ours = (self._raw_scores, self._added_evaluator, self)
        return [callback for callback in trainer.callbacks if not any(callback is own for own in ours)]  # type: ignore[attr-defined]


class _SilentEvaluator(UnifiedEvaluator):
    """Evaluates in addition to the evaluator of the model, but does not log: that one logs the same names."""

    def _log(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        del trainer, values


def _draw(model: LightningModule, batch: Any, index: int, mask: Any) -> bytes:
    """Picture of one image of a batch."""
    image = original_colors(batch.image[index], getattr(model, "pre_processor", None))
    if batch.anomaly_map is None:
        return draw_picture(image, None, mask)
    anomaly_map = map_on_unit_scale(batch.anomaly_map[index], getattr(model, "post_processor", None))
    return draw_picture(image, anomaly_map, mask)
