"""Runs in separate processes, one after the other; completed runs are not repeated."""

import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pandas as pd

_LAST_LINES = 15
# Prefix of the lines that a run shows at once; its other output is shown only if it fails.
_MARK = "  ... "

_STARTED = time.perf_counter()


def say(text: str) -> None:
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
        msg = f"{path} has the columns {list(table.columns)}, expected {list(columns)}. Move it away: it is of old."
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


def run_all(module: str, jobs: Sequence[tuple[str, ...]]) -> bool:
    """Run jobs, each as ``python -m module ARGUMENTS --one JOB`` with the arguments of this process.

    Args:
        module (str): Module with ``--one``; it appends its rows itself.
        jobs (Sequence[tuple[str, ...]]): Values for ``--one``.

    Returns:
        bool: Whether all succeeded. For failed jobs the last lines of their output are shown.
    """
    failed: dict[str, Sequence[str]] = {}
    for number, job in enumerate(jobs, start=1):
        name = ", ".join(job)
        say(f"{number}/{len(jobs)}: {name}")
        last: deque[str] = deque(maxlen=_LAST_LINES)
        # A separate process, to measure its peak memory.
        command = [sys.executable, "-W", "ignore", "-m", module, *sys.argv[1:], "--one", *job]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout or ():
                if line.startswith(_MARK):
                    say(line.rstrip())
                last.append(line)
        if process.returncode:
            failed[name] = [f"exit code {process.returncode}\n", *last]
            say(f"{name} failed, see below")
    for name, lines in failed.items():
        print(f"\n{name} failed:\n{''.join(lines)}", flush=True)
    return not failed
