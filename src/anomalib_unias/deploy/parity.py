"""Checks whether a model gives the same answers in training and after export, and finds the stage that differs."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule
from rich.progress import track
from rich.table import Table
from sklearn.metrics import roc_auc_score

from anomalib_unias.compat.data import set_up_for_test
from anomalib_unias.compat.export import QUIET_ONNX
from anomalib_unias.data.reading import check_header
from anomalib_unias.deploy import predictions as run
from anomalib_unias.deploy.adaptation import adapt_export
from anomalib_unias.deploy.errors import ExportedModelError
from anomalib_unias.deploy.openvino_core import FULL_PRECISION
from anomalib_unias.deploy.predictions import Predictions
from anomalib_unias.deploy.stages import STAGES, StagedModel, load_runtimes, stagewise_predictions

logger = logging.getLogger(__name__)

_SMALLEST_RANGE = float(np.finfo(np.float32).tiny)
REFERENCE = "lightning predict"
DEFAULT_PRECISION = "openvino at default precision"


@dataclass(frozen=True)
class ParityRow:
    """Differences between one way to run a model and Lightning's ``predict``.

    Args:
        stage (str): Way to run the model; a name such as ``"onnx: network"`` is the effect of one stage only.
        max_score_diff (float): Largest difference of image scores, relative to their range if that exceeds 1; infinite
            if a score is NaN.
        max_map_diff (float): Largest difference of anomaly maps, relative to their range; infinite if a pixel is NaN.
            NaN without maps.
        label_flips (int): Number of images with another label.
        image_auroc (float): Image AUROC of its scores. NaN if there are not both normal and defective labels.
    """

    stage: str
    max_score_diff: float
    max_map_diff: float
    label_flips: int
    image_auroc: float


@dataclass
class ParityReport:
    """Result of :func:`check_export_parity`.

    Args:
        model (str): Name of the model.
        calibration (str): Name of the calibration.
        tolerance (float): Largest difference that counts as the same answer.
        rows (list[ParityRow]): One for each way to run the model and, if they differ, for each stage of an export.
    """

    model: str
    calibration: str
    tolerance: float
    rows: list[ParityRow] = field(default_factory=list)

    def differs(self, row: ParityRow) -> bool:
        """Whether a row differs from Lightning's answer.

        Args:
            row (ParityRow): One of the rows.

        Returns:
            bool: Whether a score, a map, a label or the AUROC differs.
        """
        difference = np.nanmax([row.max_score_diff, row.max_map_diff, self._auroc_difference(row)])
        return bool(difference > self.tolerance or row.label_flips or np.isnan(row.max_score_diff))

    def _auroc_difference(self, row: ParityRow) -> float:
        reference = next(other for other in self.rows if other.stage == REFERENCE)
        return abs(row.image_auroc - reference.image_auroc)

    @property
    def passed(self) -> bool:
        """Whether all answers are the same; OpenVINO at its default precision is shown but does not count."""
        return not any(self.differs(row) for row in self.rows if row.stage != DEFAULT_PRECISION)

    def frame(self) -> pd.DataFrame:
        """Get the rows as a table.

        Returns:
            pd.DataFrame: Columns ``model, calibration, stage, max_score_diff, max_map_diff, label_flips, image_auroc``.
        """
        frame = pd.DataFrame([asdict(row) for row in self.rows])
        frame.insert(0, "model", self.model)
        frame.insert(1, "calibration", self.calibration)
        return frame

    def write(self, path: Path) -> None:
        """Append the rows to a CSV file.

        Args:
            path (Path): File, created with a header if it does not exist.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.frame().to_csv(path, mode="a", header=not path.exists(), index=False)

    def table(self) -> Table:
        """Get the rows for the terminal.

        Returns:
            Table: Table for rich; rows that differ are red.
        """
        title = f"{self.model}, {self.calibration}: {'the same answer' if self.passed else 'NOT the same answer'}"
        table = Table("stage", "score", "map", "labels", "image AUROC", title=title, caption=self._caption())
        for row in self.rows:
            style = "red" if self.differs(row) else None
            values = (f"{row.max_score_diff:.1e}", f"{row.max_map_diff:.1e}", f"{row.label_flips}")
            table.add_row(row.stage, *values, f"{row.image_auroc:.4f}", style=style)
        return table

    def _caption(self) -> str:
        caption = f"Largest differences to {REFERENCE}; red: more than {self.tolerance:g}, or another label."
        differing = [row.stage for row in self.rows if ": " in row.stage and self.differs(row)]
        if differing:
            caption += f" It begins to differ in {', '.join(differing)}."
        if any(row.stage == DEFAULT_PRECISION and self.differs(row) for row in self.rows):
            caption += " OpenVINO: give the inferencer config={'INFERENCE_PRECISION_HINT': 'f32'}."
        return caption


