"""Processes that join one world as torchrun would have them, for tests."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_processes(n: int, work: str, folder: Path) -> None:
    """Let ``n`` processes call a function ``module.name`` with ``folder``, to their end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    module, _, name = work.rpartition(".")
    code = f"import sys; from pathlib import Path; from {module} import {name}; {name}(Path(sys.argv[1]))"
    processes = []
    for rank in range(n):
        torchrun = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        given = {name: str(value) for name, value in torchrun.items()} | {
            "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"
        }  # fmt: skip
        command = [sys.executable, "-c", code, str(folder)]
        processes.append(subprocess.Popen(command, cwd=ROOT, env={**os.environ, **given}, stderr=subprocess.PIPE))
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()
