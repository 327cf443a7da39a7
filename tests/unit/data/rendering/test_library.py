"""The data set on the disk: complete or not there, never in the way of other files."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from anomalib_unias.data.rendering import library
from anomalib_unias.data.rendering.library import METADATA_FILE, README_FILE, Recipe, ensure_library
from anomalib_unias.data.rendering.sample import SCENES, Sample

RECIPE = Recipe(train_good=3, test_good=2, test_defective=4)


class Renderer:
    """Stands in for the renderer: fast, counts its pictures, and can be told to fail."""

    def __init__(self) -> None:
        self.count = 0
        self.fails_after = 10**6

    def __call__(self, category: str, folder: str, index: int, seed: int, defect_draws: int) -> Sample:
        self.count += 1
        if self.count > self.fails_after:
            msg = "stopped"
            raise RuntimeError(msg)
        rng = np.random.default_rng([len(category), len(folder), index, seed, defect_draws])
        image = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
        return Sample(image, np.full((8, 8), not folder.endswith("good")), image)


@pytest.fixture(autouse=True)
def renderer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Renderer]:
    stand_in = Renderer()
    monkeypatch.setattr(library, "render", stand_in)
    return stand_in


def _content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_layout_and_metadata(tmp_path: Path) -> None:
    root = tmp_path / "a" / "products"
    ensure_library(root, RECIPE)
    metadata = json.loads((root / METADATA_FILE).read_text())
    assert sorted(metadata["files"]) == sorted(_content(root))
    assert set(metadata["counts"]) == set(SCENES)
    for category, counts in metadata["counts"].items():
        assert counts["train/good"] == 3
        assert sum(counts.values()) == 3 + 2 + 4
        for folder, count in counts.items():
            names = [f"{index:03d}.png" for index in range(count)]
            assert sorted(path.name for path in (root / category / folder).iterdir()) == names
            masks = root / category / folder.replace("test", "ground_truth")
            if folder.startswith("test/") and folder != "test/good":
                assert sorted(path.stem for path in masks.iterdir()) == [f"{name[:3]}_mask" for name in names]
    assert "SYNTHETIC" in (root / README_FILE).read_text()
    assert [path.name for path in root.parent.iterdir()] == ["products"]


def test_same_recipe_same_bytes(tmp_path: Path) -> None:
    ensure_library(tmp_path / "one", RECIPE)
    ensure_library(tmp_path / "two", RECIPE)
    assert _content(tmp_path / "one") == _content(tmp_path / "two")


def test_is_written_once(tmp_path: Path, renderer: Renderer) -> None:
    ensure_library(tmp_path / "products", RECIPE)
    rendered = renderer.count
    ensure_library(tmp_path / "products", RECIPE)
    assert renderer.count == rendered


@pytest.mark.parametrize(
    "recipe",
    [Recipe(1, 3, 2, 4), Recipe(0, 4, 2, 4), Recipe(0, 3, 1, 4), Recipe(0, 3, 2, 5), Recipe(0, 3, 2, 4, 2)],
    ids=lambda r: r.name,
)
def test_other_recipe_replaces_the_pictures(tmp_path: Path, recipe: Recipe) -> None:
    ensure_library(tmp_path / "products", RECIPE)
    ensure_library(tmp_path / "products", recipe)
    ensure_library(tmp_path / "fresh", recipe)
    assert _content(tmp_path / "products") == _content(tmp_path / "fresh")
    assert recipe.name != RECIPE.name


def test_other_generator_version_replaces_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renderer: Renderer
) -> None:
    ensure_library(tmp_path / "products", RECIPE)
    rendered = renderer.count
    monkeypatch.setattr(library, "GENERATOR_VERSION", library.GENERATOR_VERSION + 1)
    ensure_library(tmp_path / "products", RECIPE)
    assert renderer.count == 2 * rendered


def test_incomplete_data_set_is_rendered_again(tmp_path: Path) -> None:
    root = tmp_path / "products"
    ensure_library(root, RECIPE)
    complete = _content(root)
    (root / "flange" / "train" / "good" / "001.png").unlink()
    ensure_library(root, RECIPE)
    assert _content(root) == complete


def test_stopped_run_leaves_nothing(tmp_path: Path, renderer: Renderer) -> None:
    renderer.fails_after = 10
    with pytest.raises(RuntimeError, match="stopped"):
        ensure_library(tmp_path / "products", RECIPE)
    assert list(tmp_path.iterdir()) == []


def test_stopped_run_keeps_the_old_pictures(tmp_path: Path, renderer: Renderer) -> None:
    ensure_library(tmp_path / "products", RECIPE)
    before = _content(tmp_path / "products")
    renderer.fails_after = renderer.count + 10
    with pytest.raises(RuntimeError, match="stopped"):
        ensure_library(tmp_path / "products", Recipe(1, 3, 2, 4))
    assert _content(tmp_path / "products") == before
    assert [path.name for path in tmp_path.iterdir()] == ["products"]


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
    root = tmp_path / "products"
    root.mkdir()
    ensure_library(root, RECIPE)
    assert (root / METADATA_FILE).is_file()


@pytest.mark.parametrize("metadata", [None, "", "[]", '{"name": "other"}'], ids=["none", "damaged", "list", "other"])
def test_foreign_folder_is_left_alone(tmp_path: Path, metadata: str | None, renderer: Renderer) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    (root / "holiday.png").write_text("sun")
    if metadata is not None:
        (root / METADATA_FILE).write_text(metadata)
    before = _content(root)
    with pytest.raises(FileExistsError, match=r"do not belong to the built-in data set.*Choose another root"):
        ensure_library(root, RECIPE)
    assert _content(root) == before
    assert renderer.count == 0


def test_own_folder_with_foreign_files_is_not_replaced(tmp_path: Path) -> None:
    root = tmp_path / "products"
    ensure_library(root, RECIPE)
    (root / "flange" / "notes.txt").write_text("mine")
    ensure_library(root, RECIPE)
    with pytest.raises(FileExistsError, match=r"flange/notes\.txt"):
        ensure_library(root, Recipe(1, 3, 2, 4))
    assert (root / "flange" / "notes.txt").read_text() == "mine"


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
    for category, scene in SCENES.items():
        counts = Recipe().counts(category)
        assert (counts["train/good"], counts["test/good"]) == (60, 10)
        assert set(counts) == {"train/good", "test/good", *(f"test/{kind}" for kind in scene.defects)}
        assert sum(counts.values()) == 90


def test_fewer_pictures_than_kinds_leaves_no_empty_folders() -> None:
    counts = Recipe(train_good=1, test_good=1, test_defective=2).counts("flange")
    assert sorted(counts.values()) == [1, 1, 1, 1]
