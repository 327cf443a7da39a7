"""An existing project comes from PatchCore in five lines."""

import ast
from pathlib import Path
from runpy import run_path

from tests.documentation import blocks

from anomalib_unias import UniASLite

EXAMPLE = Path(__file__).parents[3] / "examples" / "from_patchcore"


def code(name: str) -> list[str]:
    """Lines of code, without documentation and layout."""
    tree = ast.parse((EXAMPLE / name).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return [line for line in ast.unparse(tree).splitlines() if line.strip()]


def test_five_lines_are_others():
    before, after = code("before.py"), code("after.py")
    assert len([line for line in after if line not in before]) <= 5
    assert len([line for line in before if line not in after]) <= 5


def test_the_guide_shows_these_lines():
    (shown,) = blocks("diff")
    before, after = ((EXAMPLE / name).read_text(encoding="utf-8").splitlines() for name in ("before.py", "after.py"))
    without_title = [set(lines[3:]) for lines in (before, after)]
    for sign, own, others in (("-", *without_title), ("+", *reversed(without_title))):
        assert {line[1:] for line in shown.splitlines() if line.startswith(sign)} == own - others


def test_one_model_for_all_products(tmp_path, write_category):
    for product in ("cap", "label"):
        written = write_category(tmp_path, product)
        (written / product / "train" / "good").rename(written / product / "good")
        (written / product / "test" / "square").rename(written / product / "defect")
        (written / product / "ground_truth" / "square").rename(written / product / "mask")
        for mask in (written / product / "mask").iterdir():
            mask.rename(mask.with_name(mask.name.replace("_mask", "")))
    example = run_path(str(EXAMPLE / "after.py"))
    model, data = example["build"](str(tmp_path), example["PRODUCTS"])
    data.setup()
    assert type(model) is UniASLite
    assert set(data.test_data.samples["category"]) == {"cap", "label"}
    assert len(data.train_data) > 6
