"""Runs the preset, PatchCore and Reverse Distillation with anomalib's own ``benchmark`` pipeline, unchanged.

    python -m benchmarks.stock_pipeline --group b=DIR:screw,steel --group a=DIR:pcb,cookie --seeds 0 1 2

The configuration is ``configs/benchmark/products.yaml``, with the images of a group instead of its folder, and with two
models that replace stock ones: ``QuickPatchcore`` chooses the patches of PatchCore in a tenth of the time, and
``LiteReverseDistillation`` has the backbone of the other two, whose weights come with a Python package. The pipeline
writes its table only at its end; therefore each group, seed and model is a separate pipeline, so that nothing is lost.

Columns of ``stock_pipeline.csv``: ``group,model,seed,category,metric,value``; ``fit_seconds`` is the training time.
``stock_pipeline.md`` shows the means beside those of ``quality.csv``, which come from a Python program with the Engine.
"""

import argparse
import os
import re
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import yaml
from anomalib.pipelines import Benchmark
from benchmarks import protocol
from benchmarks.groups import Group
from benchmarks.harness import append, read_table, report
from benchmarks.measured import METRICS
from benchmarks.models import QuickPatchcore
from benchmarks.quality import COLUMNS as QUALITY_COLUMNS
from benchmarks.quality_summary import SHOWN, heading, spread
from benchmarks.reverse_distillation import LiteReverseDistillation

from anomalib_unias.metrics.unified_results import GAP

COLUMNS = ["group", "model", "seed", "category", "metric", "value"]
KEY = ["group", "model", "seed"]
FILE = "stock_pipeline.csv"
CONFIG = Path(__file__).parents[1] / "configs" / "benchmark" / "products.yaml"

# Name in the tables -> model in the configuration, model that replaces it, and the arguments of the latter.
_MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "unias_lite": ("UniASLite", "UniASLite", {}),
    "patchcore": ("Patchcore", QuickPatchcore.__name__, {}),
    "reverse_distillation": (
        "ReverseDistillation",
        LiteReverseDistillation.__name__,
        {"pre_processor": {"image_size": [224, 224], "mean": [0.5] * 3, "std": [0.5] * 3}},
    ),
}


def configuration(group: Group, name: str, seed: int) -> dict[str, Any]:
    """Make the configuration of the pipeline for one run.

    Args:
        group (Group): Group whose images are used.
        name (str): Name of the model in the tables.
        seed (int): Seed.

    Returns:
        dict[str, Any]: The shipped configuration, for one model and seed, and these images.
    """
    content: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    benchmark = content["benchmark"]
    stock, model, extra = _MODELS[name]
    arguments = {**benchmark["model"]["init_args"]["arguments_of"].get(stock, {}), **extra}
    if stock == "ReverseDistillation":
        del arguments["backbone"]
    benchmark["seed"] = seed
    benchmark["model"]["init_args"] = {"model": model, "arguments_of": {model: arguments}}
    benchmark["data"]["init_args"] |= {**group.arguments(), "seed": seed}
    return content


def run(group_name: str, name: str, seed: int, options: argparse.Namespace) -> None:
    """Run the pipeline for one model, and append its rows."""
    group = protocol.groups_of(options)[group_name]
    output = options.output.resolve() / FILE
    content = configuration(group, name, seed)
    before = Path.cwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            Path("benchmark.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
            Benchmark().run(Namespace(config="benchmark.yaml"))
            (path,) = Path("runs").glob("benchmark/*/results.csv")
            result = pd.read_csv(path).iloc[0]
        finally:
            os.chdir(before)
    append(output, rows_of(result).assign(group=group_name, model=name, seed=seed)[COLUMNS])
    report(f"image AUROC {result['mean_image_auroc']:.3f}, pixel AP {result['mean_pixel_ap']:.3f}")


def rows_of(result: pd.Series) -> pd.DataFrame:
    """Make the rows of one run.

    Args:
        result (pd.Series): Row that the pipeline has written, e.g. with ``mean_pixel_ap`` and ``screw/pixel_ap``.

    Returns:
        pd.DataFrame: Columns ``category``, ``metric``, ``value``.
    """
    rows = [("mixed", "fit_seconds", result["fit_duration"])]
    for column in result.index:
        found = re.fullmatch(rf"(.+)[_/]({'|'.join(METRICS)})", column)
        if found and found[1] != GAP:
            rows.append((found[1], found[2], result[column]))
    return pd.DataFrame(rows, columns=["category", "metric", "value"])


def summarize(table: pd.DataFrame, output: Path) -> None:
    """Write the means over the seeds, beside those of ``quality.csv``.

    Args:
        table (pd.DataFrame): Rows of ``stock_pipeline.csv``.
        output (Path): Folder of the results.
    """
    quality = read_table(output / "quality.csv", QUALITY_COLUMNS)
    parts = [heading()]
    for group in sorted(table["group"].unique(), reverse=True):
        for scope in ("mean", "mixed"):
            shown = []
            for source, rows in (("stock pipeline", table), ("benchmarks.quality", quality)):
                chosen = (rows["group"] == group) & (rows["category"] == scope) & rows["model"].isin(_MODELS)
                chosen &= rows["metric"].isin(SHOWN)
                shown.append(rows[chosen].assign(run=rows["model"] + ", " + source))
            both = pd.concat(shown).sort_values(["model", "seed"], kind="stable")
            parts.append(f"## Group {group}, {scope}\n\n{spread(both, 'run', 'metric', SHOWN)}")
    (output / "stock_pipeline.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    table = protocol.Table("benchmarks.stock_pipeline", FILE, COLUMNS, KEY)
    protocol.command(__doc__, table, tuple(_MODELS), run, summarize)


if __name__ == "__main__":
    main()
