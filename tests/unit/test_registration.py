"""Registration against small stand-ins for torch, anomalib and this package.

The stand-ins import each other the way the real ones do (``import anomalib.models`` is what imports torch, torch calls
``autoload`` at its end), so that every import order costs a tenth of a second. The real ones: test_packaging.py.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import anomalib_unias
from anomalib_unias import registration

TORCH = """
import os
if os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") == "1":
    from anomalib_unias.registration import autoload
    autoload()
"""

ANOMALIB = {
    "anomalib/__init__.py": "",
    "anomalib/models/__init__.py": """
        from anomalib.models import legacy
        from anomalib.models.components import AnomalibModule
        from .image import Padim
        from .video import Fuvas
        ALLOWED_MODULES = {"anomalib.models"}
        __all__ = ["Fuvas", "Padim"]
        """,
    # Places a module that never gets bound in its parent, as _legacy_compat of anomalib 2.7.0 does.
    "anomalib/models/legacy.py": """
        import sys, types
        import torch
        sys.modules["anomalib.models.components.removed"] = types.ModuleType("anomalib.models.components.removed")
        """,
    "anomalib/models/components/__init__.py": """
        import anomalib.data, anomalib.metrics, anomalib.post_processing
        class AnomalibModule: ...
        """,
    "anomalib/models/image/__init__.py": """
        from anomalib.models.components import AnomalibModule
        class Padim(AnomalibModule): ...
        __all__ = ["Padim"]
        """,
    "anomalib/models/video/__init__.py": """
        from anomalib.models.components import AnomalibModule
        class Fuvas(AnomalibModule): ...
        """,
    "anomalib/data/__init__.py": """
        import torch
        class AnomalibDataModule: ...
        __all__ = ["AnomalibDataModule"]
        """,
    "anomalib/metrics/__init__.py": "import torch\n__all__ = []",
    "anomalib/post_processing/__init__.py": "import torch\n__all__ = []",
    "anomalib/callbacks/__init__.py": "import torch\nclass Callback: ...",
    "anomalib/engine/__init__.py": """
        import torch
        import anomalib.callbacks
        from anomalib.models import AnomalibModule
        class Engine: ...
        """,
    "anomalib/cli/__init__.py": "from .cli import main",
    "anomalib/cli/cli.py": """
        import anomalib.data
        from anomalib.engine import Engine
        from anomalib.models import AnomalibModule
        def main(): ...
        """,
}

# These import more of anomalib than the real ones do: a registration that comes too early meets a half-imported module.
OURS = {
    "anomalib_unias/models/__init__.py": "",
    "anomalib_unias/models/unias/__init__.py": "from .lightning_model import UniAS",
    "anomalib_unias/models/unias/lightning_model.py": """
        import torch
        from anomalib.cli import main
        from anomalib.engine import Engine
        from anomalib.models import ALLOWED_MODULES, AnomalibModule
        from anomalib_unias.backbones import register_backbones
        class UniAS(AnomalibModule): ...
        """,
    "anomalib_unias/backbones/__init__.py": """
        from .lite import register_backbones
        """,
    "anomalib_unias/backbones/lite.py": """
        import torch
        from anomalib.models import Padim
        calls = []
        def register_backbones():
            calls.append(1)
        """,
    "anomalib_unias/data/__init__.py": "",
    "anomalib_unias/data/unified.py": """
        import torch
        from anomalib.data import AnomalibDataModule
        class UnifiedDataModule(AnomalibDataModule): ...
        """,
    "anomalib_unias/data/synthetic.py": """
        from anomalib_unias.data.unified import UnifiedDataModule
        class SyntheticProducts(UnifiedDataModule): ...
        """,
}

EXPORTS = {
    "UniAS": "anomalib_unias.models.unias",
    "UnifiedDataModule": "anomalib_unias.data.unified",
    "SyntheticProducts": "anomalib_unias.data.synthetic",
}

# Prints what a program sees that never imported anomalib_unias itself.
REPORT = """
import json, logging, sys
import anomalib.models, anomalib.data
names = json.loads(sys.argv[1])
star = {}
exec("from anomalib.models import *", star)
print(json.dumps({
    "offered": {name: all(
        isinstance(getattr(sys.modules[module], name, None), type) and sys.modules[module].__all__.count(name) == 1
        for module in modules) for name, modules in names.items()},
    "star": "UniAS" in star,
    "subclasses": [c.__name__ for c in anomalib.models.AnomalibModule.__subclasses__()].count("UniAS"),
    "allowed": "anomalib_unias" in anomalib.models.ALLOWED_MODULES,
    "backbones": len(getattr(sys.modules.get("anomalib_unias.backbones.lite"), "calls", [])),
    "listening": [n for n, m in sys.modules.items() if type(m).__name__ == "_Package"]
        + [f for f in map(repr, sys.meta_path) if "anomalib" in f],
}))
"""


@dataclass(frozen=True)
class Outcome:
    """What the program printed, and what it logged."""

    report: dict
    log: str


class Sandbox:
    """A folder with the stand-ins and the real registration.py, and an interpreter that sees nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = dict.fromkeys(registration.NAMES, "anomalib_unias.others") | EXPORTS
        others = "\n".join(f"class {name}: ..." for name in registration.NAMES if name not in EXPORTS)
        lazy = f"""
        from importlib import import_module
        _EXPORTS = {names!r}
        def __getattr__(name):
            if name in _EXPORTS:
                return getattr(import_module(_EXPORTS[name]), name)
            raise AttributeError(name)
        """
        files = ANOMALIB | OURS | {"torch/__init__.py": TORCH, "anomalib_unias/__init__.py": lazy}
        for path, source in (files | {"anomalib_unias/others.py": others}).items():
            self.write(path, source)
        self.write("anomalib_unias/registration.py", Path(registration.__file__).read_text(encoding="utf-8"))

    def write(self, path: str, source: str) -> None:
        """Write a module; the common indentation goes."""
        lines = source.split("\n")
        indent = min((len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()), default=0)
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([lines[0], *(line[indent:] for line in lines[1:])]), encoding="utf-8")

    def run(self, program: str, **environment: str) -> str:
        """Run a program, return what it printed; an error in it is an error here."""
        return self._run(program, environment).stdout

    def report(self, program: str, **environment: str) -> Outcome:
        """Run a program, then report what it registered."""
        result = self._run(program + REPORT, environment)
        return Outcome(json.loads(result.stdout), result.stderr)

    def _run(self, program: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
        inherited = {key: value for key, value in os.environ.items() if not key.endswith("_AUTOLOAD")}
        result = subprocess.run(
            # -S: no site-packages, hence no real torch and anomalib.
            [sys.executable, "-S", "-B", "-c", program, json.dumps(registration.NAMES)],
            env=inherited | {"PYTHONPATH": str(self.folder)} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


REGISTERED = {
    "offered": dict.fromkeys(registration.NAMES, True),
    "star": True,
    "subclasses": 1,
    "allowed": True,
    "backbones": 1,
    "listening": [],
}
NOT_REGISTERED = REGISTERED | {
    "offered": dict.fromkeys(registration.NAMES, False),
    "star": False,
    "subclasses": 0,
    "allowed": False,
    "backbones": 0,
}


@pytest.mark.parametrize(
    "first",
    [
        "import torch",
        "import anomalib",
        "import anomalib.data",
        "import anomalib.models",
        "import anomalib.models.video",
        "import anomalib.engine",
        "from anomalib.cli.cli import main",
        "import anomalib_unias",
        "from anomalib_unias import UniAS",
        "from anomalib_unias import UnifiedDataModule",
        "import anomalib_unias.models.unias.lightning_model",
        "import anomalib_unias.data.synthetic",
        "import anomalib_unias.backbones",
        "import torch; import anomalib_unias.models.unias",
        "import anomalib; import anomalib_unias.models.unias",
    ],
)
def test_every_import_order_ends_registered(sandbox: Sandbox, first: str) -> None:
    outcome = sandbox.report(first)

    assert outcome.report == REGISTERED
    assert outcome.log == ""


def test_an_import_of_this_package_is_enough(sandbox: Sandbox) -> None:
    """The hook fires inside our half-imported module; after it the names are there without another import."""
    printed = sandbox.run(
        "import anomalib_unias.backbones, sys\n"
        "print('UniAS' in sys.modules['anomalib.models'].__all__)\n"
        "print('UnifiedDataModule' in sys.modules['anomalib.data'].__all__)"
    )

    assert printed.split() == ["True", "True"]


def test_torch_alone_imports_nothing_else(sandbox: Sandbox) -> None:
    printed = sandbox.run("import torch, sys; print(*sorted(n for n in sys.modules if n.startswith('anomalib')))")

    assert printed.split() == ["anomalib_unias", "anomalib_unias.registration"]


def test_data_alone_does_not_import_the_models(sandbox: Sandbox) -> None:
    printed = sandbox.run(
        "import anomalib.data, sys\n"
        "print('UnifiedDataModule' in anomalib.data.__all__, 'anomalib.models' in sys.modules)"
    )

    assert printed.split() == ["True", "False"]


@pytest.mark.parametrize("variable", ["ANOMALIB_UNIAS_AUTOLOAD", "TORCH_DEVICE_BACKEND_AUTOLOAD"])
def test_either_variable_switches_it_off(sandbox: Sandbox, variable: str) -> None:
    assert sandbox.report("import torch", **{variable: "0"}).report == NOT_REGISTERED


def test_both_variables_set_to_one_leave_it_on(sandbox: Sandbox) -> None:
    variables = {"ANOMALIB_UNIAS_AUTOLOAD": "1", "TORCH_DEVICE_BACKEND_AUTOLOAD": "1"}

    assert sandbox.report("import torch", **variables).report == REGISTERED


@pytest.mark.parametrize(
    "first",
    [
        "import torch; autoload(); autoload()",
        "import anomalib.models; autoload(); autoload()",
        "autoload(); import anomalib.data; autoload(); import anomalib.models; autoload()",
    ],
)
def test_calling_it_again_changes_nothing(sandbox: Sandbox, first: str) -> None:
    assert sandbox.report(f"from anomalib_unias.registration import autoload; {first}").report == REGISTERED


@pytest.mark.parametrize("before", ["", "import anomalib", "import anomalib.data", "import anomalib.cli"])
def test_it_can_be_called_by_hand_where_torch_does_not(sandbox: Sandbox, before: str) -> None:
    program = f"{before}\nfrom anomalib_unias.registration import autoload; autoload()"

    assert sandbox.report(program, TORCH_DEVICE_BACKEND_AUTOLOAD="0").report == REGISTERED


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import a_package_that_is_not_installed", "No module named 'a_package_that_is_not_installed'"),
        ("raise RuntimeError('broken')", "RuntimeError: broken"),
        ("def (", "SyntaxError"),
        ("", "UniAS"),
    ],
)
@pytest.mark.parametrize("first", ["import torch", "import anomalib.models", "import anomalib.cli"])
def test_a_broken_model_is_logged_once_and_harms_nothing(
    sandbox: Sandbox, first: str, source: str, message: str
) -> None:
    sandbox.write("anomalib_unias/models/unias/lightning_model.py", source)

    outcome = sandbox.report(first)

    offered = REGISTERED["offered"] | {"UniAS": False}
    assert outcome.report == REGISTERED | {"offered": offered, "star": False, "subclasses": 0}
    assert len(outcome.log.splitlines()) == 1
    assert "could not register UniAS" in outcome.log
    assert message in outcome.log


