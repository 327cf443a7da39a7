"""Imports go the way that docs/architecture.md says, and no file is too long to be read."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import anomalib_unias

SOURCES = Path(anomalib_unias.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
LONGEST = 400


def imported(path: Path) -> Iterator[str]:
    """Names of the modules of this package that a file imports, without the package's own."""
    place = path.relative_to(SOURCES).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            yield ".".join((*place[: len(place) - node.level], node.module or node.names[0].name))
        elif node.module == "anomalib_unias":
            yield from (name.name for name in node.names)
        elif (node.module or "").startswith("anomalib_unias."):
            yield str(node.module).removeprefix("anomalib_unias.")


def folder_of(path: Path) -> str:
    return path.relative_to(SOURCES).with_suffix("").parts[0]


def imports_between_folders() -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for path in SOURCES.rglob("*.py"):
        found[folder_of(path)] |= {name.partition(".")[0] for name in imported(path)} - {folder_of(path)}
    return {folder: names for folder, names in found.items() if folder != "__init__"}


def test_architecture_page_says_what_the_code_imports() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| ?(.*?) ?\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    written = {folder: set(filter(None, names.split(", "))) for folder, names in rows}
    assert written == imports_between_folders()


def test_imports_between_folders_have_no_circle() -> None:
    TopologicalSorter(imports_between_folders()).prepare()


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES.rglob("*.py")}
    assert not {path.name: length for path, length in lengths.items() if length > LONGEST}


def test_one_name_is_one_thing() -> None:
    """Every model has its own ``AnomalyMapGenerator``, as anomalib's have."""
    places: dict[str, set[str]] = defaultdict(set)
    for path in SOURCES.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            match node:
                case ast.ClassDef() | ast.FunctionDef():
                    names = [node.name]
                case ast.Assign():
                    names = [target.id for target in node.targets if isinstance(target, ast.Name)]
                case ast.AnnAssign(target=ast.Name()):
                    names = [node.target.id]
                case _:
                    names = []
            for name in names:
                places[name].add(path.relative_to(SOURCES).as_posix())
    twice = {name for name, paths in places.items() if len(paths) > 1 and not name.startswith("_")}
    assert twice == {"AnomalyMapGenerator", "logger"}
