"""What the stock anomalib knows, as JSON in the last line.

``registration_probe.py SCRIPT FIRST_IMPORT COMMANDS DOCUMENTED``, in the environments that test_packaging.py makes.
SCRIPT is the installed console script ``anomalib``, FIRST_IMPORT the statement with which the program begins, COMMANDS
a JSON list of command lines that are parsed, or shown if they ask for help, DOCUMENTED one of the commands that the
documents have.
"""

import contextlib
import importlib.metadata
import importlib.util
import io
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

TINY = {"backbone": "test_resnet", "pre_trained": False}
SMALL = {**TINY, "hidden_dim": 32, "feedforward_dim": 64}
# Name of a model, the names that anomalib makes of it, and arguments.
MODELS = [
    ("UniAS", ("uni_as", "uni_a_s"), SMALL),
    ("UniASLite", ("uni_as_lite",), SMALL),
    ("UniAD", ("uni_ad", "uni_a_d"), SMALL),
    ("UniADLite", ("uni_ad_lite",), SMALL),
    ("ReContrast", ("re_contrast",), TINY),
    ("ReContrastLite", ("re_contrast_lite",), TINY),
]
UNIFIED = {"datamodule": "MVTecAD", "categories": ["bottle", "cable"]}


def outcome(build: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The type of what is built, or of the error."""
    try:
        return type(build(*args, **kwargs)).__name__
    except Exception as error:
        return type(error).__name__


def look_up() -> dict[str, str]:
    """The names, through the functions that the benchmark pipeline uses."""
    from anomalib.data import get_datamodule
    from anomalib.models import get_model

    found = {"padim": outcome(get_model, "padim", pre_trained=False)}
    for model, others, arguments in MODELS:
        for name in (model, *others):
            found[name] = outcome(get_model, name, **arguments)
        found[f"class_path: {model}"] = outcome(get_model, {"class_path": model, "init_args": arguments})
    for path in ("anomalib_unias.UniAS", "anomalib.models.UniAS", "anomalib.models.image.UniAS"):
        found[f"class_path: {path}"] = outcome(get_model, {"class_path": path, "init_args": SMALL})
    for path in ("UnifiedDataModule", "anomalib_unias.UnifiedDataModule"):
        found[f"class_path: {path}"] = outcome(get_datamodule, {"class_path": path, "init_args": UNIFIED})
    return found


def offered() -> list[str]:
    """Names of ours that the public modules of anomalib list and have."""
    import anomalib.data
    import anomalib.models
    import anomalib.post_processing

    modules = (anomalib.models, anomalib.models.image, anomalib.data, anomalib.post_processing)
    return [
        f"{module.__name__}.{name}"
        for module in modules
        for name in module.__all__
        if getattr(module, name).__module__.startswith("anomalib_unias")
    ]


def run_command(script: str, command: list[str]) -> str:
    """Show the help with the console script, or parse a command and build what it names."""
    if any(argument.endswith("help") for argument in command):
        printed = io.StringIO()
        sys.argv = [script, *command]
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            runpy.run_path(script, run_name="__main__")
        return printed.getvalue()

    from anomalib.cli import AnomalibCLI

    try:
        cli = AnomalibCLI(command, run=False)
    except SystemExit as error:
        return f"exit {error.code}"
    return " ".join(type(part).__name__ for part in (cli.model, cli.datamodule, cli.model.post_processor))


def check_documents(commands: list[str]) -> dict[str, str]:
    """What is wrong with each documented command."""
    if not commands:
        return {}
    from documentation_probe import failures

    empty = Path("empty")
    empty.mkdir()
    return failures(empty, commands)


def main(script: str, first_import: str, commands: str, documented: str) -> None:
    """Print the report."""
    exec(first_import, {})
    # The console script imports what it needs: whatever it runs comes before the imports below.
    shown = {" ".join(command): run_command(script, command) for command in json.loads(commands)}

    import timm
    from anomalib.models import list_models

    package = importlib.util.find_spec("anomalib_unias")
    report = {
        "commands": shown,
        "offered": offered(),
        "listed": sorted(set(list_models("pascal")) & {name for name, *_ in MODELS}),
        "look_up": look_up(),
        "backbone": timm.models.is_model("tf_efficientnet_lite0_pypi"),
        "location": package and package.origin,
        "entry_points": [e.value for e in importlib.metadata.entry_points(group="torch.backends")],
        "listening": [name for name, module in sys.modules.items() if type(module).__name__ == "_Package"]
        + [finder for finder in map(repr, sys.meta_path) if "anomalib_unias" in finder],
        "documents": check_documents(json.loads(documented)),
    }
    sys.stdout.write(f"\n{json.dumps(report)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
