"""The stock anomalib knows our names after ``pip install``, in every import order, and forgets them after uninstall.

Clean environments without a download: a new virtual environment sees every package of the running one through a folder
of links, except this one. An import of anomalib takes 10 s, so each program answers many questions, two run at a time.
"""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.documentation import commands as documented_commands

ROOT = Path(__file__).parents[2]
PROBE = Path(__file__).with_name("registration_probe.py")
# Of the repository, or of an environment of another program.
ELSEWHERE = ("make ", "pip ", "mkdir ", "docker ", "python -m venv ", "serving/bin/", "python -m benchmarks.")
DOCUMENTED = [command for command in documented_commands() if not command.startswith(ELSEWHERE)]
SCRIPT = Path(sysconfig.get_path("scripts")) / "anomalib"

TINY = "--model.backbone test_resnet --model.pre_trained false"
SMALL = f"{TINY} --model.hidden_dim 32 --model.feedforward_dim 64"
UNIFIED = "--data UnifiedDataModule --data.datamodule MVTecAD --data.categories [bottle]"
MODELS = ("ReContrast", "ReContrastLite", "UniAD", "UniADLite", "UniAS", "UniASLite")
HELP = ["train --model.help UniAS", "train --model.help UniADLite", "train --model.help ReContrast", "train --help"]
BUILD = [
    *(f"{command} --model UniAS {SMALL} {UNIFIED}" for command in ("train", "fit", "validate", "test", "predict")),
    *(f"export --model UniAS {SMALL} --export_type {kind}" for kind in ("torch", "onnx", "openvino")),
    f"train --model anomalib_unias.UniAS {SMALL} {UNIFIED}",
    f"train --model UniAD {SMALL} {UNIFIED}",
    f"predict --model ReContrast {TINY} {UNIFIED}",
    f"export --model anomalib_unias.ReContrast {TINY} --export_type openvino",
]
SHORT, DOTTED = f"train --model UniAS {SMALL}", f"train --model anomalib_unias.UniAS {SMALL}"

pytest.importorskip("pip", reason="environments are filled with pip")
pytest.importorskip("hatchling", reason="the wheel is built without a download")


