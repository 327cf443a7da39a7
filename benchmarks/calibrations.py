"""Calibrations of one trained model, all applied to the same anomaly maps. Only this module uses CADA's internals.

All models are trained without the images that CADA holds out, a tenth of each category. A model that can score its
training images as if they were new is calibrated by default with these, as :class:`~anomalib_unias.UniASLite` does.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.models.components import AnomalibModule
from lightning.pytorch import Trainer
from torch import Tensor

from anomalib_unias import CadaPostProcessor
from anomalib_unias.metrics import FalseAlarmThreshold
from anomalib_unias.post_processing.calibration import Calibration, NormalScores, ScoreSource, calibrate
from anomalib_unias.post_processing.calibration_data import CalibrationData, map_statistics
from anomalib_unias.post_processing.calibration_run import CalibrationRun, can_leave_out
from anomalib_unias.post_processing.encoders import FeatureTap, find_feature_layer
from anomalib_unias.post_processing.fitting import fit_calibration, without_own_influence
from anomalib_unias.post_processing.levels import LevelCalibration
from anomalib_unias.post_processing.model_runs import ModelRuns

NONE, DEFAULT, ORACLE = "none", "cada", "oracle"
_VARIANTS = {
    DEFAULT: {"variant": "cada", "predictor": "clusters"},
    "cada_paper": {"variant": "cada", "predictor": "regressor"},
    "cada_a": {"variant": "cada_a"},
    "cada_b": {"variant": "cada_b"},
}
KINDS = (NONE, *_VARIANTS, ORACLE)
ABLATIONS = {
    **{f"{count} linear layers": {"convolutions": 0, "linear_layers": count} for count in (1, 2, 3)},
    "2 convolutions": {"convolutions": 2},
    **{f"dropout {share}": {"dropout": share} for share in (0.0, 0.5, 0.75)},
}
"""Changes of the regressor of ``cada_paper``, which has 1 convolution, 2 linear layers and a dropout of 0.25."""
SCORES = {"maximum": 0.0, "top 0.1 %": 0.001, "top 2 %": 0.02}
"""Other image scores from the maps of ``cada_paper``: mean of this share of the pixels; ``cada_paper`` takes 1 %."""
_STEPS = 5000


class Recorder(CadaPostProcessor):
    """Keeps the data that calibrations are fitted to.

    Args:
        seed (int): Seed of the selection of held-out images.

    Attributes:
        data: Data of the training images and the held-out images.
        default_data: Data that the default calibration is fitted to.
        levels: The default calibration.
        seconds: Time of :meth:`on_train_end`.
    """

    data: CalibrationData
    default_data: CalibrationData
    levels: LevelCalibration
    seconds = 0.0

    def __init__(self, seed: int) -> None:
        # CaDA-B keeps feature maps, to which all others can be fitted too; one step is enough, as it is fitted again.
        super().__init__(variant="cada_b", targets="held_out", max_steps=1, seed=seed)

    def on_train_end(self, trainer: Trainer, pl_module: AnomalibModule) -> None:
        """Fit, and measure the time, which does not count as training time."""
        started = time.perf_counter()
        super().on_train_end(trainer, pl_module)
        self.default_data = self.data
        run = CalibrationRun(self, trainer)
        leave_one_out = can_leave_out(pl_module)
        runs = ModelRuns(trainer, pl_module, self.tap, leave_one_out=leave_one_out)
        training, unseen = run.images().values()
        if leave_one_out:
            unseen = training
            self.default_data = runs.collect({"training": training}, keep_maps=False, keep_pixels=False)
        self.levels = fit_calibration(self.default_data, replace(self.options(), **_VARIANTS[DEFAULT]))
        run.set_powers(self.levels, runs, unseen, training)
        self.seconds = time.perf_counter() - started

    def fit(self, data: CalibrationData) -> Calibration:
        """Fit, and keep the data."""
        self.data = data
        return super().fit(data)


@dataclass
class Predictions:
    """Predicted offsets and scales of all test images, by calibration."""

    seconds: dict[str, float] = field(default_factory=dict)
    parts: dict[str, list[NormalScores]] = field(default_factory=dict)

    def of(self, kind: str) -> NormalScores:
        """Get the predictions of one calibration for all test images."""
        kind = "cada_paper" if kind in SCORES else kind
        return NormalScores(*map(torch.cat, zip(*self.parts[kind], strict=True)))

    def set_oracle(
        self, levels: LevelCalibration, peaks: Tensor, scores: Tensor, labels: Tensor, categories: Sequence[str]
    ) -> None:
        """Add the oracle: levels, without spreads, of the other normal test images of the true category."""
        peaks, scores = (_logarithms(values, levels.score_logarithm) for values in (peaks, scores))
        rows = []
        for index, category in enumerate(categories):
            others = torch.tensor([name == category for name in categories]) & ~labels
            others[index] = False
            rows.append(torch.stack([peaks[others].mean(), scores[others].mean()]))
        of_map, of_score = torch.stack(rows).unbind(dim=1)
        of_map, zero = of_map * levels.map_power, torch.zeros_like(of_map)
        shifts = (zero, of_map.exp()) if levels.map_logarithm else (of_map, zero + 1)
        shifts += (zero, of_score.exp()) if levels.score_logarithm else (of_score, zero + 1)
        self.parts[ORACLE] = [NormalScores(*shifts, torch.zeros(len(rows), dtype=torch.bool))]


def _logarithms(values: Tensor, logarithm: bool) -> Tensor:
    return values.clamp(min=torch.finfo(values.dtype).tiny).log() if logarithm else values


def prepare(
    model: AnomalibModule, kinds: Collection[str] = KINDS
) -> tuple[Predictions, Callable[[int, list[str]], None]]:
    """Fit calibrations, and switch off the calibration of the model.

    Args:
        model (AnomalibModule): Model that was trained with a :class:`Recorder`.
        kinds (Collection[str]): Names of calibrations, of :data:`ABLATIONS` or of :data:`SCORES`.

    Returns:
        tuple[Predictions, Callable[[int, list[str]], None]]: Empty predictions, and a function that adds those of the
        last batch of the model, given the size and categories of the batch.
    """
    recorder = model.post_processor
    recorder.calibration = None
    options = replace(recorder.options(), max_steps=_STEPS)
    predictions, calibrations = Predictions(), {}
    variants = _VARIANTS | {kind: _VARIANTS["cada_paper"] | changes for kind, changes in ABLATIONS.items()}
    for kind, variant in variants.items():
        if kind not in kinds:
            continue
        data = _training_images(recorder.data) if kind == "cada_paper" or kind in ABLATIONS else recorder.data
        started = time.perf_counter()
        calibrations[kind] = recorder.levels if kind == DEFAULT else fit_calibration(data, replace(options, **variant))
        predictions.seconds[kind] = time.perf_counter() - started
        predictions.parts[kind] = []
    tap = FeatureTap()
    find_feature_layer(model).register_forward_hook(tap)

    def predict(size: int, categories: list[str]) -> None:
        features = tap.take(size)
        for kind, calibration in calibrations.items():
            predictions.parts[kind].append(calibration(features, categories))

    return predictions, predict


def _training_images(data: CalibrationData) -> CalibrationData:
    """Select the images that were not held out."""
    trained = ~data.unseen
    return CalibrationData(
        descriptors=data.descriptors[trained],
        statistics=data.statistics[trained],
        scores=data.scores[trained],
        categories=[name for name, chosen in zip(data.categories or (), trained, strict=True) if chosen],
        unseen=data.unseen[trained],
        maps=None if data.maps is None else data.maps[trained],
    )


def apply(
    kind: str, prediction: NormalScores | None, rows: slice, maps: Tensor, scores: Tensor
) -> tuple[Tensor, Tensor]:
    """Calibrate some test images.

    Args:
        kind (str): Name of the calibration.
        prediction (NormalScores | None): Predictions for all test images; ``None`` does not change maps and scores.
        rows (slice): Indices of the images.
        maps (Tensor): Their anomaly maps ``(B, H, W)``.
        scores (Tensor): Their image scores ``(B,)``.

    Returns:
        tuple[Tensor, Tensor]: Calibrated maps ``(B, H, W)`` and image scores ``(B,)``.
    """
    if prediction is None:
        return maps, scores
    part = NormalScores(*(values[rows] for values in prediction))
    source: ScoreSource = "model" if kind in {DEFAULT, ORACLE} else "top"
    output = calibrate(InferenceBatch(scores, anomaly_map=maps), part, source)
    if kind not in SCORES:
        return output.anomaly_map, output.pred_score
    pixels = output.anomaly_map.flatten(1)
    return output.anomaly_map, pixels.topk(max(1, int(SCORES[kind] * pixels.shape[1])), dim=1).values.mean(dim=1)


def leakage(statistics: Tensor, labels: Tensor, categories: Sequence[str], prediction: NormalScores) -> float:
    """Measure the leakage of defects into the predicted peak.

    It is the rise of the predicted peak on defective images, as a share of the rise of the true peak, in logarithms.

    Args:
        statistics (Tensor): Mean, maximum and standard deviation of the maps of all test images ``(N, 3)``.
        labels (Tensor): Whether the images are defective ``(N,)``.
        categories (Sequence[str]): Category of each image.
        prediction (NormalScores): Predictions for all test images.

    Returns:
        float: 0 for no leakage, 1 for complete leakage.
    """
    scores = statistics[:, 1].clamp(min=torch.finfo(torch.float32).tiny).log()
    predicted = (prediction.score_offset + prediction.score_scale).log()
    differences = torch.zeros(2)
    for category in set(categories):
        chosen = torch.tensor([name == category for name in categories])
        means = [values[chosen & labels].mean() - values[chosen & ~labels].mean() for values in (predicted, scores)]
        differences += torch.stack(means)
    return float(differences[0] / differences[1])


def statistics_of(maps: Tensor) -> Tensor:
    """Compute mean, maximum and standard deviation ``(B, 3)`` of anomaly maps ``(B, H, W)``."""
    return map_statistics(InferenceBatch(anomaly_map=maps))


def thresholds(recorder: Recorder, rate: float) -> dict[str, float]:
    """Compute thresholds from normal images as ``CadaPostProcessor`` does, without and with calibration.

    Args:
        recorder (Recorder): Recorder of a trained model.
        rate (float): Requested false-alarm rate.

    Returns:
        dict[str, float]: Name of the calibration -> threshold.
    """
    data, levels = recorder.default_data, recorder.levels
    offset, scale = without_own_influence(levels, data)
    calibrated = (data.scores[data.unseen] - offset) / scale
    found = {}
    for kind, values in ((NONE, recorder.data.scores[recorder.data.unseen]), (DEFAULT, calibrated)):
        metric = FalseAlarmThreshold(["pred_score", "gt_label"], false_alarm_rate=rate)
        normal = torch.zeros(len(values), dtype=torch.bool)
        metric.update(ImageBatch(image=torch.zeros(len(values), 3, 1, 1), pred_score=values, gt_label=normal))
        found[kind] = float(metric.compute())
    return found
