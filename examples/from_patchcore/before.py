"""A project with PatchCore: one model, one threshold and one export for each product.

python before.py ./datasets/line
"""

import sys

from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import Patchcore

PRODUCTS = ["cap", "label"]
FOLDERS = {"normal_dir": "good", "abnormal_dir": "defect", "mask_dir": "mask"}


def build(root, product):  # noqa: ANN001, ANN201
    """Build the model and the data of a product."""
    data = Folder(product, root=f"{root}/{product}", **FOLDERS)
    return Patchcore(), data


def main(root: str) -> None:
    """Train, test and export."""
    for product in PRODUCTS:
        model, data = build(root, product)
        engine = Engine(default_root_dir="results")
        engine.fit(model, datamodule=data)
        engine.test(model, datamodule=data)
        engine.export(model, export_type="openvino")


if __name__ == "__main__":
    main(sys.argv[1])