@dataclass(frozen=True)
class Environment:
    """A virtual environment with everything but this package."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, dependencies: Path) -> "Environment":
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        environment = cls(folder)
        (environment.packages / "dependencies.pth").write_text(f"{dependencies}\n", encoding="utf-8")
        return environment

    @property
    def packages(self) -> Path:
        return next(self.folder.glob("lib/python*/site-packages"))

    def run(self, *arguments: str | Path, **variables: str) -> str:
        """Run its Python outside of this repository; return what it printed."""
        hidden = ("PYTHONPATH", "ANOMALIB_UNIAS_AUTOLOAD", "TORCH_DEVICE_BACKEND_AUTOLOAD")
        inherited = {key: value for key, value in os.environ.items() if key not in hidden}
        result = subprocess.run(
            [self.folder / "bin" / "python", *arguments],
            cwd=self.folder,
            env=inherited | {"PYTHONNOUSERSITE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def pip(self, *arguments: str | Path) -> None:
        self.run("-m", "pip", "--disable-pip-version-check", "--quiet", *arguments)

    def install(self, *source: str | Path) -> "Environment":
        self.pip("install", "--no-index", "--no-deps", "--no-build-isolation", *source)
        return self

    def uninstall(self) -> "Environment":
        self.pip("uninstall", "--yes", "anomalib-unias")
        return self

    def probe(self, first_import: str, commands: list[str], documented: list[str], **variables: str) -> dict[str, Any]:
        lines = json.dumps([command.split() for command in commands])
        printed = self.run(PROBE, SCRIPT, first_import, lines, json.dumps(documented), **variables)
        return json.loads(printed.splitlines()[-1])

    def files(self) -> set[Path]:
        """What is in there, apart from compiled modules."""
        return {
            path.relative_to(self.folder)
            for path in self.folder.rglob("*")
            if "__pycache__" not in path.parts and not path.is_symlink()
        }


@dataclass
class Installation:
    """Environments, the files that were there before installation, and the programs that run in them."""

    wheel: Path
    from_wheel: Environment
    editable: Environment
    removed: Environment
    before: set[Path]
    probes: dict[str, Future[dict[str, Any]]] = field(default_factory=dict)

    def report(self, name: str) -> dict[str, Any]:
        return self.probes[name].result()


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("packaging")
    dependencies = folder / "dependencies"
    dependencies.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "anomalib_unias" not in entry.name:
            (dependencies / entry.name).symlink_to(entry)

    environments = [Environment.create(folder / name, dependencies) for name in ("wheel", "editable", "removed")]
    from_wheel, editable, removed = environments
    before = removed.files()
    from_wheel.pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    from_wheel.install(wheel)
    editable.install("--editable", ROOT)
    removed.install(wheel).uninstall().install("--editable", ROOT).uninstall()

    made = Installation(wheel, from_wheel, editable, removed, before)
    with ThreadPoolExecutor(max_workers=2) as pool:
        for name, environment, first_import, commands, documented, variables in (
            ("console script", from_wheel, "", HELP + BUILD, DOCUMENTED, {}),
            ("torch", from_wheel, "import torch", [], [], {}),
            ("switched off", from_wheel, "", [SHORT, DOTTED], [], {"ANOMALIB_UNIAS_AUTOLOAD": "0"}),
            ("this package", editable, "from anomalib_unias import UniAS", [], [], {}),
            ("models", editable, "import anomalib, anomalib.models", [], [], {}),
            ("removed", removed, "import torch", [SHORT], [], {}),
        ):
            made.probes[name] = pool.submit(environment.probe, first_import, commands, documented, **variables)
        yield made


@pytest.mark.parametrize("name", ["console script", "torch", "this package", "models"])
def test_stock_anomalib_knows_the_names(installation: Installation, name: str) -> None:
    report = installation.report(name)

    assert report["listed"] == list(MODELS)
    assert report["look_up"] == {
        **{name: name for name in MODELS},
        **{f"class_path: {name}": name for name in MODELS},
        "uni_as": "UniAS",
        "uni_a_s": "UniAS",
        "uni_as_lite": "UniASLite",
        "uni_ad": "UniAD",
        "uni_a_d": "UniAD",
        "uni_ad_lite": "UniADLite",
        "re_contrast": "ReContrast",
        "re_contrast_lite": "ReContrastLite",
        "class_path: anomalib_unias.UniAS": "UniAS",
        "class_path: anomalib.models.UniAS": "UniAS",
        "class_path: anomalib.models.image.UniAS": "UniAS",
        "class_path: UnifiedDataModule": "UnifiedDataModule",
        "class_path: anomalib_unias.UnifiedDataModule": "UnifiedDataModule",
        "padim": "Padim",
    }
    modules = ("anomalib.models", "anomalib.models.image")
    assert {f"{module}.{name}" for module in modules for name in MODELS} <= set(report["offered"])
    assert {"anomalib.data.UnifiedDataModule", "anomalib.data.SyntheticProducts"} <= set(report["offered"])
    assert len(report["offered"]) == len(set(report["offered"]))
    assert report["backbone"]
    assert report["listening"] == []


def test_the_console_script_explains_the_model(installation: Installation) -> None:
    shown = installation.report("console script")["commands"]

    assert "--model.hidden_dim" in shown["train --model.help UniAS"]
    assert "--model.masked_attentions" in shown["train --model.help UniADLite"]
    assert "--model.encoder_learning_rate" in shown["train --model.help ReContrast"]
    assert all(f"anomalib_unias.{name}" in shown["train --help"] for name in (*MODELS, "UnifiedDataModule"))


@pytest.mark.parametrize(
    "command", BUILD, ids=lambda command: command.replace(SMALL, "").replace(TINY, "").replace(UNIFIED, "")
)
def test_every_command_builds_model_and_data_by_name(installation: Installation, command: str) -> None:
    data = "NoneType" if command.startswith("export") else "UnifiedDataModule"

    model = command.split()[2].removeprefix("anomalib_unias.")

    assert installation.report("console script")["commands"][command] == f"{model} {data} OrderPreservingPostProcessor"


@pytest.mark.parametrize("command", DOCUMENTED)
def test_every_documented_command_works_from_a_wheel_in_an_empty_folder(
    installation: Installation, command: str
) -> None:
    assert installation.report("console script")["documents"][command] == ""


def test_the_wheel_contains_the_package_and_nothing_else(installation: Installation) -> None:
    files = {name for name in zipfile.ZipFile(installation.wheel).namelist() if ".dist-info/" not in name}
    package = ROOT / "src" / "anomalib_unias"
    sources = {"anomalib_unias": package}
    sources |= {f"anomalib_unias/{name}": ROOT / name for name in ("configs", "examples")}
    expected = {
        f"{target}/{path.relative_to(source).as_posix()}"
        for target, source in sources.items()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert files == expected
    assert "anomalib_unias/py.typed" in files


def test_wheel_and_editable_install_use_their_own_files(installation: Installation) -> None:
    installed = Path(installation.report("torch")["location"])
    edited = Path(installation.report("models")["location"])

    assert installed.is_relative_to(installation.from_wheel.folder)
    assert edited == ROOT / "src" / "anomalib_unias" / "__init__.py"


def test_switched_off_leaves_the_dotted_path(installation: Installation) -> None:
    """Fails once anomalib finds third-party models by itself: then registration.py can go."""
    report = installation.report("switched off")

    assert report["commands"] == {SHORT: "exit 2", DOTTED: "UniAS NoneType OrderPreservingPostProcessor"}
    assert report["offered"] == []
    assert report["look_up"]["class_path: anomalib_unias.UniAS"] == "UnknownModelError"
    assert report["look_up"]["class_path: UnifiedDataModule"] == "UnknownDatamoduleError"


def test_uninstalling_leaves_nothing(installation: Installation) -> None:
    report = installation.report("removed")

    assert installation.removed.files() == installation.before
    assert report["location"] is None
    assert report["entry_points"] == []
    assert report["commands"] == {SHORT: "exit 2"}
    assert report["offered"] == []
    assert not report["listed"]
    assert not report["backbone"]
    assert report["look_up"].pop("padim") == "Padim"
    assert set(report["look_up"].values()) == {"UnknownModelError", "UnknownDatamoduleError"}
