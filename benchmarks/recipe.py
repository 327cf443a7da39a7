"""Quality of variants of the lite preset: one model for all categories, several seeds.

    python -m benchmarks.recipe --data DIR --variant "" --variant feature_scaling=none --seeds 0 1 2 --steps 200

DIR holds categories in the layout of MVTec AD. A variant is a list of constructor arguments, ``name=value;...``, that
replace those of ``configs/model/unias_lite.yaml``; the empty one is the preset itself. Each run is appended to the
output as soon as it is done, and not repeated if it is there. Columns: ``variant,steps,seed,category,metric,value``;
the category ``mean`` is the mean of the categories, ``mixed`` their joint set; ``train_seconds`` is the wall time of
training without validation. A summary is written beside it as Markdown.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
import yaml
from anomalib.engine import Engine
from benchmarks.preset import lite_arguments
from lightning.pytorch import Callback, seed_everything

from anomalib_unias import UniAS, UnifiedDataModule

SHOWN = ("image_auroc", "pixel_ap", "dsc_best_f1", "train_seconds")
COLUMNS = ["variant", "steps", "seed", "category", "metric", "value"]


class TrainingTime(Callback):
    """Wall time of training: frozen features, feature scales and all steps, without validation."""

    def __init__(self) -> None:
        self.started = 0.0
        self.seconds = 0.0

    def on_fit_start(self, *_: object) -> None:
        """Start; callbacks come before the model, which computes its frozen features then."""
        self.started = time.perf_counter()

    def on_train_batch_end(self, *_: object) -> None:
        """Take the time: validation comes after the last batch."""
        self.seconds = time.perf_counter() - self.started


def run(variant: str, steps: int, seed: int, data: Path) -> pd.DataFrame:
    """Train and test one variant."""
    arguments = lite_arguments() | {
        name: yaml.safe_load(value) for name, value in (part.split("=") for part in variant.split(";") if part)
    }
    seed_everything(seed, workers=True)
    model = UniAS(**arguments, visualizer=False)
    datamodule = UnifiedDataModule("MVTecAD", "all", root=data, train_batch_size=8, eval_batch_size=16, num_workers=0)
    timer = TrainingTime()
    with TemporaryDirectory() as folder:
        # Thresholds are not compared here, so nothing is validated.
        engine = Engine(
            default_root_dir=folder,
            accelerator="cpu",
            devices=1,
            max_steps=steps,
            callbacks=[timer],
            limit_val_batches=0,
        )
        engine.fit(model, datamodule=datamodule)
        engine.test(model, datamodule=datamodule)
    rows = model.evaluator.results.copy()
    rows.loc[len(rows)] = {"category": "mixed", "metric": "train_seconds", "value": timer.seconds}
    return rows.assign(variant=variant or "preset", steps=steps, seed=seed)[COLUMNS]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--variant", action="append", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/recipe.csv"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    done = pd.read_csv(options.output) if options.output.exists() else pd.DataFrame(columns=COLUMNS)
    finished = set(zip(done["variant"], done["steps"], done["seed"], strict=True))
    for seed in options.seeds:
        for variant in options.variant:
            if (variant or "preset", options.steps, seed) not in finished:
                rows = run(variant, options.steps, seed, options.data)
                rows.to_csv(options.output, mode="a", header=not options.output.exists(), index=False)
    summarize(options.output)


def summarize(output: Path) -> None:
    """Write mean and spread over the seeds as Markdown beside the table."""
    done = pd.read_csv(output)
    shown = done[done["category"].isin(["mean", "mixed"]) & done["metric"].isin(SHOWN)]
    found = shown.groupby(["steps", "variant", "category", "metric"], sort=False)["value"].agg(["mean", "std", "count"])
    texts = found.apply(lambda row: f"{row['mean']:.3g} ± {row['std']:.2g}", axis=1).unstack(["category", "metric"])
    texts.insert(0, "seeds", found["count"].groupby(["steps", "variant"], sort=False).max())
    texts.columns = [" ".join(column).strip() for column in texts.columns]
    path = output.with_suffix(".md")
    path.write_text(texts.reset_index().to_markdown(index=False) + "\n")
    print(path.read_text())
    print(f"Written to {output} and {path}")


if __name__ == "__main__":
    main()
