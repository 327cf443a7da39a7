"""Makes the table of the CADA paper: its three detectors without and with CADA, one model for all products of a group.

    python -m benchmarks.paper_cada --group a=DIR:pcb,cookie --group b=DIR:screw,steel --group all=DIR --seeds 0 1 2

The detectors are UniAD, Reverse Distillation and ReContrast on EfficientNet-Lite0 at 224x224, in batches of 8. The
presets are trained for their default number of steps, Reverse Distillation for as many as ReContrast, with which it
shares bottleneck and decoder; ``--steps`` sets the length of all three. None of them is trained on the tenth of the
images that CADA holds out. Each is tested once: the calibrations are applied to the same anomaly maps. A group, model
and seed that is in the table is not run again. Columns of ``paper_cada.csv`` are those of ``quality.csv``;
calibrations:

- ``none``: the model without calibration,
- ``cada_paper``: the regressor of the paper, with the statistics of the training images,
- ``cada``: the default of ``CadaPostProcessor``.

``paper_cada.md`` has the metrics of the paper: AUROC and AP of images (detect) and pixels (localise), for the joint set
(``mixed``) and as the mean of the products (``mean``). The paper's numbers are for other data and for the published
model sizes:

| AUROC/AP on MVTec AD | UniAD | RevDist | ReContrast | all three with CADA |
|---|---|---|---|---|
| detect, mean | 97.1/99.0 | 97.8/99.1 | 98.5/99.4 | 97.2/99.1, 98.2/99.2, 98.7/99.5 |
| detect, mixed | 91.4/97.0 | 85.0/94.4 | 90.7/96.8 | 95.7/98.4, 98.0/99.3, 98.6/99.5 |
| localise, mean | 97.1/53.1 | 96.4/58.1 | 97.6/60.8 | 97.0/52.7, 96.1/57.0, 97.8/61.3 |
| localise, mixed | 96.4/51.1 | 94.5/49.0 | 96.8/56.3 | 96.1/50.9, 95.6/53.1, 97.2/57.2 |
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks import protocol
from benchmarks.cada import calibrate
from benchmarks.cada_summary import summarize
from benchmarks.harness import append
from benchmarks.quality import COLUMNS, KEY

from anomalib_unias.models.recontrast.lite import RECONTRAST_LITE

MODELS = ("uniad_lite", "reverse_distillation", "recontrast_lite")
CALIBRATIONS = ("none", "cada_paper", "cada")
METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap")
FILE = "paper_cada.csv"


def length(name: str, steps: int | None) -> dict[str, Any]:
    """Get the length of a model's training.

    Args:
        name (str): One of :data:`MODELS`.
        steps (int | None): Requested number of steps.

    Returns:
        dict[str, Any]: Arguments of the trainer; empty for a preset that is trained for its default number of steps.
    """
    if steps is None and name == "reverse_distillation":
        steps = RECONTRAST_LITE["training_steps"]
    return {} if steps is None else {"max_steps": steps, "max_epochs": -1}


def run(
    group_name: str,
    name: str,
    seed: int,
    options: argparse.Namespace,
    calibrations: Sequence[str] = CALIBRATIONS,
    file: str = FILE,
) -> None:
    """Train and test one model, and append its rows to a file."""
    group = protocol.groups_of(options)[group_name]
    found = calibrate(group, name, seed, length(name, options.steps), calibrations)
    append(options.output / file, found.rows.assign(group=group_name, model=name, seed=seed)[COLUMNS])


def main() -> None:
    """Command line."""
    table = protocol.Table("benchmarks.paper_cada", FILE, COLUMNS, KEY)
    protocol.command(__doc__, table, MODELS, run, partial(summarize, name="paper_cada", metrics=METRICS))


if __name__ == "__main__":
    main()
