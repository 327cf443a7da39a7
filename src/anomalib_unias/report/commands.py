"""Commands about the results of tests."""

import logging
from pathlib import Path

from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule
from rich.console import Console

from anomalib_unias.evaluation.comparison import Run, common_images, compare_runs
from anomalib_unias.evaluation.shift_test import measure_shift
from anomalib_unias.report.comparison_page import console_comparison, write_comparison
from anomalib_unias.report.shift_page import write_shift

logger = logging.getLogger(__name__)

# Width, in characters, of a console that is not a terminal (a log file); wide enough for the table.
_TABLE_WIDTH = 150


def compare(runs: list[Path], output: Path = Path("comparison.html"), samples: int = 2000, seed: int = 0) -> None:
    """Compare runs on the same test images with the first of them, and say which differences are beyond chance.

    Args:
        runs (list[Path]): Folders that ``EvaluationReport`` wrote, two or more.
        output (Path): Page to write; the numbers go into a CSV file beside it. Defaults to ``comparison.html``.
        samples (int): Number of bootstrap samples. Defaults to ``2000``.
        seed (int): Seed of the samples. Defaults to ``0``.
    """
    try:
        loaded = [Run.load(path) for path in runs]
        comparison = compare_runs(loaded, samples, seed)
        write_comparison(comparison, len(common_images(loaded)[0]), output)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    console = Console()
    if not console.is_terminal:
        console = Console(width=_TABLE_WIDTH)
    console.print(console_comparison(comparison))


def shift(
    *,
    model: AnomalibModule,
    data: AnomalibDataModule,
    ckpt_path: Path | None = None,
    output: Path = Path("shift"),
    seed: int = 0,
) -> None:
    """Measure how a trained model copes with changed light, blur, noise, JPEG, small rotations and displacements.

    Args:
        model (AnomalibModule): Class of the model, and its arguments.
        data (AnomalibDataModule): Datamodule; its test images are changed.
        ckpt_path (Path | None): Checkpoint of the model. Defaults to ``None``.
        output (Path): Folder for ``index.html``, ``shift.svg`` and ``shift.csv``. Defaults to ``shift``.
        seed (int): Seed of the changes. Defaults to ``0``.
    """
    if ckpt_path is not None:
        model = type(model).load_from_checkpoint(ckpt_path)
    page = write_shift(measure_shift(model, data, seed=seed), output)
    logger.info("Wrote %s.", page)