def check_export_parity(
    model: AnomalibModule,
    data: AnomalibDataModule | Sequence[str | Path],
    *,
    labels: Sequence[int] | None = None,
    calibration: str | None = None,
    tolerance: float = 1e-3,
    limit: int | None = None,
) -> ParityReport:
    """Run a trained model in all ways on the same original files, and compare the answers.

    These are Lightning's ``test`` (for a datamodule) and ``predict``, anomalib's inferencers for torch and OpenVINO,
    the inspection line, and ONNX Runtime and OpenVINO's Model API if they are installed. If an answer differs, the
    report also shows the effect of each stage of the exported graph. All run on the CPU; the model is not changed.

    Args:
        model (AnomalibModule): Any trained model of anomalib.
        data (AnomalibDataModule | Sequence[str | Path]): Datamodule whose test set is used, or image files.
        labels (Sequence[int] | None): 1 for defective files, 0 for normal ones; not needed for a datamodule.
            Defaults to ``None``.
        calibration (str | None): Name of the calibration in the report. Defaults to ``None``: the class of the
            post-processor.
        tolerance (float): Largest difference of scores, of maps relative to their range, and of the image AUROC.
            Defaults to ``1e-3``.
        limit (int | None): Use at most this many files, evenly spaced. Defaults to ``None``: all.

    Returns:
        ParityReport: One row for each way and stage.

    Raises:
        ValueError: If there is no image, or ``labels`` do not fit the files.
        UnreadableImageError: If a file is not an image, or has more than 8 bits per channel, which anomalib reads
            wrongly.
    """
    files, all_labels = _files_and_labels(data, labels)
    for file in files:
        check_header(file)
    chosen = np.unique(np.linspace(0, len(files) - 1, min(limit or len(files), len(files))).astype(int))
    files = [files[index] for index in chosen]
    truth = {str(files[i]): all_labels[index] for i, index in enumerate(chosen)} if all_labels else {}
    calibration = calibration or type(model.post_processor).__name__
    report = ParityReport(model=model.name, calibration=calibration, tolerance=tolerance)
    training, device = model.training, model.device
    with TemporaryDirectory() as folder:
        root = Path(folder)
        reference = run.predict_by_lightning(model, files, root)
        model.cpu().eval()
        report.rows.append(_compare(REFERENCE, reference, reference, truth))
        if isinstance(data, AnomalibDataModule):
            tested = run.predict_by_lightning_test(model, data, root)
            report.rows.append(_compare("lightning test", tested, reference, truth))
        model.eval()
        for stage, found in _exported(model, files, root).items():
            report.rows.append(_compare(stage, found, reference, truth))
        if not report.passed:
            report.rows += _stage_rows(model, files, root, truth)
    model.to(device).train(training)
    return report


