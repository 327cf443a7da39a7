"""An "exported model" whose answer everybody can compute: the map is the red channel."""

from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops

THRESHOLD = 0.5


def write_toy_model(
    path: Path,
    shape: tuple[int, ...] = (-1, 3, -1, -1),
    score: str = "pred_score",
    rows: np.ndarray | None = None,
) -> Path:
    """Score: largest red value; label and mask: above 0.5. The image is first multiplied with ``rows``, if given."""
    images = ops.parameter(shape, np.float32, name="input")
    images.output(0).set_names({"input"})
    resized = images if rows is None else ops.matmul(rows, images, False, False)
    red = ops.gather(resized, np.array([0]), np.int64(1))
    largest = ops.reduce_max(red, np.array([1, 2, 3]))
    outputs = {
        score: largest,
        "anomaly_map": red,
        "pred_label": ops.greater(largest, np.float32(THRESHOLD)),
        "pred_mask": ops.greater(red, np.float32(THRESHOLD)),
    }
    for name, node in outputs.items():
        node.output(0).set_names({name})
    model = ov.Model([ops.result(node) for node in outputs.values()], [images], "toy")
    ov.save_model(model, path, compress_to_fp16=False)
    return path
