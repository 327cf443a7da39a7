"""What the benchmarks share: tables that are filled run by run, separate processes, memory, origin of the numbers."""

import ctypes
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd

RUNS = "runs.csv"
"""Table beside the results: for each run its command, commit, machine and seconds."""

_RUN_COLUMNS = ("module", "run", "arguments", "commit", "machine", "seconds")
_POLL_SECONDS = 0.1
_LAST_LINES = 15
# Prefix of the lines that a run shows at once; its other output is shown only if it fails.
_MARK = "  ... "

_STARTED = time.perf_counter()


def log(text: str) -> None:
    """Print a line with the time since the start of this process."""
    print(f"[{timedelta(seconds=int(time.perf_counter() - _STARTED))}] {text}", flush=True)


def report(text: str) -> None:
    """Print, inside a run, a line that is shown at once."""
    print(_MARK + text, flush=True)


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read the rows of a table.

    Args:
        path (Path): CSV file of the table; it need not exist.
        columns (Sequence[str]): Its columns.

    Returns:
        pd.DataFrame: The rows; none if there is no table.

    Raises:
        ValueError: If the table has other columns.
    """
    if not path.exists():
        return pd.DataFrame(columns=list(columns))
    table = pd.read_csv(path, dtype={name: str for name in columns if name not in {"seed", "value"}})
    if list(table.columns) != list(columns):
        msg = f"{path} has the columns {list(table.columns)}, expected {list(columns)}. Move it away, it is outdated."
        raise ValueError(msg)
    return table


def append(path: Path, rows: pd.DataFrame) -> None:
    """Append the rows of a run, all at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(path, mode="a", header=not path.exists(), index=False)


def missing(jobs: Sequence[tuple[str, ...]], table: pd.DataFrame, key: Sequence[str]) -> list[tuple[str, ...]]:
    """Find the jobs without rows in the table.

    Args:
        jobs (Sequence[tuple[str, ...]]): Jobs, each with the values of ``key``.
        table (pd.DataFrame): Existing rows.
        key (Sequence[str]): Columns that identify a job.

    Returns:
        list[tuple[str, ...]]: Missing jobs, in the same order.
    """
    done = set(table[list(key)].astype(str).itertuples(index=False, name=None))
    return [job for job in jobs if job not in done]


def run_all(module: str, jobs: Sequence[tuple[str, ...]], output: Path) -> bool:
    """Run jobs, each as ``python -m module ARGUMENTS --one JOB`` with the arguments of this process.

    Args:
        module (str): Module with ``--one``; it appends its rows itself.
        jobs (Sequence[tuple[str, ...]]): What follows ``--one``.
        output (Path): Folder of the results, where :data:`RUNS` gets a row for each job that succeeds.

    Returns:
        bool: Whether all succeeded. Those that failed are shown with their last lines.
    """
    failed: dict[str, Sequence[str]] = {}
    for number, job in enumerate(jobs, start=1):
        name = ", ".join(job)
        log(f"{number}/{len(jobs)}: {name}")
        started = time.perf_counter()
        last: deque[str] = deque(maxlen=_LAST_LINES)
        # A separate process, to measure its peak memory.
        command = [sys.executable, "-W", "ignore", "-m", module, *sys.argv[1:], "--one", *job]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout or ():
                if line.startswith(_MARK):
                    log(line.rstrip())
                last.append(line)
        if process.returncode:
            failed[name] = [f"exit code {process.returncode}\n", *last]
            log(f"{name} failed, see below")
        else:
            _note_run(output, module, name, time.perf_counter() - started)
    for name, lines in failed.items():
        print(f"\n{name} failed:\n{''.join(lines)}", flush=True)
    return not failed


def _note_run(output: Path, module: str, name: str, seconds: float) -> None:
    values = (module, name, without_folders(sys.argv[1:]), commit(), machine(), round(seconds))
    append(output / RUNS, pd.DataFrame([values], columns=list(_RUN_COLUMNS)))


def without_folders(arguments: Sequence[str]) -> str:
    """Command line without the folders of data and results.

    Args:
        arguments (Sequence[str]): Arguments of the command line.

    Returns:
        str: With ``DIR`` for the folder of a group, without ``--output``.

    Example:
        >>> without_folders(["--group", "a=/data/line:bolt", "--output", "here", "--seeds", "0"])
        '--group a=DIR:bolt --seeds 0'
    """
    shown, words = [], iter(arguments)
    for word in words:
        if word == "--output":
            next(words)
        elif word == "--group":
            name, _, location = next(words).partition("=")
            _, colon, categories = location.partition(":")
            shown += [word, f"{name}=DIR{colon}{categories}"]
        else:
            shown.append(word)
    return shlex.join(shown)


def commit() -> str:
    """Abbreviated commit of the code that runs, with ``+`` if files differ from it; empty outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True)
    if found.returncode:
        return ""
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", "../src", "../configs"],
        check=False,
        capture_output=True,
        text=True,
    )
    return found.stdout.strip() + "+" * bool(changed.stdout)


def machine() -> str:
    """Processor and number of cores of this machine."""
    names = [line.partition(": ")[2] for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def result_of(
    module: str,
    *arguments: Any,
    limit_gb: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """Run ``python -m module ARGUMENTS`` and read the JSON of its last line, to measure its peak memory.

    Args:
        module (str): Module that prints JSON in its last line.
        *arguments (Any): Arguments of its command line.
        limit_gb (float | None): The process is stopped when it needs more memory. Defaults to ``None``: no limit.
        environment (Mapping[str, str] | None): Further environment variables. Defaults to ``None``.

    Returns:
        Any: Its answer; ``None`` if it was stopped.

    Raises:
        RuntimeError: If it fails.
    """
    command = [sys.executable, "-W", "ignore", "-m", module, *map(str, arguments)]
    variables = {**os.environ, **(environment or {})}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
        while limit_gb is not None and process.poll() is None:
            if memory_mb("VmRSS", process.pid) > limit_gb * 1024:
                process.kill()
                return None
            time.sleep(_POLL_SECONDS)
        printed, _ = process.communicate()
    if process.returncode:
        msg = f"{module} {' '.join(map(str, arguments))} ended with exit code {process.returncode}."
        raise RuntimeError(msg)
    return json.loads(printed.splitlines()[-1])


def memory_mb(field: str, process: int | str = "self") -> float:
    """Get ``VmRSS`` (now) or ``VmHWM`` (peak) of a process in MiB."""
    for line in _lines(f"/proc/{process}/status"):
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return 0.0  # the process has just ended


def start_peak() -> float:
    """Reset the peak memory of this process; return the memory to subtract from a later ``VmHWM``."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # otherwise memory that was freed before is reused without being counted
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mb("VmRSS")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
