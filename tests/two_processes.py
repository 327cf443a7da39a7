"""Two gloo processes, as Lightning starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def run_in_two_processes(script: str | Path, *arguments: str | Path, machines: int = 1) -> None:
    """Run a script as both of two processes, of one machine or of two, and wait for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    world |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env={**os.environ, **world, **_place(rank, machines)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output


def _place(rank: int, machines: int) -> dict[str, str]:
    node, local = (rank, 0) if machines == 2 else (0, rank)
    return {"NODE_RANK": str(node), "LOCAL_RANK": str(local)}
