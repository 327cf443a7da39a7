"""Quality of models of several kinds, one model for all categories, with and without calibration, several seeds.

    python -m benchmarks.quality --root DIR --seeds 0 1 2

DIR holds categories in the layout of MVTec AD; without it the built-in products are taken. Each model is trained once
per seed, on all normal images but those that CADA holds out (a tenth, for all models alike), and tested once; all
calibrations are applied to the same anomaly maps. All models see images of 224x224 through EfficientNet-Lite0 with
ImageNet weights. A model and seed that is in the output is not run again. Columns:
``model,calibration,seed,category,metric,value``. ``quality.csv`` has the models as they are, and UniAS with CADA;
``cada.csv`` all calibrations:

- ``none``: the model as it is,
- ``cada_a``, ``cada_b``: with class labels, statistics of the held-out images,
- ``cada``: the default of ``CadaPostProcessor``, without labels,
- ``cada_regressor``, with ``--regressor``: that of the paper with the statistics of the training images,
- ``oracle``: each image with the statistics of the other normal TEST images of its true category; an upper bound for
  methods that know one pair of statistics for each category, not a method.

The category ``mean`` is the mean of the categories, ``mixed`` their joint set. ``train_seconds`` includes frozen
features, ``peak_mb`` is that of the process, ``latency_ms`` that of the network in PyTorch for one image, ``size_mb``
its weights and memory banks. ``following`` is how far the predicted statistics of defective images are above those of
normal ones of their category, as a share of how far their own statistics are above them (0: does not follow defects at
all). ``fit_seconds`` is the time to fit the calibration, without running the model. Pictures of the image scores before
and after are written beside the tables.
"""

import argparse
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from anomalib import __version__ as anomalib_version
from anomalib.data import InferenceBatch
from anomalib.engine import Engine
from anomalib.models import Padim, Patchcore, Stfpm, Supersimplenet
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from benchmarks.metrics_memory import memory_mb
from benchmarks.preset import BACKBONE, LAYERS, lite_arguments
from benchmarks.reverse_distillation import LiteReverseDistillation
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_unias import CadaPostProcessor, UniAS, UnifiedDataModule
from anomalib_unias.backbones import register_backbones
from anomalib_unias.metrics import PixelMetrics
from anomalib_unias.metrics.unified import unified_metrics
from anomalib_unias.models.unias.components.prototypes import BoundedKCenterGreedy
from anomalib_unias.post_processing.calibration import Calibration, Prediction, calibrate
from anomalib_unias.post_processing.calibration_data import CalibrationData, map_statistics
from anomalib_unias.post_processing.encoders import FeatureTap, find_feature_layer
from anomalib_unias.post_processing.fitting import CalibrationOptions, fit_calibration

COLUMNS = ["model", "calibration", "seed", "category", "metric", "value"]
SIZE = (224, 224)
BUILT_IN = {"datamodule": "SyntheticProducts", "datamodule_args": {"test_good": 40, "test_defective": 40}}


class Recorder(CadaPostProcessor):
    """Keeps what the calibration was fitted to."""

    data: CalibrationData
    seconds = 0.0

    def on_train_end(self, trainer: Trainer, pl_module: AnomalibModule) -> None:
        """Fit, and take the time."""
        started = time.perf_counter()
        super().on_train_end(trainer, pl_module)
        self.seconds = time.perf_counter() - started

    def fit(self, data: CalibrationData) -> Calibration:
        """Fit, and keep the data."""
        self.data = data
        return super().fit(data)


@dataclass
class Tested:
    """Test images and what the model makes of them, without calibration."""

    maps: Tensor
    scores: Tensor
    masks: Tensor
    labels: Tensor
    categories: list[str]
    features: list[list[Tensor]]

    def of(self, category: str) -> Tensor:
        """Images of a category."""
        return torch.tensor([c == category for c in self.categories])

    def normal_of(self, category: str) -> Tensor:
        """Normal images of a category."""
        return self.of(category) & ~self.labels