def _files_and_labels(
    data: AnomalibDataModule | Sequence[str | Path], labels: Sequence[int] | None
) -> tuple[list[Path], list[int]]:
    if isinstance(data, AnomalibDataModule):
        data.prepare_data()
        set_up_for_test(data)
        samples = data.test_data.samples
        return [Path(path) for path in samples["image_path"]], [int(label) for label in samples["label_index"]]
    files = [Path(path) for path in data]
    if not files:
        msg = "There is no image to compare: got an empty list, expected at least one image file."
        raise ValueError(msg)
    if labels is not None and len(labels) != len(files):
        msg = f"labels must have one entry per file, got {len(labels)} for {len(files)} files."
        raise ValueError(msg)
    return files, [int(label) for label in labels or ()]


def _exported(model: AnomalibModule, files: Sequence[Path], root: Path) -> dict[str, Predictions]:
    found = {"torch": run.predict_by_torch(model.to_torch(root), files)}
    onnx, xml = model.to_onnx(root, **QUIET_ONNX), model.to_openvino(root, onnx_kwargs=QUIET_ONNX)
    try:
        found["onnx"] = run.predict_by_onnxruntime(onnx, files)
    except ModuleNotFoundError:
        logger.warning("ONNX Runtime is left out: it is not installed (pip install onnxruntime).")
    found["openvino"] = run.predict_by_openvino(xml, files, FULL_PRECISION)
    found["inspection line"] = run.predict_by_line(xml, files)
    found[DEFAULT_PRECISION] = run.predict_by_openvino(xml, files, {})
    try:
        found["model api"] = run.predict_by_model_api(adapt_export(xml, root / "model_api.xml", "model_api"), files)
    except ModuleNotFoundError:
        logger.warning("Model API is left out: it is not installed (pip install openvino-model-api).")
    except ExportedModelError as error:
        logger.warning("Model API is left out. %s", error)
    return found


def _stage_rows(model: AnomalibModule, files: Sequence[Path], root: Path, truth: dict[str, int]) -> list[ParityRow]:
    """Measure the effect of each stage separately, in each runtime."""
    runtimes = load_runtimes(StagedModel(model).to_onnx(root, "staged", **QUIET_ONNX))
    rows = []
    for name, runtime in runtimes.items():
        steps: list[Predictions] = [{} for _ in range(len(STAGES) + 1)]
        for file in track(files, description=f"stages of {name}", transient=True):
            for step, prediction in zip(steps, stagewise_predictions(model, runtime, file), strict=True):
                step[str(file)] = prediction
        for index, stage in enumerate(STAGES):
            rows.append(_compare(f"{name}: {stage}", steps[index + 1], steps[index], truth))
    return rows


def _compare(stage: str, found: Predictions, reference: Predictions, truth: dict[str, int]) -> ParityRow:
    pairs = [(found[file], expected) for file, expected in reference.items()]
    scores = np.array([[one.score, other.score] for one, other in pairs])
    scale = max(1.0, float(np.ptp(scores[:, 1])))
    labels = [truth[file] for file in reference] if truth else []
    auroc = roc_auc_score(labels, np.nan_to_num(scores[:, 0])) if len(set(labels)) == 2 else float("nan")
    return ParityRow(
        stage=stage,
        max_score_diff=_largest_difference(scores[:, 0], scores[:, 1]) / scale,
        max_map_diff=_map_difference([(one.anomaly_map, other.anomaly_map) for one, other in pairs]),
        label_flips=sum(one.label != other.label for one, other in pairs),
        image_auroc=float(auroc),
    )


def _largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Compute the largest difference of two arrays, infinite if a value is NaN."""
    return float(np.nan_to_num(np.abs(one - other), nan=np.inf, posinf=np.inf).max())


def _map_difference(pairs: Sequence[tuple[np.ndarray | None, np.ndarray | None]]) -> float:
    """Compute the largest difference of maps, relative to the range of the second maps over all images."""
    maps = [(one, other) for one, other in pairs if one is not None and other is not None]
    if not maps:
        return float("nan")
    highest, lowest = (float(bound([bound(other) for _, other in maps])) for bound in (np.nanmax, np.nanmin))
    return max(_largest_difference(one, other) for one, other in maps) / max(highest - lowest, _SMALLEST_RANGE)