def test_broken_backbones_do_not_take_the_names_with_them(sandbox: Sandbox) -> None:
    sandbox.write("anomalib_unias/backbones/lite.py", "def register_backbones(): raise OSError('no weights')")

    outcome = sandbox.report("import anomalib.models")

    assert outcome.report == REGISTERED | {"backbones": 0}
    assert "could not register backbones: OSError: no weights" in outcome.log


def test_an_anomalib_without_the_white_list_still_imports(sandbox: Sandbox) -> None:
    models = ANOMALIB["anomalib/models/__init__.py"].replace("ALLOWED_MODULES", "SOMETHING_ELSE")
    sandbox.write("anomalib/models/__init__.py", models)
    sandbox.write("anomalib_unias/models/unias/lightning_model.py", "class UniAS: ...")

    printed = sandbox.run("import anomalib.models; print('UniAS' in anomalib.models.__all__)")

    assert printed.split() == ["True"]


def test_after_a_failed_import_the_next_one_registers(sandbox: Sandbox) -> None:
    """The outermost import, which registration waits for, never finishes here."""
    sandbox.write("anomalib/engine/__init__.py", "import anomalib.models\nraise ImportError('not installed')")
    sandbox.write(
        "anomalib_unias/models/unias/lightning_model.py", "from anomalib.models import AnomalibModule as UniAS"
    )

    printed = sandbox.run(
        "try:\n    import anomalib.engine\nexcept ImportError:\n    import anomalib.callbacks\n"
        "import anomalib.models; print('UniAS' in anomalib.models.__all__)"
    )

    assert printed.split() == ["True"]


def test_importing_anomalib_in_a_thread_registers(sandbox: Sandbox) -> None:
    program = """
import threading, importlib, torch
threads = [threading.Thread(target=importlib.import_module, args=[n])
           for n in ("anomalib.engine", "anomalib.models", "anomalib.data", "anomalib_unias.data.synthetic")]
for t in threads: t.start()
for t in threads: t.join()
"""
    assert sandbox.report(program).report == REGISTERED


def test_every_name_is_public_in_this_package() -> None:
    """The shortest path of a class goes into config.yaml, and only ``anomalib_unias.X`` is on the white-list."""
    assert set(registration.NAMES) <= set(anomalib_unias.__all__)


def test_the_distribution_announces_autoload_to_torch() -> None:
    (entry_point,) = importlib.metadata.entry_points(group="torch.backends", name="anomalib_unias")

    assert entry_point.load() is registration.autoload


def test_it_adds_little_to_import_torch() -> None:
    """A few milliseconds on an idle machine; the bound leaves room for a busy one. torch itself takes seconds."""
    program = """
import time, torch
start = time.perf_counter()
from anomalib_unias.registration import autoload
autoload()
print(time.perf_counter() - start)
"""
    environment = os.environ | {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    printed = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)

    assert float(printed) < 0.1