def build(name: str, post_processor: CadaPostProcessor, coreset: float) -> AnomalibModule:
    """A model by its name in the table."""
    rest = {"post_processor": post_processor, "evaluator": False, "visualizer": False}
    if name == "unias_lite":
        return UniAS(**lite_arguments(), **rest)
    normalize = Normalize(mean=[0.5] * 3, std=[0.5] * 3)
    rest["pre_processor"] = PreProcessor(Compose([Resize(SIZE, antialias=True), normalize]))
    if name == "patchcore":
        return QuickPatchcore(backbone=BACKBONE, layers=LAYERS, coreset_sampling_ratio=coreset, **rest)
    if name == "padim":
        return Padim(backbone=BACKBONE, layers=LAYERS, n_features=100, **rest)
    if name == "stfpm":
        return Stfpm(backbone=BACKBONE, layers=["blocks.1", *LAYERS], **rest)
    if name == "supersimplenet":
        return Supersimplenet(backbone=BACKBONE, layers=LAYERS, **rest)
    return LiteReverseDistillation(**rest)


TRAINED = ("unias_lite", "stfpm", "supersimplenet", "reverse_distillation")
MODELS = ("unias_lite", "patchcore", "padim", "stfpm", "supersimplenet", "reverse_distillation")
METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "dsc", "dsc_best_f1", "aupro")


class QuickPatchcore(Patchcore):
    """Chooses the patches that anomalib's coreset would, by distances that need no copy of all patches.

    Anomalib 2.7.0 copies all patches for every one that it chooses.
    """

    def fit(self) -> None:
        """Choose the memory bank."""
        patches = torch.vstack(self.model.embedding_store)
        self.model.embedding_store.clear()
        coreset = BoundedKCenterGreedy(patches, int(len(patches) * self.coreset_sampling_ratio)).sample_coreset()
        self.model.memory_bank = coreset.flatten(1)


def train(
    name: str, seed: int, options: argparse.Namespace, datamodule: UnifiedDataModule
) -> tuple[AnomalibModule, float]:
    """Train a base model, and tell the seconds; its calibration is fitted too, but not used."""
    seed_everything(seed, workers=True)
    # CaDA-B keeps feature maps, from which all others can be fitted too; few steps, for it is fitted again below.
    model = build(name, Recorder(variant="cada_b", max_steps=1, seed=seed), options.coreset)
    length = {"max_steps": options.steps, "max_epochs": -1} if name in TRAINED else {"max_epochs": 1}
    with TemporaryDirectory() as folder:
        engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, limit_val_batches=0, **length)
        started = time.perf_counter()
        engine.fit(model, datamodule=datamodule)
        seconds = time.perf_counter() - started - model.post_processor.seconds
    return model.eval(), seconds


def test(model: AnomalibModule, datamodule: UnifiedDataModule) -> Tested:
    """Run a model on the test images without calibration."""
    model.post_processor.calibration = None
    tap = FeatureTap()
    handle = find_feature_layer(model).register_forward_hook(tap)
    maps, scores, masks, labels, categories, features = [], [], [], [], [], []
    with torch.no_grad():
        for batch in datamodule.test_dataloader():
            images, mask = model.pre_processor.transform(batch.image, batch.gt_mask)
            tap.clear()
            output = model.model(images)
            features.append(tap.take(len(images)))
            maps.append(output.anomaly_map.reshape(len(images), *output.anomaly_map.shape[-2:]).float())
            scores.append(output.pred_score.flatten().float())
            masks.append(mask.bool())
            labels.append(batch.gt_label.bool())
            categories += batch.category
    handle.remove()
    return Tested(*map(torch.cat, (maps, scores, masks, labels)), categories, features)


def predict(calibration: Calibration, tested: Tested) -> Prediction:
    """Predictions for all test images."""
    parts, first = [], 0
    with torch.no_grad():
        for features in tested.features:
            parts.append(calibration(features, tested.categories[first : first + len(features[0])]))
            first += len(features[0])
    return Prediction(*map(torch.cat, zip(*parts, strict=True)))


def oracle(tested: Tested) -> Prediction:
    """Statistics of the other normal test images of the true category."""
    statistics = map_statistics(InferenceBatch(anomaly_map=tested.maps))[:, :2]
    rows = []
    for index, category in enumerate(tested.categories):
        others = tested.normal_of(category)
        others[index] = False
        rows.append(statistics[others].mean(dim=0))
    level, peak = torch.stack(rows).unbind(dim=1)
    return Prediction(level, peak - level, torch.zeros(len(rows), dtype=torch.bool))


