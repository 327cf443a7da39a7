"""The project of before.py with one model, one threshold and one export for all products: five lines differ.

python after.py ./datasets/line
"""

import sys

from anomalib.engine import Engine

from anomalib_unias import UniASLite, UnifiedDataModule

PRODUCTS = ["cap", "label"]
FOLDERS = {"normal_dir": "good", "abnormal_dir": "defect", "mask_dir": "mask"}


def build(root, product):  # noqa: ANN001, ANN201
    """Build the model and the data of a product."""
    data = UnifiedDataModule("Folder", product, root=root, datamodule_args=FOLDERS)
    return UniASLite(), data


def main(root: str) -> None:
    """Train, test and export."""
    for product in [PRODUCTS]:
        model, data = build(root, product)
        engine = Engine(default_root_dir="results")
        engine.fit(model, datamodule=data)
        engine.test(model, datamodule=data)
        engine.export(model, export_type="openvino")


if __name__ == "__main__":
    main(sys.argv[1])
