"""Runs functions in forked processes, which start at once, and reports how they ended."""

import ctypes
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
"""Exit status for an uncaught exception, which in Python would have the status of an ordinary error."""

_DIE_WITH_PARENT = 1
_INTERNAL = ("KeyError", "IndexError", "AttributeError", "AssertionError", "UnboundLocalError", "UnpicklingError")
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Args:
        status (int | None): Exit status, negative for a signal; ``None`` if it was killed after the time limit.
        output (str): Its output, with the traceback of an uncaught exception.
        error (str): Type and message of the exception, or the message of ``SystemExit``; empty if there is none.
        caught (bool): Whether that message is all that the user sees.
    """

    status: int | None
    output: str
    error: str
    caught: bool

    def kind(self, names: Sequence[str]) -> str:
        """Classify the end of the process.

        Args:
            names (Sequence[str]): Names of the file, key or value at fault; a clear message contains one of them.

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
        internal = "Traceback" in self.output if self.caught else self.error.startswith(_INTERNAL)
        return "crash" if internal else "clear_error"


def start(work: Work, output: Path) -> int:
    """Start a function in a copy of this process, which must have one thread.

    Args:
        work (Work): The function.
        output (Path): File for its output.

    Returns:
        int: Identifier of the process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        _run(work, output)
    return process


def wait(process: int, output: Path, limit: float) -> Ended:
    """Wait for a process, and kill it if it hangs.

    A process hangs if it has computed for longer than the limit, or has not computed at all for half of it. Wall time
    would be no measure on a machine that is shared with others.

    Args:
        process (int): Identifier from :func:`start`.
        output (Path): File for its output, as given to :func:`start`.
        limit (float): Seconds of computing time.

    Returns:
        Ended: How the process ended.
    """
    used, since = 0.0, time.monotonic()
    while (found := os.waitpid(process, os.WNOHANG)) == (0, 0):
        now = _computing_time(process)
        if now > used:
            used, since = now, time.monotonic()
        if used > limit or time.monotonic() - since > limit / 2:
            kill(process)
            return Ended(None, _read(output), "", caught=False)
        time.sleep(_POLL_SECONDS)
    status = os.waitstatus_to_exitcode(found[1])
    note = _note(output)
    record = json.loads(note.read_text()) if note.exists() else {"error": _read(output), "caught": True}
    return Ended(status, _read(output), **record)


def run(work: Work, output: Path, limit: float) -> Ended:
    """Start a function, and wait for it.

    Args:
        work (Work): The function.
        output (Path): File for its output.
        limit (float): Seconds, see :func:`wait`.

    Returns:
        Ended: How the process ended.
    """
    return wait(start(work, output), output, limit)


def kill(process: int) -> None:
    """End a process at once (SIGKILL), as in a power failure.

    Args:
        process (int): Identifier from :func:`start`.
    """
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def _run(work: Work, output: Path) -> NoReturn:
    status = _UNCAUGHT
    try:
        # Linux: a process that hangs does not outlive the benchmark.
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        _note(output).unlink(missing_ok=True)
        status = _run_work(work, output)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # Not by an exception, which would run the clean-up code of the parent process.
        os._exit(status)


def _run_work(work: Work, output: Path) -> int:
    try:
        work()
    except SystemExit as stop:
        if stop.code in {0, None}:
            return 0
        if not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
            _write_note(output, str(stop.code), caught=True)
        return stop.code if isinstance(stop.code, int) else 1
    except BaseException as error:
        traceback.print_exc()
        _write_note(output, f"{type(error).__name__}: {error}", caught=False)
        return _UNCAUGHT
    return 0


def _computing_time(process: int) -> float:
    """Get the processor time of a process in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _note(output: Path) -> Path:
    return output.with_suffix(".note")


def _write_note(output: Path, error: str, *, caught: bool) -> None:
    _note(output).write_text(json.dumps({"error": error, "caught": caught}))


def _read(path: Path) -> str:
    return path.read_text(errors="surrogateescape") if path.exists() else ""