def metrics(tested: Tested, maps: Tensor, scores: Tensor) -> dict[tuple[str, str], float]:
    """Metrics of each category, their mean, and the joint set."""
    tables = {}
    for category in sorted(set(tested.categories)):
        pixels = PixelMetrics()
        pixels.update(maps[tested.of(category)], tested.masks[tested.of(category)])
        tables[category] = pixels.table()
    images = pd.DataFrame({"category": tested.categories, "label": tested.labels, "score": scores, "predicted": np.nan})
    found = unified_metrics(images, tables, fpr_limit=0.3, max_rows=2**17)
    found = found[found["metric"].isin(METRICS) & (found["category"] != "gap")]
    return {(row.category, row.metric): row.value for row in found.itertuples()}


def latency_ms(model: AnomalibModule, runs: int = 20) -> float:
    """Median time of the network for one image."""
    seconds = []
    with torch.no_grad():
        for _ in range(runs):
            started = time.perf_counter()
            model.model(torch.rand(1, 3, *SIZE))
            seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def cost(model: AnomalibModule, seconds: float) -> list[tuple[str, str, str, float]]:
    """What a trained model has cost, and costs."""
    size = sum(tensor.nbytes for tensor in model.model.state_dict().values()) / 1e6
    peak = memory_mb("VmHWM")
    values = {"train_seconds": seconds, "peak_mb": peak, "size_mb": size, "latency_ms": latency_ms(model)}
    return [("none", "mixed", metric, value) for metric, value in values.items()]


def following(tested: Tested, prediction: Prediction) -> float:
    """How much of the rise of the peak on defective images the predicted peak follows, in logarithms."""
    own = map_statistics(InferenceBatch(anomaly_map=tested.maps))[:, 1].log()
    predicted = (prediction.level + prediction.height).log()
    moves = torch.zeros(2)
    for category in set(tested.categories):
        normal = tested.normal_of(category)
        defective = tested.of(category) & tested.labels
        moves += torch.stack([values[defective].mean() - values[normal].mean() for values in (predicted, own)])
    return float(moves[0] / moves[1])


def run(name: str, seed: int, options: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, Tensor], Tested]:
    """Train and test one model, and apply all calibrations."""
    data = {"datamodule": "MVTecAD", "root": options.root} if options.root else BUILT_IN
    datamodule = UnifiedDataModule(**data, train_batch_size=8, eval_batch_size=16, num_workers=0, seed=seed)
    model, seconds = train(name, seed, options, datamodule)
    rows = cost(model, seconds)
    tested = test(model, datamodule)
    recorder = model.post_processor
    fitted = replace(recorder.options(), max_steps=5000)
    kinds: dict[str, tuple[CalibrationData, CalibrationOptions]] = {
        "cada_a": (recorder.data, replace(fitted, variant="cada_a")),
        "cada_b": (recorder.data, replace(fitted, variant="cada_b")),
        "cada": (recorder.data, replace(fitted, variant="cada", predictor="neighbors")),
    }
    if options.regressor:
        training = replace(recorder.data, unseen=torch.zeros_like(recorder.data.unseen))
        kinds["cada_regressor"] = (training, replace(fitted, variant="cada", predictor="regressor"))
    scores = {"none": tested.scores}
    rows += [("none", *key, value) for key, value in metrics(tested, tested.maps, tested.scores).items()]
    for kind in (*kinds, "oracle"):
        if kind == "oracle":
            prediction = oracle(tested)
        else:
            started = time.perf_counter()
            calibration = fit_calibration(*kinds[kind])
            rows.append((kind, "mixed", "fit_seconds", time.perf_counter() - started))
            prediction = predict(calibration, tested)
        output = calibrate(InferenceBatch(tested.scores, anomaly_map=tested.maps), prediction, "top")
        scores[kind] = output.pred_score
        rows += [(kind, *key, value) for key, value in metrics(tested, output.anomaly_map, output.pred_score).items()]
        rows.append((kind, "mixed", "following", following(tested, prediction)))
    table = pd.DataFrame(rows, columns=["calibration", "category", "metric", "value"])
    return table.assign(model=name, seed=seed)[COLUMNS], scores, tested


