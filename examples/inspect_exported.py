"""Run an exported model over the test images of the built-in data set, with anomalib's OpenVINO inferencer.

    python examples/inspect_exported.py results/demo/export/weights/openvino/model.xml --output results/demo/inspected

Writes one overlay per image (image, true mask, anomaly map, predicted mask) and ``metrics.csv``.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import yaml
from anomalib.deploy import OpenVINOInferencer
from matplotlib import pyplot
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.metrics import average_precision_score, roc_auc_score

from anomalib_unias import UnifiedDataModule

DATA = Path(__file__).parents[1] / "configs" / "data" / "unified_synthetic.yaml"


def test_images() -> pd.DataFrame:
    """Paths, labels and categories of the test images."""
    data = UnifiedDataModule(**yaml.safe_load(DATA.read_text())["init_args"])
    data.prepare_data()
    data.setup()
    return data.test_data.samples


def read_mask(path: str, shape: tuple[int, int]) -> np.ndarray:
    """True mask of an image, all false for a normal one."""
    if not path or not isinstance(path, str):
        return np.zeros(shape, dtype=bool)
    mask = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
    return cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST) > 0


def write_overlay(path: Path, image: np.ndarray, truth: np.ndarray, found: object) -> None:
    """Save image, true mask, anomaly map and predicted mask side by side."""
    panels = {
        "image": (image, {}),
        "true mask": (truth, {"cmap": "gray", "vmin": 0, "vmax": 1}),
        "anomaly map": (np.squeeze(found.anomaly_map), {"cmap": "turbo", "vmin": 0, "vmax": 1}),
        "predicted mask": (np.squeeze(found.pred_mask), {"cmap": "gray", "vmin": 0, "vmax": 1}),
    }
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3 * len(panels), 3.2))
    for axis, (title, (pixels, options)) in zip(axes, panels.items(), strict=True):
        axis.imshow(pixels, **options)
        axis.set_title(title)
        axis.axis("off")
    figure.suptitle(
        f"score {np.squeeze(found.pred_score):.3f}, {'anomalous' if np.squeeze(found.pred_label) else 'normal'}"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80, bbox_inches="tight")
    pyplot.close(figure)


def inspect(model: Path, output: Path) -> pd.DataFrame:
    """Predict every image, write its overlay, and return one row of results per category."""
    inferencer = OpenVINOInferencer(path=model, device="CPU")
    labels, scores, masks, maps = {}, {}, {}, {}
    for sample in track(list(test_images().itertuples()), description="inspecting"):
        image = cv2.cvtColor(cv2.imread(sample.image_path), cv2.COLOR_BGR2RGB)
        found = inferencer.predict(image)
        anomaly_map = np.squeeze(found.anomaly_map)
        truth = read_mask(sample.mask_path, anomaly_map.shape)
        path = Path(sample.image_path)
        write_overlay(output / sample.category / f"{path.parent.name}_{path.stem}.png", image, truth, found)
        for values, value in ((labels, sample.label_index), (scores, float(np.squeeze(found.pred_score)))):
            values.setdefault(sample.category, []).append(value)
        for values, value in ((masks, truth), (maps, anomaly_map)):
            values.setdefault(sample.category, []).append(value)
    rows = [
        {
            "category": category,
            "images": len(labels[category]),
            "image_auroc": roc_auc_score(labels[category], scores[category]),
            "pixel_ap": average_precision_score(np.ravel(masks[category]), np.ravel(maps[category])),
        }
        for category in labels
    ]
    table = pd.DataFrame(rows)
    table.loc[len(table)] = ["mean", table["images"].sum(), table["image_auroc"].mean(), table["pixel_ap"].mean()]
    table.to_csv(output / "metrics.csv", index=False)
    return table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="exported model, .xml")
    parser.add_argument("--output", type=Path, default=Path("results/inspected"))
    arguments = parser.parse_args()
    results = inspect(arguments.model, arguments.output)
    table = Table(*results.columns, title="The exported model on the test images")
    for row in results.itertuples(index=False):
        table.add_row(row.category, str(row.images), f"{row.image_auroc:.3f}", f"{row.pixel_ap:.3f}")
    console = Console()
    console.print(table)
    console.print(f"Overlays and metrics.csv are in {arguments.output.resolve()}")


if __name__ == "__main__":
    main()
