"""The data set on the disk: complete or not there, never in the way of other files."""

import json
from pathlib import Path

import numpy as np
import pytest

from anomalib_unias.data.built_in import library
from anomalib_unias.data.built_in.library import RECIPE_FILE, Recipe, ensure_library
from anomalib_unias.data.built_in.pictures import KINDS, Picture
from anomalib_unias.data.built_in.products import PRODUCTS

RECIPE = Recipe(train_good=3, test_good=2, test_defective=4)


class Painter:
    """Stands in for the drawing: fast, counts its pictures, and can be told to fail."""

    def __init__(self) -> None:
        self.count = 0
        self.fails_after = 10**6

    def __call__(self, category: str, folder: str, index: int, seed: int, defect_draws: int) -> Picture:
        self.count += 1
        if self.count > self.fails_after:
            msg = "stopped"
            raise RuntimeError(msg)
        rng = np.random.default_rng([len(category), len(folder), index, seed, defect_draws])
        image = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
        return Picture(image, image, np.full((8, 8), not folder.endswith("good")))


@pytest.fixture(autouse=True)
def painter(monkeypatch: pytest.MonkeyPatch) -> Painter:
    stand_in = Painter()
    monkeypatch.setattr(library, "picture", stand_in)
    return stand_in


def _content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_layout(tmp_path: Path) -> None:
    root = tmp_path / "a" / "products"
    ensure_library(root, RECIPE)
    assert "SYNTHETIC" in json.loads((root / RECIPE_FILE).read_text())["about"]
    expected = {RECIPE_FILE}
    for category in PRODUCTS:
        expected |= {f"{category}/train/good/{index:03d}.png" for index in range(3)}
        expected |= {f"{category}/test/good/{index:03d}.png" for index in range(2)}
        expected |= {f"{category}/test/{kind}/000.png" for kind in KINDS[:4]}
        expected |= {f"{category}/ground_truth/{kind}/000_mask.png" for kind in KINDS[:4]}
    assert set(_content(root)) == expected
    assert [path.name for path in root.parent.iterdir()] == ["products"]


def test_same_recipe_same_bytes(tmp_path: Path) -> None:
    ensure_library(tmp_path / "one", RECIPE)
    ensure_library(tmp_path / "two", RECIPE)
    assert _content(tmp_path / "one") == _content(tmp_path / "two")


def test_is_written_once(tmp_path: Path, painter: Painter) -> None:
    ensure_library(tmp_path / "products", RECIPE)
    drawn = painter.count
    ensure_library(tmp_path / "products", RECIPE)
    assert painter.count == drawn


@pytest.mark.parametrize(
    "recipe",
    [Recipe(1, 3, 2, 4), Recipe(0, 4, 2, 4), Recipe(0, 3, 1, 4), Recipe(0, 3, 2, 5), Recipe(0, 3, 2, 4, 2)],
    ids=lambda recipe: recipe.name,
)
def test_pictures_of_another_recipe_are_left_alone(tmp_path: Path, recipe: Recipe) -> None:
    ensure_library(tmp_path / "products", RECIPE)
    before = _content(tmp_path / "products")
    with pytest.raises(FileExistsError, match=r"other files than the built-in data set.*Choose another root"):
        ensure_library(tmp_path / "products", recipe)
    assert _content(tmp_path / "products") == before
    assert recipe.name != RECIPE.name


def test_another_generator_version_is_another_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_library(tmp_path / "products", RECIPE)
    name = RECIPE.name
    monkeypatch.setattr(library, "GENERATOR_VERSION", library.GENERATOR_VERSION + 1)
    assert RECIPE.name != name
    with pytest.raises(FileExistsError):
        ensure_library(tmp_path / "products", RECIPE)


def test_stopped_run_leaves_nothing(tmp_path: Path, painter: Painter) -> None:
    painter.fails_after = 10
    with pytest.raises(RuntimeError, match="stopped"):
        ensure_library(tmp_path / "products", RECIPE)
    assert list(tmp_path.iterdir()) == []


def test_slower_of_two_processes_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "products"
    write = library._write

    def overtaken(fresh: Path, recipe: Recipe) -> None:
        monkeypatch.setattr(library, "_write", write)
        ensure_library(root, recipe)
        (root / "flange" / "seen").touch()
        write(fresh, recipe)

    monkeypatch.setattr(library, "_write", overtaken)
    ensure_library(root, RECIPE)
    assert (root / "flange" / "seen").exists()


def test_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "products").mkdir()
    ensure_library(tmp_path / "products", RECIPE)
    assert (tmp_path / "products" / RECIPE_FILE).is_file()


@pytest.mark.parametrize("recipe", [None, "", "[]", '{"name": "other"}'], ids=["none", "damaged", "list", "other"])
def test_foreign_folder_is_left_alone(tmp_path: Path, recipe: str | None, painter: Painter) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    (root / "holiday.png").write_text("sun")
    if recipe is not None:
        (root / RECIPE_FILE).write_text(recipe)
    before = _content(root)
    with pytest.raises(FileExistsError, match=r"other files than the built-in data set.*Choose another root"):
        ensure_library(root, RECIPE)
    assert _content(root) == before
    assert painter.count == 0


def test_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "products").write_text("a file")
    with pytest.raises(NotADirectoryError, match="is a file"):
        ensure_library(tmp_path / "products", RECIPE)


@pytest.mark.parametrize(
    ("argument", "value"), [("render_seed", -1), ("train_good", 0), ("test_good", 0), ("test_defective", -3)]
)
def test_recipe_names_what_is_wrong(argument: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{argument} must be at least \d, got {value}"):
        Recipe(**{argument: value})


def test_default_counts() -> None:
    counts = Recipe().counts
    assert (counts["train/good"], counts["test/good"]) == (60, 10)
    assert {folder: counts[folder] for folder in counts if folder.startswith("test/") and folder != "test/good"} == {
        f"test/{kind}": 4 for kind in KINDS
    }