def draw(name: str, scores: dict[str, Tensor], tested: Tested, path: Path) -> None:
    """Histograms of image scores before and after, one row for each category."""
    categories = sorted(set(tested.categories))
    shown = ("none", "cada")
    figure, axes = plt.subplots(len(categories), len(shown), sharex="col", figsize=(8, 1.2 * len(categories) + 1))
    for row, category in zip(axes, categories, strict=True):
        chosen = tested.of(category)
        for axis, kind in zip(row, shown, strict=True):
            bins = torch.linspace(scores[kind].min(), scores[kind].quantile(0.98), 40).tolist()
            for label, colour in ((False, "tab:blue"), (True, "tab:red")):
                axis.hist(scores[kind][chosen & (tested.labels == label)].tolist(), bins, color=colour, alpha=0.6)
            axis.set_yticks([])
        row[0].set_ylabel(category)
    axes[0][0].set_title(f"{name}: image score without calibration")
    axes[0][1].set_title("with CADA")
    figure.legend(["normal", "defective"], loc="lower center", ncol=2)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run_and_save(name: str, seed: int, options: argparse.Namespace) -> None:
    """Append one model and seed to both tables."""
    rows, scores, tested = run(name, seed, options)
    shown = (rows["calibration"] == "none") | ((rows["calibration"] == "cada") & (name == "unias_lite"))
    for file, part in (("quality.csv", rows[shown & (rows["metric"] != "following")]), ("cada.csv", rows)):
        path = options.output / file
        part.to_csv(path, mode="a", header=not path.exists(), index=False)
    if seed == options.seeds[0]:
        draw(name, scores, tested, options.output / f"cada_{name}.png")


def draw_quality(table: pd.DataFrame, path: Path) -> None:
    """Bars of the main metrics, mean of the categories and joint set, with the standard deviation over the seeds."""
    metrics_shown = ("image_auroc", "pixel_ap", "dsc_best_f1")
    figure, axes = plt.subplots(1, len(metrics_shown), figsize=(12, 4), sharey=True)
    for axis, metric in zip(axes, metrics_shown, strict=True):
        part = table[(table["metric"] == metric) & table["category"].isin(["mean", "mixed"])]
        name = part["model"] + part["calibration"].map({"none": "", "cada": " + CADA"})
        values = (
            part.assign(name=name).groupby(["name", "category"], sort=False)["value"].agg(["mean", "std"]).unstack()
        )
        values["mean"].plot.barh(
            ax=axis, xerr=values["std"], title=metric, legend=axis is axes[0], xlabel="", ylabel=""
        )
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def summarize(options: argparse.Namespace) -> None:
    """Write mean and spread over the seeds as Markdown and as a picture."""
    versions = f"anomalib {anomalib_version}, torch {torch.__version__}"
    parts = [f"`python -m benchmarks.quality --steps {options.steps} --coreset {options.coreset:g}`, {versions}"]
    for file in ("quality", "cada"):
        done = pd.read_csv(options.output / f"{file}.csv")
        for category in ("mean", "mixed"):
            part = done[done["category"] == category]
            groups = part.groupby(["model", "calibration", "metric"], sort=False)["value"]
            table = groups.agg(["mean", "std"]).fillna(0)
            texts = table.apply(lambda row: f"{row['mean']:.4g} ± {row['std']:.2g}", axis=1)
            seeds = part["seed"].nunique()
            parts += [f"## {file}, {category} (up to {seeds} seeds)", texts.unstack().to_markdown()]
    draw_quality(pd.read_csv(options.output / "quality.csv"), options.output / "quality.png")
    path = options.output / "quality.md"
    path.write_text("\n\n".join(parts) + "\n")
    print(f"Written to {path}, with quality.csv, cada.csv and pictures beside it.")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="categories in the layout of MVTec AD; default: the built-in ones")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400, help="training steps of 8 images")
    parser.add_argument("--coreset", type=float, default=0.01, help="share of the patches that PatchCore keeps")
    parser.add_argument("--regressor", action="store_true", help="fit the regressor of the paper too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    mpl.use("Agg")
    register_backbones()
    torch.set_num_threads(options.threads)
    if options.one:
        run_and_save(options.one[0], int(options.one[1]), options)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    table = options.output / "cada.csv"
    done = pd.read_csv(table) if table.exists() else pd.DataFrame(columns=COLUMNS)
    finished = set(zip(done["model"], done["seed"], strict=True))
    jobs = [(name, seed) for seed in options.seeds for name in options.models if (name, seed) not in finished]
    for number, (name, seed) in enumerate(jobs, start=1):
        print(f"{number}/{len(jobs)}: {name}, seed {seed}", flush=True)
        # A process of its own, for its peak memory.
        command = [sys.executable, "-m", "benchmarks.quality", *sys.argv[1:], "--one", name, str(seed)]
        if subprocess.run(command, check=False).returncode:
            print(f"{name}, seed {seed} failed", flush=True)
    summarize(options)


if __name__ == "__main__":
    main()
