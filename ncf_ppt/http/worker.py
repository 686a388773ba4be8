"""A process that answers: takes connections from the listener that all workers share, and the model that was loaded.

It ends when the supervisor says so or is gone: it takes no new connection, answers what was asked, tells each client
with its answer that the connection ends, and closes a connection only when nothing has come over it for a while.
"""

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from email.utils import formatdate
from typing import Any

from ppt_core.environment import set_environment
from ppt_core.threads import set_threads

_QUIET = 1.0
"""Seconds without a byte after which a connection may be closed without taking a request with it."""

_KEEP_ALIVE = 60
_PATIENCE = 0.002  # seconds that a worker leaves a connection to one that has fewer
_SPARE_FILES = 64


class Worker:
    """The connections of one process, and its life.

    Args:
        channel: to the supervisor.
        message: its first message: ``settings``, ``tokens``, ``row`` of the metrics, ``rows`` that there are.
        files: listener, metrics and model, open.
    """

    def __init__(self, channel: Any, message: dict[str, Any], files: list[int]) -> None:
        from uvicorn import Config
        from uvicorn.server import ServerState

        from ncf_ppt.http.access_log import AccessLog
        from ncf_ppt.http.app import App
        from ncf_ppt.http.connections import Connection, silence
        from ncf_ppt.http.handover import read_handover
        from ncf_ppt.http.metrics import Metrics
        from ncf_ppt.http.settings import Settings

        silence()
        listener, metrics, model = files
        self._channel, self._rows = channel, message["rows"]
        self._settings = Settings.from_dict(message["settings"])
        self._listener = socket.socket(fileno=listener)
        self._listener.setblocking(False)
        self._loop = asyncio.get_running_loop()
        with os.fdopen(metrics, "r+b") as file:
            self._metrics = Metrics(file, message["row"])
        self._log = AccessLog(self._settings.access_log, lambda: self._metrics.add("lines_dropped"))
        with os.fdopen(model, "rb") as file:
            engine = read_handover(file)
        engine.warm_up()
        tokens = tuple(token.encode() for token in message["tokens"])
        self._app = App(engine, limits=self._settings.limits, tokens=tokens, metrics=self._metrics, log=self._log)
        config = Config(
            self._app, http=Connection, ws="none", lifespan="off", log_config=None, access_log=False,
            timeout_keep_alive=_KEEP_ALIVE, server_header=False, proxy_headers=False, interface="asgi3",
        )  # fmt: skip
        config.load()
        self._state = ServerState()
        self._connections: set[Any] = self._state.connections
        self._make_connection = lambda: Connection(
            config, self._state, {}, changed=self._count, refused=self._app.refused
        )
        self._most_connections = _file_limit() - _SPARE_FILES
        self._stopping: asyncio.Task[None] | None = None
        self._done = asyncio.Event()

    async def run(self) -> None:
        """Answer until told to stop."""
        loop = self._loop
        loop.add_reader(self._channel.socket, self._on_message)
        loop.add_reader(self._listener, self._accept)
        ticking = asyncio.create_task(self._tick())
        self._metrics.set("workers", 1)
        self._channel.send({"event": "ready"})
        await self._done.wait()
        ticking.cancel()
        self._app.close()
        self._log.close()

    def _on_message(self) -> None:
        messages = self._channel.receive()
        for message, files in [({"do": "stop", "grace": self._settings.grace}, [])] if messages is None else messages:
            if message["do"] == "swap":
                self._swap(files[0])
            elif self._stopping is None:
                self._stopping = asyncio.create_task(self._stop(message["grace"]))
        if messages is None:
            self._loop.remove_reader(self._channel.socket)

    def _swap(self, model: int) -> None:
        """Take another model: what is being asked ends with the old one."""
        from ncf_ppt.http.handover import read_handover

        with os.fdopen(model, "rb") as file:
            self._app.engine = read_handover(file)
        self._loop.call_later(1, gc.collect)

    def _accept(self) -> None:
        """Take one connection, unless another worker has fewer: it is left to that one for a moment."""
        n, of = len(self._connections), self._metrics.of
        if any(of("workers", row) and of("connections", row) < n for row in self._rows if row != self._metrics.row):
            self._loop.remove_reader(self._listener)
            self._loop.call_later(_PATIENCE, self._accept_after_all)
        else:
            self._accept_one()

    def _accept_after_all(self) -> None:
        if self._stopping is None:
            self._loop.add_reader(self._listener, self._accept)
            self._accept_one()

    def _accept_one(self) -> bool:
        """Take a connection, if one waits."""
        try:
            client, _ = self._listener.accept()
        except OSError:  # another worker was quicker, or the client is gone
            return False
        if len(self._connections) >= self._most_connections:
            client.close()
            return True
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._connect(client))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)
        return True

    async def _connect(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_connection, client)
        except OSError:
            client.close()

    def _count(self) -> None:
        self._metrics.set("connections", len(self._connections))

    async def _tick(self) -> None:
        """Once a second: the date in the answers, connections that take too long, numbers for the others."""
        while True:
            self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
            now = self._loop.time()
            for connection in list(self._connections):
                connection.sweep(now, self._settings.limits.timeout)
            await asyncio.sleep(1)

    async def _stop(self, grace: float) -> None:
        """End what was begun, within ``grace`` seconds, and then end."""
        self._loop.remove_reader(self._listener)
        while self._accept_one():  # nobody else may come for those who wait
            pass
        self._listener.close()
        self._metrics.set("workers", 0)
        self._app.is_draining = True
        end = self._loop.time() + grace
        while self._connections and (now := self._loop.time()) < end:
            for connection in list(self._connections):
                if connection.is_idle and connection.idle_since < now - _QUIET:
                    connection.transport.close()
            await asyncio.sleep(0.02)
        for connection in list(self._connections):
            connection.transport.abort()
        self._done.set()


def _file_limit() -> int:
    """Open files that this process may have, as many as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(hard, 1 << 16) if hard != resource.RLIM_INFINITY else 1 << 16
    if most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(most, soft)


async def _serve(channel: Any, message: dict[str, Any], files: list[int]) -> None:
    await Worker(channel, message, files).run()


def main() -> None:
    """Serve until the supervisor says stop."""
    import uvloop

    from ncf_ppt.http.channel import Channel

    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    message, files = channel.wait()
    channel.socket.setblocking(False)
    set_threads(message["threads"])
    uvloop.run(_serve(channel, message, files))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the supervisor's business
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    set_environment(lambda _: None)
    main()
