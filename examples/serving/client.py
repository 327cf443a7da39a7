"""Ask a server that speaks the open inference protocol about an image.

python client.py image.png --url http://localhost:8080
"""

import argparse
import json
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image


def ask(url: str, model: str, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Send an image and return the outputs of the model by name.

    Args:
        url (str): Address of the server.
        model (str): Name of the model on the server.
        pixels (np.ndarray): RGB ``(H, W, 3)``, uint8.

    Returns:
        dict[str, np.ndarray]: Outputs such as ``pred_score`` and ``anomaly_map``.
    """
    images = pixels.astype(np.float32).transpose(2, 0, 1)[None] / 255
    tensor = {"name": "input", "shape": images.shape, "datatype": "FP32", "data": images.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    request = Request(f"{url}/v2/models/{model}/infer", body, {"Content-Type": "application/json"})
    with urlopen(request) as answer:
        outputs = json.load(answer)["outputs"]
    return {output["name"]: np.array(output["data"]).reshape(output["shape"]) for output in outputs}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--url", default="http://localhost:8080")
    parser.add_argument("--model", default="anomaly")
    arguments = parser.parse_args()
    found = ask(arguments.url, arguments.model, np.array(Image.open(arguments.image).convert("RGB")))
    # A model that was exported without thresholds gives no label.
    label = {None: "no label", True: "anomalous", False: "normal"}[_flag(found.get("pred_label"))]
    sys.stdout.write(f"{arguments.image}: score {found['pred_score'].item():.4f}, {label}\n")


def _flag(output: np.ndarray | None) -> bool | None:
    return None if output is None else bool(output.item())


if __name__ == "__main__":
    main()
