"""What the documents tell to type, as far as it needs no installation; the commands of the wheel: test_packaging.py."""

import ast
import contextlib
import io
import re
import runpy
import sys
from importlib import import_module
from importlib.metadata import packages_distributions

import pytest
import yaml
from tests.documentation import ROOT, blocks, commands
from tests.integration.documentation_probe import ParsingCLI

import anomalib_unias
import anomalib_unias.deploy
import anomalib_unias.testing

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BENCHMARKS = [command for command in commands() if command.startswith("python -m benchmarks.")]


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=~! ;]", requirement, maxsplit=1)[0].lower()


def test_documents_have_commands():
    assert len(commands()) > 20
    assert BENCHMARKS


@pytest.mark.parametrize("command", BENCHMARKS)
def test_benchmarks_know_their_options(command, monkeypatch, tmp_path):
    (tmp_path / "product").mkdir()
    _, _, module, *arguments = command.replace("DIR", str(tmp_path)).split()
    monkeypatch.setattr(sys, "argv", [module, *arguments, "--help"])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stopped:
        runpy.run_module(module, run_name="__main__")
    assert stopped.value.code == 0
    assert not [each for each in arguments if each.startswith("--") and each not in printed.getvalue()]


def test_targets_of_make_are_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [command.split()[1] for command in commands() if command.startswith("make ")]
    assert targets
    assert not [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)]


PACKAGES = [anomalib_unias, anomalib_unias.deploy, anomalib_unias.testing]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_the_reference_has_every_public_name(package):
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    described = re.findall(r"^::: (.*)\.(\w+)$", reference, re.MULTILINE)
    assert {name for name in package.__all__ if not name.startswith("_")} <= {name for _, name in described}
    assert all(hasattr(import_module(module), name) for module, name in described)


def test_extras_are_there():
    installed = [command for command in commands() if command.startswith("pip install") and "anomalib-unias" in command]
    extras = {extra for command in installed for extra in re.findall(r"\[(.*?)\]", command)}
    assert {name for extra in extras for name in extra.split(",")} <= PROJECT["optional-dependencies"].keys()
    assert extras


@pytest.mark.parametrize("source", blocks("python"))
def test_python_imports_what_there_is(source):
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    try:
        exec(compile(ast.Module(imports, []), "a document", "exec"), {})
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != "model_api":  # of an extra
            raise


@pytest.fixture(scope="module")
def anomalib():
    """The stock command, which is only asked to parse."""
    return ParsingCLI(["train", "--model", "Padim", "--data", "MVTecAD"], run=False)


@pytest.mark.parametrize("source", blocks("yaml"))
def test_configurations_parse(source, tmp_path, anomalib):
    content = yaml.safe_load(source)
    if str(content.get("model", {}).get("class_path")).endswith("assemble"):
        return  # of the benchmark pipeline, which reads any values
    (tmp_path / "block.yaml").write_text(source)
    rest = {"model": ["--model", "UniASLite"], "data": ["--data", "MVTecAD"]}
    missing = [argument for name, given in rest.items() if name not in content for argument in given]
    config = anomalib.parser.parse_args(["train", "--config", str(tmp_path / "block.yaml"), *missing])
    assert config["train"]["model"]["class_path"]


def imported() -> set[str]:
    """Top-level names of other packages that the code imports, at the top or later."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(str(node.module))
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"anomalib_unias"}


def test_all_that_is_imported_is_declared():
    extras = [each for name, given in PROJECT["optional-dependencies"].items() if name != "dev" for each in given]
    declared = {name_of(requirement) for requirement in (*PROJECT["dependencies"], *extras)}
    distributions = packages_distributions()
    missing = {
        name
        for name in imported()
        # What is not installed, as of an extra that is not in dev, is taken for a distribution of the same name.
        if not {each.lower().replace("_", "-") for each in distributions.get(name, [name])} & declared
    }
    assert not missing
