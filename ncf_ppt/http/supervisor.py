"""The process that a person starts: it listens, has models loaded, and keeps the workers alive.

It computes nothing and answers nothing, and holds what must outlive a worker: the listener, the counters and the file
into which the model was loaded.
"""

import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import ncf_ppt
from ncf_ppt.http.channel import Channel
from ncf_ppt.http.metrics import Metrics
from ncf_ppt.http.settings import Settings, read_tokens
from ppt_core.errors import DataError
from ppt_core.threads import usable_cores

_BACKLOG = 1024
_LOOK = 1.0  # seconds between looks at the model's file
_SHORT_LIFE, _LONGEST_WAIT = 10.0, 30.0  # seconds: of a worker, and before another one is started
_SPARE = 2.0  # seconds behind the grace after which a worker is killed
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

Tell = Callable[[str], None]


@dataclass(eq=False)
class _Worker:
    """A worker as its supervisor sees it.

    Attributes:
        row: of the metrics.
        since: when it was started, by `time.monotonic`.
        replaces: what is to stop when this one is ready.
        stops_by: when it is killed; None while it is to live.
    """

    process: "subprocess.Popen[bytes]"
    channel: Channel
    row: int
    since: float
    replaces: "_Worker | None" = None
    stops_by: float | None = None


def serve(settings: Settings, *, tell: Tell, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    SIGHUP, or another file in the model's place, loads the model anew: once it is verified, every worker goes on with
    it; a bad one is refused, and the old one stays. SIGUSR1 starts every worker anew, one after the other.

    Args:
        settings: see `ncf_ppt.http.settings.Settings`.
        tell: hears in one line what whoever runs the server may want to know.
        ready: hears the address once requests are answered.

    Raises `DataError` if the model, a side file or the address cannot be used, or a package is missing.
    """
    for name in ("uvicorn", "httptools", "uvloop"):
        if find_spec(name) is None:
            raise DataError(f"serving needs the package {name}; `pip install 'ppt-ncf[serve]'` brings it")
    tokens = () if settings.token_file is None else read_tokens(settings.token_file)
    if settings.access_log not in (None, "-"):
        _try_to_open(Path(settings.access_log))
    with _listen(settings.host, settings.port) as listener, tempfile.TemporaryFile() as counters:
        supervisor = _Supervisor(settings, tokens, listener, counters, tell, ready)
        try:
            supervisor.run()
        finally:
            supervisor.close()


class _Supervisor:
    def __init__(
        self,
        settings: Settings,
        tokens: tuple[bytes, ...],
        listener: socket.socket,
        counters: BinaryIO,
        tell: Tell,
        ready: Callable[[str], None],
    ) -> None:
        self._settings, self._tokens, self._tell, self._ready = settings, tokens, tell, ready
        self._listener, self._counters = listener, counters
        self._selector = selectors.DefaultSelector()
        self._rows = list(range(1, 2 * settings.workers + 2))
        Metrics.make(counters, 1 + len(self._rows))
        self._metrics = Metrics(self._counters, 0)
        self._workers: list[_Worker] = []
        self._loader: tuple[subprocess.Popen[bytes], Channel, BinaryIO] | None = None
        self._model: BinaryIO | None = None
        self._fingerprint: Any = None
        self._must_load, self._must_restart = True, False
        self._is_stopping = self._is_announced = False
        self._wait, self._next_start = 0.5, 0.0
        self._wake, self._woken = socket.socketpair()
        for each in (self._wake, self._woken):
            each.setblocking(False)
        self._handlers = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._on_signal)

    def run(self) -> None:
        """Do what is to be done whenever something happens."""
        looked = 0.0
        while not (self._is_stopping and not self._workers and self._loader is None):
            for key, _ in self._selector.select(timeout=0.25):
                key.data()
            now = time.monotonic()
            if now - looked >= _LOOK:
                looked = now
                self._look_at_model()
            if self._must_load and self._loader is None and not self._is_stopping:
                self._load()
            if self._must_restart and not any(each.replaces or each.stops_by is not None for each in self._workers):
                self._must_restart = False
                self._restart()
            self._keep_workers(now)

    def close(self) -> None:
        """Leave nothing behind, whatever happened."""
        children = [(worker.process, worker.channel) for worker in self._workers]
        for process, channel in [*children, *([self._loader[:2]] if self._loader else [])]:
            process.kill()
            process.wait()
            channel.socket.close()
        for file in (self._model, self._loader and self._loader[2]):
            if file is not None:
                file.close()
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._selector.close()
        self._metrics.close()
        for each in (self._wake, self._woken):
            each.close()

    # Signals

    def _on_signal(self) -> None:
        for number in self._woken.recv(4096):
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop()
            elif number == signal.SIGHUP:
                self._must_load = True
            elif number == signal.SIGUSR1:
                self._must_restart = True

    def _stop(self) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            self._tell(f"stopping within {self._settings.grace:g} seconds")
        self._listener.close()
        if self._loader is not None:
            self._loader[0].kill()
        for worker in self._workers:
            self._stop_worker(worker)

    def _restart(self) -> None:
        for worker in list(self._workers):
            self._start_worker(replaces=worker)

    # Models

    def _look_at_model(self) -> None:
        fingerprint = _fingerprint(self._settings.model)
        if fingerprint is not None and self._fingerprint not in (None, fingerprint):
            self._must_load = True
            self._tell(f"{self._settings.model} has changed: it is loaded anew")
        self._fingerprint = fingerprint or self._fingerprint

    def _load(self) -> None:
        self._must_load = False
        self._fingerprint = _fingerprint(self._settings.model)
        file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the model)
        process, channel = _start("ncf_ppt.http.loading", {})
        channel.send({"settings": self._settings.to_dict()}, (file.fileno(),))
        self._loader = process, channel, file
        self._selector.register(channel.socket, selectors.EVENT_READ, self._on_loader)

    def _on_loader(self) -> None:
        assert self._loader is not None
        process, channel, file = self._loader
        messages = channel.receive()
        if messages == []:
            return
        self._selector.unregister(channel.socket)
        channel.socket.close()
        process.wait()
        self._loader = None
        if self._is_stopping:
            file.close()
            return
        message = messages[0][0] if messages else {"event": "refused", "detail": "the process that loads it died"}
        if message["event"] == "loaded":
            for notice in message["notices"]:
                self._tell(notice)
            self._take(file)
        else:
            file.close()
            if self._model is None:
                raise DataError(message["detail"])
            self._metrics.add("refused")
            self._tell(f"the new model is refused, and the old one goes on: {message['detail']}")

    def _take(self, file: BinaryIO) -> None:
        is_first = self._model is None
        if self._model is not None:
            self._model.close()
        self._model = file
        if is_first:
            for _ in range(self._settings.workers):
                self._start_worker()
            return
        self._metrics.add("swaps")
        self._tell(f"{self._settings.model} is served anew")
        for worker in self._workers:
            if worker.stops_by is None:
                worker.channel.send({"do": "swap"}, (file.fileno(),))

    # Workers

    def _start_worker(self, replaces: _Worker | None = None) -> None:
        assert self._model is not None
        threads = self._settings.threads or max(1, usable_cores() // self._settings.workers)
        process, channel = _start("ncf_ppt.http.worker", {"NUMBA_NUM_THREADS": str(max(threads, usable_cores()))})
        row = next(row for row in self._rows if row not in {each.row for each in self._workers})
        message = {
            "settings": self._settings.to_dict(),
            "tokens": [token.decode() for token in self._tokens],
            "threads": threads,
            "row": row,
            "rows": self._rows,
        }
        channel.send(message, (self._listener.fileno(), self._counters.fileno(), self._model.fileno()))
        worker = _Worker(process, channel, row, time.monotonic(), replaces)
        self._workers.append(worker)
        self._selector.register(channel.socket, selectors.EVENT_READ, lambda: self._on_worker(worker))

    def _on_worker(self, worker: _Worker) -> None:
        messages = worker.channel.receive()
        if messages is None:
            self._on_end(worker)
            return
        for message, _ in messages:
            if message["event"] == "ready":
                if worker.replaces is not None:
                    self._stop_worker(worker.replaces)
                    worker.replaces = None
                if not self._is_announced:
                    self._is_announced = True
                    self._ready(_address(self._listener))

    def _on_end(self, worker: _Worker) -> None:
        self._selector.unregister(worker.channel.socket)
        worker.channel.socket.close()
        worker.process.kill()  # it may live on without its channel
        code = worker.process.wait()
        self._workers.remove(worker)
        for each in self._workers:
            if each.replaces is worker:
                each.replaces = None  # it takes its place
        self._metrics.take_over(worker.row)
        if worker.replaces is not None and not self._is_stopping:
            self._tell(f"a new worker ended with code {code} before it answered; the old one goes on")
        elif worker.stops_by is None and not self._is_stopping:
            now = time.monotonic()
            if not self._is_announced:
                raise DataError(f"a worker ended with code {code} before it answered; what it said is above")
            self._wait = min(2 * self._wait, _LONGEST_WAIT) if now - worker.since < _SHORT_LIFE else 0.5
            self._next_start = now + (self._wait if now - worker.since < _SHORT_LIFE else 0)
            self._metrics.add("restarts")
            self._tell(f"a worker ended with code {code}; another one is started")

    def _stop_worker(self, worker: _Worker) -> None:
        if worker.stops_by is None:
            worker.stops_by = time.monotonic() + self._settings.grace + _SPARE
            worker.channel.send({"do": "stop", "grace": self._settings.grace})

    def _keep_workers(self, now: float) -> None:
        for worker in self._workers:
            if worker.stops_by is not None and worker.stops_by < now:
                worker.process.kill()
        alive = [worker for worker in self._workers if worker.stops_by is None and worker.replaces is None]
        if self._is_announced and not self._is_stopping and now >= self._next_start:
            for _ in range(self._settings.workers - len(alive)):
                self._start_worker()


def _start(module: str, environment: dict[str, str]) -> tuple["subprocess.Popen[bytes]", Channel]:
    """Start a module as a process with a channel to it, of this installation and in a group of its own."""
    channel, theirs = Channel.pair()
    root = str(Path(ncf_ppt.__file__).parent.parent)
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment, "PYTHONPATH": paths},
            start_new_session=True,
        )
    return process, channel


def _try_to_open(log: Path) -> None:
    """Raise `DataError` for a log that a worker could not open: it has nobody to say so to."""
    try:
        log.open("ab").close()
    except OSError as error:
        raise DataError(f"{log} cannot be written ({error.strerror}); choose another access_log=") from None


def _listen(host: str, port: int) -> socket.socket:
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = places[0]
        return socket.create_server(place[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]
        raise DataError(f"{host} port {port} cannot be listened on ({reason}); choose another host= or port=") from None


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _fingerprint(model: Path) -> Any:
    """What changes when the model's file does; None while there is none."""
    try:
        found = (model / "model.safetensors" if model.is_dir() else model).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
