"""Makes the ablation of the CADA paper: layers and dropout of its regressor, and image scores.

    python -m benchmarks.paper_cada_ablation --group a=DIR:pcb,cookie --group b=DIR:screw,steel --seeds 0 1 2

Groups, detectors and their training are as in :mod:`benchmarks.paper_cada`; by default it is Reverse Distillation as in
the paper. All calibrations are applied to the same anomaly maps. Columns of ``paper_cada_ablation.csv`` are those of
``quality.csv``; ``calibration`` is ``none``, ``cada_paper`` (1 convolution, 2 linear layers, dropout 0.25, and as image
score the mean of the top 1 % of the pixels), ``cada_a``, ``cada_b``, or a change of ``cada_paper``. The paper has these
numbers for Reverse Distillation on MVTec AD, image AUROC of all images together:

| none | 1, 2, 3 linear layers | 1, 2 convolutions | dropout 0, .25, .5, .75 | maximum, top 0.1, 1, 2 % | CaDA-A, -B |
|---|---|---|---|---|---|
| 85.0 | 96.0, 96.9, 97.1 | 98.0, 97.3 | 97.5, 98.0, 97.7, 97.6 | 97.3, 97.8, 98.0, 97.4 | 97.3, 97.3 |
"""

from functools import partial

from benchmarks import protocol
from benchmarks.cada_summary import summarize
from benchmarks.calibrations import ABLATIONS, NONE, SCORES
from benchmarks.models import ONE_PASS
from benchmarks.paper_cada import MODELS, run
from benchmarks.quality import COLUMNS, KEY

CALIBRATIONS = (NONE, "cada_paper", "cada_a", "cada_b", *ABLATIONS, *SCORES)
FILE = "paper_cada_ablation.csv"


def main() -> None:
    """Command line."""
    table = protocol.Table("benchmarks.paper_cada_ablation", FILE, COLUMNS, KEY)
    summary = partial(summarize, name="paper_cada_ablation", metrics=("image_auroc", "pixel_ap"))
    one = partial(run, calibrations=CALIBRATIONS, file=FILE)
    protocol.command(__doc__, table, (*MODELS, *ONE_PASS), one, summary, ("reverse_distillation",))


if __name__ == "__main__":
    main()
