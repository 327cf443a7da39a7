"""The notebook runs from the first cell to the last."""

import json
from pathlib import Path

import matplotlib as mpl
import yaml

from anomalib_unias import CadaPostProcessor

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first_steps.ipynb"
PRESET = Path(__file__).parents[2] / "configs" / "model" / "unias_lite.yaml"
COUNTS = {"train_good": 4, "test_good": 2, "test_defective": 6}


def test_first_steps(tmp_path, monkeypatch):
    mpl.use("Agg")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict = {}
    for number, source in enumerate(code):
        exec(compile(source, f"cell {number}", "exec"), names)
        if number == 0:
            names |= {"STEPS": 2, "RESULTS": str(tmp_path / "results"), "DATA": tmp_path / "data", "COUNTS": COUNTS}
    assert (tmp_path / "results" / "found.png").stat().st_size > 10_000
    assert list((tmp_path / "results").rglob("report/index.html"))
    assert names["results"].loc["mixed", "pixel_ap"] > 0
    preset = yaml.safe_load(PRESET.read_text())["model"]["init_args"]
    del preset["training_steps"], preset["post_processor"]
    assert isinstance(names["model"].post_processor, CadaPostProcessor)
    used = {name: names["model"].hparams.get(name) for name in preset}
    assert used == preset
