"""Functions in a process of their own that starts in no time, and what became of it."""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

Work = Callable[[], object]

_UNCAUGHT = 70
"""Exit status of a process that ends with an exception, which Python gives the status of an ordinary error."""

_INTERNAL = ("KeyError", "IndexError", "AttributeError", "AssertionError", "UnboundLocalError", "UnpicklingError")
_LOOK = 0.002


@dataclass(frozen=True)
class Ended:
    """How a process has ended.

    Args:
        status (int | None): Exit status, negative for a signal; ``None`` if it was killed after the time limit.
        told (str): All that it has printed, with the traceback of an exception that nobody caught.
        error (str): Type of this exception or of none, and its message; or the message of ``SystemExit``.
        caught (bool): Whether that message is all that the user sees.
    """

    status: int | None
    told: str
    error: str
    caught: bool

    def kind(self, names: Sequence[str]) -> str:
        """Decide what to count it as.

        Args:
            names (Sequence[str]): Names, one of which a clear message has: of the file, the key, the value.

        Returns:
            str: ``result``, ``hang``, ``crash`` or ``clear_error``, see :mod:`benchmarks.robustness`.
        """
        if self.status is None:
            return "hang"
        if self.status == 0:
            return "result"
        named = any(name in self.error for name in names)
        if self.status < 0 or not named:
            return "crash"
        internal = "Traceback" in self.told if self.caught else self.error.startswith(_INTERNAL)
        return "crash" if internal else "clear_error"


def start(work: Work, told: Path) -> int:
    """Start a function in a copy of this process, which must have one thread.

    Args:
        work (Work): The function.
        told (Path): File for what it prints.

    Returns:
        int: Identifier of the process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        _run(work, told)
    return process


def wait(process: int, told: Path, limit: float) -> Ended:
    """Wait for a process, and kill it after a time.

    Args:
        process (int): From :func:`start`.
        told (Path): The same file.
        limit (float): Seconds.

    Returns:
        Ended: What became of it.
    """
    end = time.monotonic() + limit
    while (found := os.waitpid(process, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            kill(process)
            return Ended(None, _read(told), "", caught=False)
        time.sleep(_LOOK)
    status = os.waitstatus_to_exitcode(found[1])
    note = _note(told)
    said = json.loads(note.read_text()) if note.exists() else {"error": _read(told), "caught": True}
    return Ended(status, _read(told), **said)


def run(work: Work, told: Path, limit: float) -> Ended:
    """Start a function, and wait for it.

    Args:
        work (Work): The function.
        told (Path): File for what it prints.
        limit (float): Seconds.

    Returns:
        Ended: What became of it.
    """
    return wait(start(work, told), told, limit)


def kill(process: int) -> None:
    """End a process as a power failure does (SIGKILL).

    Args:
        process (int): From :func:`start`.
    """
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def _run(work: Work, told: Path) -> NoReturn:
    status = _UNCAUGHT
    try:
        descriptor = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        _note(told).unlink(missing_ok=True)
        status = _called(work, told)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # Not by an exception: it would go through what the parent process cleans up at its end.
        os._exit(status)


def _called(work: Work, told: Path) -> int:
    try:
        work()
    except SystemExit as stop:
        if stop.code in {0, None}:
            return 0
        if not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
            _leave_note(told, str(stop.code), caught=True)
        return stop.code if isinstance(stop.code, int) else 1
    except BaseException as error:
        traceback.print_exc()
        _leave_note(told, f"{type(error).__name__}: {error}", caught=False)
        return _UNCAUGHT
    return 0


def _note(told: Path) -> Path:
    return told.with_suffix(".note")


def _leave_note(told: Path, error: str, *, caught: bool) -> None:
    _note(told).write_text(json.dumps({"error": error, "caught": caught}))


def _read(path: Path) -> str:
    return path.read_text(errors="surrogateescape") if path.exists() else ""
