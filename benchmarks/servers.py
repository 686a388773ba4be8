"""Servers that benchmarks start on this machine, what they serve, and the memory they take."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks.two_stage import data_of, network
from ncf_ppt.packed.file import save_packed

ROOT = Path(__file__).parent.parent
SERVE = (sys.executable, "-m", "ppt_commands", "serve")


class Server:
    """A server that runs.

    Attributes:
        process: the one that was started; others may be its children.
        port: where it listens.
        log: what it wrote, to standard output and standard error.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log

    def get(self, path: str, seconds: float = 30.0) -> tuple[int, bytes]:
        """Ask over a connection of its own. Raises OSError where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def wait(self, path: str = "/readyz", seconds: float = 300.0) -> None:
        """Wait until it answers for ``path``."""
        end = time.monotonic() + seconds
        while not self._answers(path):
            if self.process.poll() is not None or time.monotonic() > end:
                raise click.ClickException(f"a server does not answer: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def _answers(self, path: str) -> bool:
        try:
            return self.get(path)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def counter(self, name: str) -> float:
        """The sum of a metric over its labels."""
        found = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", self.get("/metrics")[1].decode(), re.MULTILINE)
        return sum(map(float, found))

    def processes(self) -> list[int]:
        """The process that was started, and all below it."""
        parents = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                found = re.search(r"^PPid:\s(\d+)$", (folder / "status").read_text(), re.MULTILINE)
            except OSError:
                continue
            if found:
                parents[int(folder.name)] = int(found[1])
        family = [self.process.pid]
        for each in family:
            family += [child for child, parent in parents.items() if parent == each]
        return family

    def memory(self) -> list[dict[str, float]]:
        """Megabytes of each process: ``rss``, and ``pss``, which shares out what several of them map."""
        return [found for each in self.processes() if (found := _memory(each))]


def _memory(process: int) -> dict[str, float] | None:
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:  # it has ended
        return None
    found = {
        key.lower(): int(kilobytes) * 1024 / 1e6 for key, kilobytes in re.findall(r"^(Rss|Pss):\s+(\d+)", text, re.M)
    }
    return found or None


@contextmanager
def started(command: Sequence[object], log: Path) -> Iterator[Server]:
    """Start a server on a free port, and end it behind the block. It may not answer yet: see `Server.wait`."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as file:
        words = [*map(str, command), "--port", str(port)]
        process = subprocess.Popen(words, stdout=file, stderr=file, env=environment)
    server = Server(process, port, log)
    try:
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def write_model(folder: Path, *, users: int, items: int, mlp_share: float = 0.1) -> None:
    """Write ``network.packed`` of random weights, see `benchmarks.two_stage.network`, and its prepared ``data``."""
    packed = network(users, items, mlp_share, n_batches=200)
    data_of(packed).save(folder / "data")
    save_packed(packed, folder / "network.packed")


def asked(server: Server, users: int, **options: Any) -> dict[str, Any]:
    """What `benchmarks.load` measures, in a process of its own."""
    words = [f"--{name}={value}" for name, value in options.items() if value is not None]
    command = [sys.executable, "-m", "benchmarks.load", "--port", str(server.port), "--users", str(users), *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
