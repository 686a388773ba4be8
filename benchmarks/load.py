"""Clients of an HTTP server on this machine: answers a second, and how long each took.

    python -m benchmarks.load --port 8080 --clients 32 --seconds 5
    python -m benchmarks.load --port 8080 --rate 500 --seconds 5

Without a rate each client asks again as soon as its answer has come. With one, requests arrive at random (a Poisson
process), take the next free client, and their time counts from their arrival, so that waiting for a client counts.
It is a process of its own on bare sockets, so that it takes little of what the server needs.
"""

import json
import random
import re
import select
import socket
import statistics
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import click

PATIENCE = 60.0  # seconds for the last answers

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Client:
    """One connection, kept as long as the server keeps it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.began = 0.0
        self._connect()

    def _connect(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def ask(self, request: bytes, began: float) -> None:
        """Send a request that arrived at ``began``."""
        self.began = began
        self.socket.sendall(request)

    def answer(self) -> int | None:
        """Read what has come; return the status when the answer is whole. Raises OSError where none comes."""
        piece = self.socket.recv(1 << 16)
        if not piece:
            raise ConnectionError("the connection ended before the answer")
        self._received += piece
        end = self._received.find(b"\r\n\r\n")
        length = _LENGTH.search(self._received, 0, end) if end >= 0 else None
        if length is None or len(self._received) < end + 4 + int(length[1]):
            return None
        status = int(self._received[9:12])
        if _CLOSE.search(self._received, 0, end):
            self.reconnect()
        self._received = b""
        return status

    def reconnect(self) -> None:
        """Take a new connection in place of this one."""
        self.socket.close()
        self._connect()


def load(
    port: int,
    paths: Sequence[str],
    *,
    clients: int = 32,
    seconds: float = 5.0,
    most: int = 1_000_000,
    rate: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Ask for ``paths`` in turn, and return counts and times.

    Args:
        port: of the server.
        paths: what is asked for.
        clients: connections.
        seconds: after which nothing new is asked; what is under way is waited for.
        most: requests.
        rate: requests a second that arrive; None has each client ask without a pause.
        seed: of the arrivals.

    Returns:
        ``answers`` of status 200, ``per_second``, ``p50_ms``, ``p99_ms``, ``most_ms``, and what was ``lost`` (any other
        end of a request), by its kind.
    """
    requests = [f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode() for path in paths]
    generator = random.Random(seed)
    free = deque(Client(port) for _ in range(clients))
    busy: dict[socket.socket, Client] = {}
    arrived: deque[float] = deque()
    times: list[float] = []
    lost: Counter[str] = Counter()
    n_asked = 0
    start = last = due = time.perf_counter()
    end = start + seconds
    while (now := time.perf_counter()) < end + PATIENCE:
        while rate is not None and due <= min(now, end):
            arrived.append(due)
            due += generator.expovariate(rate)
        while free and n_asked < most and (arrived if rate is not None else now < end):
            client = free.popleft()
            try:
                client.ask(requests[n_asked % len(requests)], arrived.popleft() if rate is not None else now)
            except OSError as error:
                lost[type(error).__name__] += 1
                client.reconnect()
                free.append(client)
            else:
                busy[client.socket] = client
            n_asked += 1
        if not busy and (n_asked >= most or now >= end):
            break
        pause = min(due, end) - now if rate is not None and now < end else 1.0
        for found in select.select(list(busy), [], [], max(0.0, pause))[0]:
            client = busy[found]
            try:
                status = client.answer()
            except OSError as error:
                lost[type(error).__name__] += 1
                client.reconnect()
            else:
                if status is None:
                    continue
                last = time.perf_counter()
                if status == 200:
                    times.append(last - client.began)
                else:
                    lost[str(status)] += 1
            del busy[found]
            free.append(client)
    lost["no answer"] += len(busy)
    for client in (*free, *busy.values()):
        client.socket.close()
    hundredths = statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else [0.0] * 99
    return {
        "clients": clients,
        "answers": len(times),
        "per_second": len(times) / max(last - start, 1e-9),
        "p50_ms": 1000 * hundredths[49],
        "p99_ms": 1000 * hundredths[98],
        "most_ms": 1000 * max(times, default=0.0),
        "lost": dict(+lost),
    }


def lists_of(users: int, *, k: int = 10, n: int = 10_000) -> list[str]:
    """Paths that ask for the top ``k`` of users drawn from the first ``users`` numbers."""
    generator = random.Random(0)
    return [f"/recommend?user={generator.randrange(users)}&k={k}" for _ in range(n)]


@click.command()
@click.option("--port", required=True, type=int)
@click.option("--clients", default=32, show_default=True)
@click.option("--seconds", default=5.0, show_default=True)
@click.option("--most", default=1_000_000, show_default=True, help="Requests.")
@click.option("--rate", type=float, help="Requests a second that arrive.  [default: each client asks without a pause]")
@click.option("--users", default=138_493, show_default=True, help="Users 0 to this number are asked about.")
def main(port: int, users: int, **options: Any) -> None:
    """Ask, and print counts and times as JSON."""
    click.echo(json.dumps(load(port, lists_of(users), **options)))


if __name__ == "__main__":
    main()
