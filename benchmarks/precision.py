"""Measures quality, size and latency of an exported model in each precision, on test images of several categories.

    python -m benchmarks.precision --root DIR --checkpoint unias_lite.ckpt

DIR contains categories in the layout of MVTec AD. The checkpoint, of UniAS, is exported with every
``--compression_type`` of anomalib; ``bf16`` is the full-precision file computed in bfloat16, the default of OpenVINO on
CPUs that support it. The files go through the inspection line, all precisions in turns for each image. Columns:
``model,precision,category,metric,value``; ``latency_ms`` is the median time from file to answer, ``size_mb`` the size
of the exported files.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anomalib.deploy import CompressionType
from benchmarks.measured import Measurement
from rich.progress import track
from torchvision.tv_tensors import Mask

from anomalib_unias import UniAS, UnifiedDataModule
from anomalib_unias.deploy import ThroughputInferencer

COMPRESSIONS = {
    "fp32": None,
    "bf16": None,
    "fp16": CompressionType.FP16,
    "int8": CompressionType.INT8,
    "int8_ptq": CompressionType.INT8_PTQ,
    "int8_acq": CompressionType.INT8_ACQ,
}
SHOWN = ("image_auroc", "pixel_ap", "dsc_best_f1")


def export(model: UniAS, precision: str, work: Path, datamodule: UnifiedDataModule) -> Path:
    """Export the model, unless the file exists already."""
    folder = work / ("fp32" if precision == "bf16" else precision)
    path = folder / "weights" / "openvino" / "model.xml"
    return (
        path
        if path.exists()
        else model.to_openvino(folder, compression_type=COMPRESSIONS[precision], datamodule=datamodule)
    )


def inferencer(precision: str, path: Path) -> ThroughputInferencer:
    """Build the inspection line for one precision."""
    config = {"INFERENCE_PRECISION_HINT": "bf16"} if precision == "bf16" else None
    return ThroughputInferencer(path, hint="latency", config=config)


def test(
    model: UniAS, lines: dict[str, ThroughputInferencer], datamodule: UnifiedDataModule
) -> tuple[dict[str, Measurement], dict[str, list[float]]]:
    """Run all precisions on all test images; return measurements and milliseconds."""
    measurements = {name: Measurement() for name in lines}
    times: dict[str, list[float]] = {name: [] for name in lines}
    for item in track(datamodule.test_data, "test images"):
        mask = Mask(item.gt_mask[None])  # indexing loses the type Mask
        masks = model.pre_processor.transform(item.image[None], mask)[1].bool()
        for name, line in lines.items():
            (result,) = line.inspect([item.image_path])
            times[name].append(result.milliseconds)
            maps = torch.from_numpy(result.outputs["anomaly_map"]).squeeze()[None]
            score = float(np.squeeze(result.outputs["pred_score"]))
            measurements[name].add(maps, [score], masks, [bool(item.gt_label)], [item.category])
    return measurements, times


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--model", default="unias_lite", help="name in the table")
    parser.add_argument("--precisions", nargs="+", default=list(COMPRESSIONS), choices=list(COMPRESSIONS))
    parser.add_argument("--work", type=Path, default=Path("results/precision"), help="folder for exports")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/precision.csv"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    datamodule = UnifiedDataModule("MVTecAD", "all", root=options.root, num_workers=0, seed=0)
    datamodule.setup()
    model = UniAS.load_from_checkpoint(options.checkpoint).eval()
    paths = {name: export(model, name, options.work, datamodule) for name in track(options.precisions, "exports")}
    measurements, times = test(model, {name: inferencer(name, path) for name, path in paths.items()}, datamodule)
    rows = []
    for name, path in paths.items():
        found = measurements[name].rows()
        found.append(("mixed", "latency_ms", float(np.median(times[name]))))
        found.append(("mixed", "size_mb", sum(file.stat().st_size for file in path.parent.glob("model.*")) / 1e6))
        rows += [(options.model, name, *row) for row in found]
    table = pd.DataFrame(rows, columns=["model", "precision", "category", "metric", "value"])
    table.to_csv(options.output, index=False)
    shown = table[table["category"].isin(["mean", "mixed"]) & table["metric"].isin([*SHOWN, "latency_ms", "size_mb"])]
    print(shown.pivot_table("value", "precision", ["category", "metric"], sort=False).round(4).to_string())
    print(f"Written to {options.output}")


if __name__ == "__main__":
    main()
