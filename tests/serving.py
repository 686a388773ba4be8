"""A server of ours, started as a person starts it, and asked over its port."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.documents import ROOT


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A running server.

    Attributes:
        port: where it listens.
        said: its lines on standard error.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process, self.port = process, 0
        self.said: list[str] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line.rstrip("\n"))

    def join(self) -> None:
        """Wait for the last of its lines."""
        self._thread.join(10)

    def wait_for(self, words: str, *, seconds: float = 120, behind: int = 0) -> str:
        """Wait until a line on standard error, behind the first ``behind``, holds these words."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in self.said[behind:]:
                if re.search(words, line):
                    return str(line)
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"{words!r} was not said: {self.said}")

    def ask(self, path: str, body: Any = None, *, method: str | None = None, headers: Any = None) -> Answer:
        """Ask over a connection of its own; a body that is no bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            octets = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method or ("GET" if body is None else "POST"), path, octets, headers or {})
            found = connection.getresponse()
            return Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        finally:
            connection.close()

    def counter(self, name: str) -> float:
        """The sum of a metric over its labels."""
        found = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", self.ask("/metrics").body.decode(), re.MULTILINE)
        return sum(map(float, found))

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, seconds: float = 30) -> int:
        """End it; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextmanager
def serving(*arguments: Any, log: Path | None = None, wait: bool = True) -> Iterator[Server]:
    """Start ``ppt-ncf serve`` on a free port, and end it behind the block."""
    command = [sys.executable, "-m", "ppt_commands", "serve", *map(str, arguments), "--port", "0"]
    command += ["--access-log", str(log) if log else "none"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    server = Server(process)
    try:
        if wait:
            found = re.search(r":(\d+)/$", server.wait_for("serving .* at http"))
            assert found is not None
            server.port = int(found[1])
        yield server
    finally:
        try:
            server.stop()
        finally:
            process.kill()
            process.wait()
            server.join()
            assert process.stderr is not None
            process.stderr.close()


class Load:
    """Clients that ask again after 10 ms, each over one connection as long as the server keeps it.

    Args:
        server: whom they ask.
        paths: what they ask for, in turn.
        n_clients: how many they are.

    Attributes:
        answers: path and answer of each request.
        lost: what went wrong instead of an answer.
    """

    def __init__(self, server: Server, paths: list[str], n_clients: int = 4) -> None:
        self.answers: list[tuple[str, Any]] = []
        self.lost: list[str] = []
        self._server, self._paths, self._is_over = server, paths, False
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(n_clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)
        while not self._is_over:
            number += 1
            path = self._paths[number % len(self._paths)]
            try:
                connection.request("GET", path)
                found = connection.getresponse()
                document = json.loads(found.read())
                self.answers.append((path, document))
                if found.status != 200:
                    self.lost.append(f"{path}: {document}")
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(f"{path}: {error!r}")
                connection.close()
            time.sleep(0.01)  # leaves the processor to what is tested
        connection.close()
