"""Makes the pictures of "What to look at first": misses, false alarms and hits of the preset on real products.

    python -m benchmarks.first_look --group a=DIR:pcb,cookie@60 --steps 60

One model per group is trained with its defaults, or for ``--steps`` steps, and tested with a report. The first pictures
of its galleries become ``docs/images/first_look_GROUP.jpg``. Mind the licences of the images.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.image as mpimg
import torch
from benchmarks import protocol
from benchmarks.groups import Group
from benchmarks.models import PRESET, build
from benchmarks.shift import ONCE
from matplotlib.figure import Figure

from anomalib_unias import EvaluationReport
from anomalib_unias.report.gallery import FALSE_ALARMS, HITS, MISSES

TITLES = {MISSES: "worst misses", FALSE_ALARMS: "worst false alarms", HITS: "hits"}
COLUMNS = 3


def draw(gallery: Path) -> Figure:
    """Draw the first pictures of each gallery of a report, with a row for each gallery that is not empty.

    Args:
        gallery (Path): Folder with the pictures.

    Returns:
        Figure: Images and anomaly maps side by side, with the true defects outlined.
    """
    rows = {title: sorted(gallery.glob(f"{name}_*.jpg"))[:COLUMNS] for name, title in TITLES.items()}
    rows = {title: files for title, files in rows.items() if files}
    figure = Figure(figsize=(9, 1.65 * len(rows)), layout="constrained")
    for axes, (title, files) in zip(figure.subplots(len(rows), COLUMNS, squeeze=False), rows.items(), strict=True):
        for panel in axes:
            panel.axis("off")
        for panel, file in zip(axes, files, strict=False):
            panel.imshow(mpimg.imread(file))
        axes[0].set_title(title, loc="left", fontsize=9)
    return figure


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", type=Group.parse, action="append", required=True, help="NAME=DIR[:category,...]")
    parser.add_argument("--steps", type=int, help="length of training; default: that of the preset")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="folder of the pictures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    length = {"max_steps": options.steps} if options.steps else {}
    for group in options.group:
        with TemporaryDirectory() as folder:
            report = EvaluationReport(Path(folder) / "report")
            trained = protocol.train(lambda: build(PRESET), group, 0, {**ONCE, **length, "callbacks": [report]}, folder)
            trained.engine.test(trained.model, datamodule=group.datamodule(0))
            path = options.output / f"first_look_{group.name}.jpg"
            draw(Path(folder) / "report" / "gallery").savefig(path, dpi=90, pil_kwargs={"quality": 80})


if __name__ == "__main__":
    main()
