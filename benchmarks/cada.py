"""Compares calibrations on several models: one model for all products of a group, several seeds.

    python -m benchmarks.cada --group a=DIR:pcb,cookie --group b=DIR:screw,steel --group all=DIR --seeds 0 1 2

Groups, models and resuming are as in :mod:`benchmarks.quality`, but all models are trained without the images that CADA
holds out (a tenth) and tested once: all calibrations are applied to the same anomaly maps. Columns of ``cada.csv``:
``group,model,calibration,seed,category,metric,value``; calibrations:

- ``none``: the model without calibration,
- ``cada``: the default of ``CadaPostProcessor``, without labels,
- ``cada_paper``: the regressor of the paper, with the statistics of the training images,
- ``cada_a``, ``cada_b``: with class labels and the statistics of the held-out images,
- ``oracle``: ``cada`` with the levels of the other normal TEST images of the true category, without
  spreads; an upper bound for levels, not a method.

The metric ``leakage`` measures how far defects leak into the prediction: how far the predicted statistics of defective
images are above those of normal images of their category, as a share of how far the true statistics are above them (0:
no leakage). ``fit_seconds`` is the time to fit the calibration, without running the model. ``cada.md`` has the main
metrics; histograms of the image scores before and after calibration, for the first seed, are beside it.

``threshold.csv`` (``group,model,calibration,rate,seed,category,metric,value``) has false alarms and misses on the test
images at thresholds for a false-alarm rate of 1 and 5 %, from held-out images, with calibration from those it is
fitted to.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from benchmarks import calibrations, protocol
from benchmarks.cada_summary import draw, summarize
from benchmarks.groups import Group
from benchmarks.harness import append, read_table, report
from benchmarks.measured import Measurement, Row
from benchmarks.models import BY_DEFAULT, MODELS, build
from benchmarks.quality import COLUMNS, KEY
from benchmarks.recorded import Recorded, record
from torch import Tensor

FILE = "cada.csv"
RATE_FILE = "threshold.csv"
RATE_COLUMNS = ["group", "model", "calibration", "rate", "seed", "category", "metric", "value"]
_RATES = (0.01, 0.05)


def measure(recorded: Recorded, predictions: calibrations.Predictions, kind: str) -> tuple[list[Row], Tensor]:
    """Compute metrics and image scores with one calibration."""
    prediction = None if kind == calibrations.NONE else predictions.of(kind)
    measurement, scores = Measurement(), []
    for rows, maps, masks in recorded.batches():
        calibrated, score = calibrations.apply(kind, prediction, rows, maps, recorded.scores[rows])
        labels, categories = recorded.labels[rows].tolist(), recorded.categories[rows]
        measurement.add(calibrated, score.tolist(), masks, labels, categories)
        scores.append(score)
    return measurement.rows(), torch.cat(scores)


def rate_rows(
    recorder: calibrations.Recorder, scores: Mapping[str, Tensor], labels: Tensor, categories: Sequence[str]
) -> list[tuple[str, float, str, str, float]]:
    """Compute false alarms and misses at the thresholds for each false-alarm rate."""
    rows = []
    names = np.array(categories)
    for rate in _RATES:
        for kind, threshold in calibrations.thresholds(recorder, rate).items():
            alarms, defective = (scores[kind] > threshold).numpy(), labels.numpy()
            for category in (*sorted(set(categories)), "mixed"):
                chosen = (names == category) | (category == "mixed")
                rows.append((kind, rate, category, "false_alarm_rate", float(alarms[chosen & ~defective].mean())))
                rows.append((kind, rate, category, "miss_rate", float(1 - alarms[chosen & defective].mean())))
    return rows


@dataclass(frozen=True)
class Calibrated:
    """A model that was trained once and tested with several calibrations.

    Args:
        rows (pd.DataFrame): ``calibration,category,metric,value``.
        scores (dict[str, Tensor]): Image scores ``(N,)`` by calibration.
        labels (Tensor): Whether an image is defective ``(N,)``.
        categories (Sequence[str]): Category of each image.
        recorder (calibrations.Recorder): Recorded data of the calibration images.
    """

    rows: pd.DataFrame
    scores: dict[str, Tensor]
    labels: Tensor
    categories: Sequence[str]
    recorder: calibrations.Recorder


def calibrate(
    group: Group, name: str, seed: int, length: Mapping[str, Any], kinds: Sequence[str] = calibrations.KINDS
) -> Calibrated:
    """Train one model, and test it with several calibrations."""
    found: list[tuple[str, str, str, float]] = []
    scores: dict[str, Tensor] = {}
    with TemporaryDirectory() as folder:
        trained = protocol.train(
            lambda: build(name, post_processor=calibrations.Recorder(seed), evaluator=False),
            group,
            seed,
            length,
            folder,
        )
        recorder = trained.model.post_processor
        seconds = recorder.seconds
        predictions, predict = calibrations.prepare(trained.model, kinds)
        recorded = record(trained.model, group, seed, Path(folder), predict)
        statistics = torch.cat([calibrations.statistics_of(maps) for _, maps, _ in recorded.batches()])
        labels, categories = recorded.labels, recorded.categories
        predictions.set_oracle(recorder.levels, statistics[:, 1], recorded.scores, labels, categories)
        for kind in kinds:
            rows, scores[kind] = measure(recorded, predictions, kind)
            if kind in predictions.seconds:
                rows.append(("mixed", "fit_seconds", predictions.seconds[kind]))
            if kind != calibrations.NONE:
                leakage = calibrations.leakage(statistics, labels, categories, predictions.of(kind))
                rows.append(("mixed", "leakage", leakage))
            found += [(kind, *row) for row in rows]
            values = {(category, metric): value for category, metric, value in rows}
            report(
                f"{kind}: mixed image AUROC {values['mixed', 'image_auroc']:.3f}, "
                f"pixel AP {values['mixed', 'pixel_ap']:.3f}"
            )
        for category, metric, value in trained.cost_rows():
            # The time of the calibration is not training time.
            found.append(("none", category, metric, value - seconds if metric == "train_seconds" else value))
    table = pd.DataFrame(found, columns=["calibration", "category", "metric", "value"])
    return Calibrated(table, scores, labels, categories, recorder)


def run(group_name: str, name: str, seed: int, options: argparse.Namespace) -> None:
    """Train and test one model, and append the rows of all calibrations."""
    path = options.output / FILE
    length = protocol.length(name, options, read_table(path, COLUMNS), group_name, seed)
    found = calibrate(protocol.groups_of(options)[group_name], name, seed, length)
    scores, labels, categories = found.scores, found.labels, found.categories
    rates = pd.DataFrame(
        rate_rows(found.recorder, scores, labels, categories),
        columns=["calibration", "rate", "category", "metric", "value"],
    )
    append(options.output / RATE_FILE, rates.assign(group=group_name, model=name, seed=seed)[RATE_COLUMNS])
    append(path, found.rows.assign(group=group_name, model=name, seed=seed)[COLUMNS])
    if seed == options.seeds[0]:
        shown = {kind: scores[kind] for kind in (calibrations.NONE, calibrations.DEFAULT)}
        draw(name, shown, labels, categories, options.output / f"cada_{group_name}_{name}.png")


def main() -> None:
    """Command line."""
    table = protocol.Table("benchmarks.cada", FILE, COLUMNS, KEY)
    models, by_default = ([name for name in names if name != "patchcore_10"] for names in (MODELS, BY_DEFAULT))
    protocol.command(__doc__, table, models, run, summarize, by_default)


if __name__ == "__main__":
    main()
