"""The notebook runs from the first cell to the last."""

import json
from functools import partial
from pathlib import Path

import matplotlib as mpl

from anomalib_unias import UniASLite

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first_steps.ipynb"
COUNTS = {"train_good": 4, "test_good": 2, "test_defective": 6}


def test_first_steps(tmp_path, monkeypatch):
    mpl.use("Agg")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict = {}
    for number, source in enumerate(code):
        exec(compile(source, f"cell {number}", "exec"), names)
        if "UniASLite" in names:  # smaller images than those of the preset
            names["UniASLite"] = partial(UniASLite, image_size=(128, 128))
        if number == 0:
            names |= {"STEPS": 2, "RESULTS": str(tmp_path / "results"), "DATA": tmp_path / "data", "COUNTS": COUNTS}
    assert (tmp_path / "results" / "found.png").stat().st_size > 10_000
    assert list((tmp_path / "results").rglob("report/index.html"))
    assert names["results"].loc["mixed", "pixel_ap"] > 0
    assert type(names["model"]) is UniASLite
