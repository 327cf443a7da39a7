"""Which documented commands fail, for registration_probe.py.

Runs in the environment that test_packaging.py makes from a wheel. Commands that copy files run, in their order; the
others are only parsed, and the files that they read must be there.
"""

import contextlib
import io
import os
import runpy
import shlex
import sys
from pathlib import Path

from anomalib.cli import AnomalibCLI

from anomalib_unias import cli
from anomalib_unias.shipped import shipped_folder

# Own files of a reader.
OWN = {"data.yaml": "data/unified_folder.yaml"}
EXPORTED = ("line/weights/openvino/model.xml", "line/weights/openvino/model.bin")
QUICK = ("configs", "examples", "cache")


class ParsingCLI(AnomalibCLI):
    """The stock command, which builds neither a model nor data."""

    def instantiate_classes(self) -> None:
        """Build nothing."""


def check(command: str, anomalib: AnomalibCLI) -> None:
    """Raise, or exit with another code than 0, if a command cannot work."""
    program, *arguments = shlex.split(command)
    if program == "anomalib":
        anomalib.parser.parse_args(arguments)
    elif program == "anomalib-unias" and arguments[0] in QUICK:
        sys.argv = [program, *arguments]
        cli.main()
    elif program == "anomalib-unias":
        cli.parser().parse_args(arguments)
    elif program == "cp":
        for source in arguments[:-1]:
            Path(source).read_bytes()
    elif program == "python" and arguments[0].endswith(".py"):
        check_options(arguments)
    else:
        msg = f"nobody knows how to check {program}"
        raise LookupError(msg)


def check_options(arguments: list[str]) -> None:
    """A script must know the options that it gets."""
    sys.argv = [*arguments, "--help"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        runpy.run_path(arguments[0], run_name="__main__")
    unknown = [each for each in arguments if each.startswith("--") and each not in printed.getvalue()]
    if unknown or not printed.getvalue():
        msg = f"unknown options: {unknown}"
        raise LookupError(msg)


def outcome(command: str, anomalib: AnomalibCLI) -> str:
    """What goes wrong; nothing if all is well."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            check(command, anomalib)
    except SystemExit as stopped:
        return "" if not stopped.code else f"{stopped.code}: {errors.getvalue()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def failures(folder: Path, commands: list[str]) -> dict[str, str]:
    """What is wrong with each command, typed in an empty folder."""
    os.chdir(folder)
    for name, source in OWN.items():
        Path(name).write_bytes((shipped_folder("configs") / source).read_bytes())
    for name in EXPORTED:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    anomalib = ParsingCLI(["train", "--model", "Padim", "--data", "MVTecAD"], run=False)
    return {command: outcome(command, anomalib) for command in commands}
