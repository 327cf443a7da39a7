"""Compares time and memory with the plain model and with the backbone, as ratios within one run.

    python -m benchmarks.speed

Weights are random. The compared models run in turns, so that both have the same conditions; values are medians of all
turns. Rows are written to benchmarks/results/speed.csv as they are done and replace older ones of the same name:
``name,baseline,ours,ratio,unit,runs,spread``. A ``ratio`` larger than 1 means that ours is better; ``spread`` is the
relative interquartile range of the ratio.
"""

import argparse
import inspect
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pandas as pd
import torch
from benchmarks.harness import memory_mb, result_of, start_peak
from benchmarks.plain import make_plain
from benchmarks.preset import fit_random_prototypes
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from anomalib_unias import UniASModel
from anomalib_unias.models.unias.lite import UNIAS_LITE
from anomalib_unias.models.unias.loss import UniASLoss

OUTPUT = Path("benchmarks/results/speed.csv")


class Predictor(nn.Module):
    """A model that returns score and map as a tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict image scores and anomaly maps."""
        output = self.model(images)
        return output.pred_score, output.anomaly_map


class Backbone(nn.Module):
    """A backbone that returns its features as a tuple."""

    def __init__(self, model: UniASModel) -> None:
        super().__init__()
        self.backbone = model.backbone

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute the features."""
        return tuple(self.backbone(images))


def build(preset: str, plain: bool = False, **changes: object) -> UniASModel:
    """Build ``"b4"``, the model of the paper, or ``"lite"``, the preset for CPUs, with random weights."""
    torch.manual_seed(0)
    given = UNIAS_LITE if preset == "lite" else {}
    accepted = inspect.signature(UniASModel).parameters  # the other arguments are for training
    arguments = {name: value for name, value in given.items() if name in accepted}
    model = UniASModel(**{**arguments, **changes, "pre_trained": False})
    fit_random_prototypes(model)
    return make_plain(model, arguments.get("backbone", "tf_efficientnet_b4")) if plain else model


def compiled(module: nn.Module, batch: int) -> ov.CompiledModel:
    """Compile a module with OpenVINO in single precision."""
    with torch.no_grad():
        converted = ov.convert_model(torch.export.export(module.eval(), (torch.randn(batch, 3, 224, 224),)))
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    return ov.Core().compile_model(converted, "CPU", hints)


def in_turns(functions: list[Callable[[], object]], runs: int) -> np.ndarray:
    """Measure the seconds of every function in every turn ``(runs, functions)``, after one turn as warm-up."""
    seconds = np.empty((runs + 1, len(functions)))
    for run in range(runs + 1):
        for index, function in enumerate(functions):
            start = time.perf_counter()
            function()
            seconds[run, index] = time.perf_counter() - start
    return seconds[1:]


def record(name: str, baseline: np.ndarray, ours: np.ndarray, unit: str) -> None:
    """Append one row."""
    ratios = np.atleast_1d(baseline) / np.atleast_1d(ours)
    low, high = np.percentile(ratios, (25, 75))
    row = {
        "name": name,
        "baseline": round(float(np.median(baseline)), 4),
        "ours": round(float(np.median(ours)), 4),
        "ratio": round(float(np.median(ratios)), 3),
        "unit": unit,
        "runs": len(ratios),
        "spread": round(float((high - low) / np.median(ratios)), 3),
    }
    print(row, flush=True)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    others = pd.read_csv(OUTPUT).query("name != @row['name']") if OUTPUT.exists() else None
    pd.concat([others, pd.DataFrame([row])]).to_csv(OUTPUT, index=False)


def gmac(module: nn.Module, *inputs: torch.Tensor) -> float:
    """Count the billions of multiplications of one forward pass."""
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() / 2e9


def cost() -> None:
    """Record the MACs of the whole model."""
    counts = []
    for plain in (True, False):
        model = build("b4", plain).eval()
        with torch.no_grad():
            model(torch.randn(1, 3, 224, 224))  # composes the kernels, once
            counts.append(gmac(model, torch.randn(1, 3, 224, 224)))
    record("unias_b4 cost", np.array(counts[0]), np.array(counts[1]), "GMAC")


def latency(preset: str, batch: int, runs: int) -> None:
    """Record the latency in OpenVINO: the large model against its plain form, the small one against its backbone."""
    model = build(preset)
    baseline = Backbone(model) if preset == "lite" else Predictor(build(preset, plain=True))
    images = torch.randn(batch, 3, 224, 224).numpy()
    requests = [compiled(module, batch).create_infer_request() for module in (baseline, Predictor(model))]
    seconds = 1e3 * in_turns([lambda request=request: request.infer([images]) for request in requests], runs)
    against = "backbone" if preset == "lite" else "plain"
    record(f"unias_{preset} openvino against {against}, batch {batch}", seconds[:, 0], seconds[:, 1], "ms")


def in_torch(preset: str, runs: int) -> None:
    """Record the latency in PyTorch against the plain form."""
    model, plain = build(preset).eval(), build(preset, plain=True).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        seconds = 1e3 * in_turns([lambda: plain(images), lambda: model(images)], runs)
    record(f"unias_{preset} torch against plain, batch 1", seconds[:, 0], seconds[:, 1], "ms")


def layouts(preset: str, runs: int) -> None:
    """Record the latency in PyTorch with channels-last memory and with ``torch.compile``, against eager mode."""
    model = build(preset).eval()
    last = build(preset).eval().to(memory_format=torch.channels_last)
    compiled_model = torch.compile(build(preset).eval())
    images = torch.randn(1, 3, 224, 224)
    images_last = images.to(memory_format=torch.channels_last)
    calls = [lambda: model(images), lambda: last(images_last), lambda: compiled_model(images)]
    with torch.no_grad():
        seconds = 1e3 * in_turns(calls, runs)
    record(f"unias_{preset} torch channels-last against contiguous, batch 1", seconds[:, 0], seconds[:, 1], "ms")
    record(f"unias_{preset} torch compiled against eager, batch 1", seconds[:, 0], seconds[:, 2], "ms")


def stepper(preset: str, plain: bool, batch: int, bfloat16: bool = False) -> Callable[[], None]:
    """Build a function that does one training step; ours starts from stored features."""
    model = build(preset, plain).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, loss = torch.optim.AdamW(parameters, fused=not plain), UniASLoss()
    images = torch.randn(batch, 3, 224, 224)
    features = model.backbone(images)

    def step() -> None:
        torch.set_flush_denormal(not plain)  # as UniAS does at the start of training
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            value = loss(*model.reconstruct(model.backbone(images) if plain else features))
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()

    return step


def training(preset: str, batch: int, runs: int) -> None:
    """Record the seconds per image of a training step."""
    name = f"unias_{preset} training step, batch {batch}"
    # In separate turns: on processors without bfloat16, the step after one in bfloat16 is a tenth slower.
    plain = stepper(preset, True, batch)
    for row, bfloat16 in ((name, False), (f"{name}, ours in bfloat16", True)):
        seconds = in_turns([plain, stepper(preset, False, batch, bfloat16)], runs) / batch
        record(row, seconds[:, 0], seconds[:, 1], "s/image")


def training_memory(preset: str, batch: int) -> None:
    """Record the peak memory of two training steps above that of the built model, each in a separate process."""
    peaks = []
    for plain, bfloat16 in ((True, False), (False, False), (False, True)):
        peaks.append(result_of("benchmarks.speed", "--memory-of", preset, int(plain), batch, int(bfloat16)))
    name = f"unias_{preset} training memory, batch {batch}"
    record(name, np.array(peaks[0]), np.array(peaks[1]), "MB")
    record(f"{name}, ours in bfloat16", np.array(peaks[0]), np.array(peaks[2]), "MB")


PARTS: dict[str, Callable[[], None]] = {
    "cost": cost,
    "openvino_lite": lambda: latency("lite", 1, runs=40),
    "openvino_lite_8": lambda: latency("lite", 8, runs=5),
    "openvino_b4": lambda: latency("b4", 1, runs=10),
    "torch_lite": lambda: in_torch("lite", runs=20),
    "torch_b4": lambda: in_torch("b4", runs=5),
    "layouts_lite": lambda: layouts("lite", runs=20),
    "training_lite": lambda: training("lite", 8, runs=10),
    "training_b4": lambda: training("b4", 4, runs=2),
    "memory_lite": lambda: training_memory("lite", 8),
    "memory_b4": lambda: training_memory("b4", 4),
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        preset, *numbers = options.memory_of
        plain, batch, bfloat16 = map(int, numbers)
        step = stepper(preset, bool(plain), batch, bool(bfloat16))
        before = start_peak()
        step()
        step()
        print(memory_mb("VmHWM") - before)
        return
    for part in options.parts:
        PARTS[part]()
    print(f"Written to {OUTPUT}")


if __name__ == "__main__":
    main()
