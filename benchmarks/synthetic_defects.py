"""Compares the sizes of synthetic and real defects, and draws thirty synthetic ones.

    python -m benchmarks.synthetic_defects --group a=DIR:pcb,cookie --group b=DIR:screw,steel

Synthetic defects are made on the normal training images of a group. Columns of ``synthetic_defects.csv``:
``group,kind,quantile,share``; ``share`` is the share of an image that the defect covers, at some quantiles of all
defective images; the kind is ``real`` or ``synthetic``. The figure ``synthetic_defects.png`` shows the built-in
products.
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from benchmarks.groups import BUILT_IN, Group

from anomalib_unias.data.synthetic_defects import SyntheticDefects

SIZE = (224, 224)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
ROWS, COLUMNS = 5, 6


def sizes(group: Group, count: int) -> list[tuple[str, str, float, float]]:
    """Make the rows of the table for one group."""
    datamodule = group.datamodule(seed=0)
    datamodule.prepare_data()
    datamodule.setup()
    pairs = SyntheticDefects(datamodule.train_data, SIZE, count)
    real = [item.gt_mask.float().mean().item() for item in datamodule.test_data if item.gt_label]
    synthetic = [pairs[index].mask.float().mean().item() for index in range(count)]
    return [
        (group.name, kind, quantile, float(np.quantile(shares, quantile)))
        for kind, shares in (("real", real), ("synthetic", synthetic))
        for quantile in QUANTILES
    ]


def draw(path: Path) -> None:
    """Draw thirty outlined defects on the built-in products."""
    datamodule = BUILT_IN.datamodule(seed=0)
    datamodule.prepare_data()
    datamodule.setup()
    pairs = SyntheticDefects(datamodule.train_data, SIZE, ROWS * COLUMNS, seed=1)
    figure, axes = plt.subplots(ROWS, COLUMNS, figsize=(1.6 * COLUMNS, 1.6 * ROWS))
    for index, axis in enumerate(axes.flat):
        pair = pairs[index]
        axis.imshow(pair.image.movedim(0, -1))
        if pair.mask.any():
            axis.contour(pair.mask, [0.5], colors="red", linewidths=0.7)
        axis.axis("off")
    figure.tight_layout(pad=0.2)
    figure.savefig(path, dpi=60)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", type=Group.parse, action="append", help="NAME=DIR[:category,...]")
    parser.add_argument("--count", type=int, default=400, help="synthetic defects of a group")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    mpl.use("Agg")
    table = options.output / "synthetic_defects.csv"
    rows = [row for group in options.group or [BUILT_IN] for row in sizes(group, options.count)]
    pd.DataFrame(rows, columns=["group", "kind", "quantile", "share"]).to_csv(table, index=False, float_format="%.4f")
    draw(table.with_suffix(".png"))
    print(f"Written to {table} and {table.with_suffix('.png')}")


if __name__ == "__main__":
    main()
