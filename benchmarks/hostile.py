"""Hostile requests against a real `ppt-ncf serve`, which is to stay up, right, small and silent about what it was sent.

    python -m benchmarks.hostile --requests 100000

Paths, queries, bodies, headers and methods at random, garbage, several requests at once with garbage between, requests
that never end and answers that nobody reads, from 4 clients, on this machine's loopback. Every answer must be
well-formed HTTP, an error a problem detail of one line, and none a 500. No line of the log may be anything but JSON
without control characters. Nothing that was sent may stand in what the server says on standard error, and lists must be
what they were. Memory is compared with what it was behind the first tenth.
"""

import json
import random
import re
import socket
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.load import lists_of
from benchmarks.provenance import document
from benchmarks.servers import SERVE, Server, started, write_model

MARK = "hostile7mark"
MOST_GROWTH = 0.1  # of memory
N_CLIENTS = 4
TIMEOUT = 2.0  # the server's, seconds

_LAST = b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
_STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z' -]+")
_HEADER = re.compile(rb"([!-9;-~]+): ?([ -~]*)")
_NASTY = (
    "'", '"', "<script>", "\x00", "\x1b[31m", "\r\n", "\n", "%00", "%0d%0aset-cookie: a=b", "%ff", "../", "..%2f",
    "{}", "[]", "nan", "Infinity", "1e999", "-1", "0", str(2**63), "9" * 400, "null", "true", "é", "\u202e", "𝄞", "%",
    "&", "=", ";", "+", "\\", "${jndi:ldap://a}", "' OR 1=1 --", "a" * 3000,
)  # fmt: skip
_PATHS = ("/recommend", "/similar", "/score", "/user", "/metrics", "/openapi.json", "/healthz", "/readyz", "/")
_NAMES = ("user", "users", "item", "items", "history", "k", "exclude", "include_seen", "pairs")


class Hostile:
    """What one client sends.

    Args:
        seed: of what it draws.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._held: deque[socket.socket] = deque()
        self.sent: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []

    def attack(self, port: int, n: int) -> None:
        """Send ``n`` requests."""
        kinds = (self.path, self.query, self.body, self.headers, self.method, self.garbage, self.pipeline)
        for _ in range(n):
            if self._random.random() < 0.05:
                self._hold(port)
                continue
            kind = self._random.choice(kinds)
            self.sent[kind.__name__] += 1
            self._ask(port, kind() + _LAST, kind.__name__)

    def end(self) -> None:
        """Leave the requests that were begun."""
        while self._held:
            self._held.popleft().close()

    def _ask(self, port: int, payload: bytes, kind: str) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=3 * TIMEOUT) as connection:
            received = b""
            try:
                connection.sendall(payload)
                while piece := connection.recv(1 << 16):
                    received += piece
            except TimeoutError:
                self.answers["kept open"] += 1
                if not received:
                    self.wrong.append(f"{kind}: nothing for {3 * TIMEOUT:g} seconds behind {payload[:300]!r}")
            except OSError:  # it was cut off while it still sent
                self.answers["cut"] += 1
        try:
            statuses = read_answers(received)
        except ValueError as error:
            self.wrong.append(f"{kind}: {error}, behind {payload[:300]!r}")
        else:
            self.answers.update(statuses or ["none"])

    def _hold(self, port: int) -> None:
        """Begin a request, or ask for much, and go away without a word."""
        self.sent["held"] += 1
        connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        self._held.append(connection)
        whole = self.body()
        try:
            if self._random.random() < 0.2:
                connection.setblocking(False)
                connection.send(b"GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n" * 50)
            else:
                connection.sendall(whole[: self._random.randrange(len(whole))])
        except OSError:
            pass
        if len(self._held) > 40:
            self._held.popleft().close()

    def text(self) -> str:
        """A few nasty pieces around the mark."""
        pieces = self._random.choices(_NASTY, k=self._random.randrange(4))
        pieces.insert(0, MARK if self._random.random() < 0.5 else "")
        return "".join(pieces)

    def octets(self, most: int) -> bytes:
        """Bytes at random."""
        return self._random.randbytes(self._random.randrange(most))

    def _line(self, text: str) -> bytes:
        """Text for the request line: mostly without what would end it."""
        if self._random.random() < 0.8:
            text = "".join(each if "!" <= each <= "~" else f"%{ord(each) % 256:02x}" for each in text)
        return text.encode("utf-8", "replace")

    def path(self) -> bytes:
        """A path that is none."""
        start = self._random.choice((*_PATHS, "", "//", "http://a/"))
        return b"GET " + self._line(start + self.text()) + b" HTTP/1.1\r\nhost: a\r\n\r\n"

    def query(self) -> bytes:
        """Parameters of all kinds."""
        pairs = [
            f"{self._random.choice((*_NAMES, self.text()))}={self._value()}" for _ in range(self._random.randrange(6))
        ]
        target = self._random.choice(_PATHS) + "?" + self._random.choice("&&&;").join(pairs)
        return b"GET " + self._line(target) + b" HTTP/1.1\r\nhost: a\r\n\r\n"

    def _value(self) -> Any:
        return self._random.choice((self.text(), self._random.randrange(-5, 700), self._random.random()))

    def body(self) -> bytes:
        """A body that is JSON, or nearly so, or not at all."""
        if (chance := self._random.random()) < 0.6:
            octets = json.dumps({self._random.choice(_NAMES): self._json(3) for _ in range(3)}).encode()
        elif chance < 0.7:
            octets = b"[" * self._random.randrange(5000)
        elif chance < 0.8:
            octets = b'{"users": [' + b"1," * self._random.randrange(4000) + b"NaN]}"
        else:
            octets = self.octets(7000)
        path = self._random.choice(_PATHS).encode()
        return b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (path, len(octets)) + octets

    def _json(self, depth: int) -> Any:
        kind = self._random.randrange(7 if depth else 4)
        if kind < 4:
            return (None, self.text(), self._value(), 10 ** self._random.randrange(40))[kind]
        n = self._random.randrange(4)
        if kind == 6:
            return {self.text(): self._json(depth - 1) for _ in range(n)}
        return [self._json(depth - 1) for _ in range(n)]

    def headers(self) -> bytes:
        """Headers of all kinds, two lengths and chunks among them."""
        some: list[bytes] = [
            b"transfer-encoding: chunked\r\n", b"content-length: 0\r\n", b"content-length: -1\r\n",
            b"expect: 100-continue\r\n", b"a: b\r\n" * self._random.randrange(3000),
            b"content-length: 99999999999999999999\r\n", b"a: " + self.octets(200),
            b"authorization: Bearer " + self.text().encode("utf-8", "replace") + b"\r\n",
        ]  # fmt: skip
        chosen = b"".join(self._random.choices(some, k=self._random.randrange(1, 4)))
        if self._random.random() < 0.01:  # what stands behind it waits for the server's patience
            chosen += b"upgrade: websocket\r\nconnection: upgrade\r\n"
        chunks = b"0\r\n\r\n" if b"chunked" in chosen else b""
        path = self._random.choice(_PATHS).encode()
        method = self._random.choice((b"GET ", b"POST "))
        return method + path + b" HTTP/1.1\r\nhost: a\r\n" + chosen + b"\r\n" + chunks

    def method(self) -> bytes:
        """A method that is none, or another version of HTTP."""
        names = ("PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "get", "BREW", MARK, self.text())
        version = self._random.choice(("HTTP/1.1", "HTTP/1.1", "HTTP/2.0", "HTTP/0.9", "", self.text()))
        line = f"{self._random.choice(names)} {self._random.choice(_PATHS)} {version}\r\nhost: a\r\n\r\n"
        return line.encode("utf-8", "replace")

    def garbage(self) -> bytes:
        """No HTTP at all."""
        return (
            self._random.choice((b"\x16\x03\x01", b"", b"\r\n", b"GET ", MARK.encode()))
            + self.octets(500)
            + b"\r\n\r\n"
        )

    def pipeline(self) -> bytes:
        """Several requests at once, with garbage behind some of them."""
        kinds = (self.path, self.query, self.body, self.method)
        pieces = [self._random.choice(kinds)() for _ in range(self._random.randrange(2, 6))]
        return b"".join(pieces) + (self.octets(50) if self._random.random() < 0.5 else b"")


def read_answers(received: bytes) -> list[str]:
    """The statuses of all answers in what a connection gave. Raises ValueError for what is no good answer."""
    statuses = []
    while received:
        head, found, received = received.partition(b"\r\n\r\n")
        line, *rest = head.split(b"\r\n")
        status, fields = _STATUS_LINE.fullmatch(line), [_HEADER.fullmatch(each) for each in rest]
        if not found or status is None or not all(fields):
            raise ValueError(f"the head {head[:300]!r} is no HTTP")
        if status[1].startswith(b"1"):
            continue
        headers = {each[1].lower(): each[2] for each in fields if each}
        if MARK.encode() in head:
            raise ValueError(f"the head {head[:300]!r} holds what was sent")
        length = int(headers.get(b"content-length", b"none"))
        body, received = received[:length], received[length:]
        if len(body) < length:
            raise ValueError("an answer is shorter than it says")
        _check_body(int(status[1]), headers.get(b"content-type", b""), body)
        statuses.append(status[1].decode())
    return statuses


def _check_body(status: int, kind: bytes, body: bytes) -> None:
    if status >= 500 and status != 503:
        raise ValueError(f"the answer is {status}, {body[:300]!r}")
    if b"Traceback" in body or b'File \\"' in body:
        raise ValueError(f"a traceback: {body[:300]!r}")
    if status == 200:
        return
    if kind != b"application/problem+json":
        raise ValueError(f"the answer {status} is {kind!r} and no problem detail")
    problem = json.loads(body)
    if problem["status"] != status or not {"type", "title", "detail"} <= problem.keys():
        raise ValueError(f"the problem {body[:300]!r} does not say what it must")
    if not problem["detail"].isprintable() or len(problem["detail"]) > 1000:
        raise ValueError(f"the detail {problem['detail'][:300]!r} is not a line of text")


def check_logs(access: Path, said: Path) -> int:
    """The number of lines in the access log. Raises ClickException if it, or standard error, holds what it must not."""
    lines = access.read_bytes().split(b"\n")
    if lines.pop():
        raise click.ClickException("the access log does not end in a whole line")
    for line in lines:
        if re.search(rb"[\x00-\x1f\x7f]", line) or "status" not in json.loads(line):
            raise click.ClickException(f"a line of the access log is {line[:300]!r}")
    if (text := said.read_text("utf-8", "replace")) and re.search(rf"Traceback|{MARK}|failed", text):
        raise click.ClickException(f"the server said {text[-1000:]}")
    return len(lines)


def run(server: Server, requests: int, seed: int) -> dict[str, Any]:
    """Attack a server, and return what was counted."""
    lists = lists_of(300, n=20)
    before = [server.get(path) for path in lists]
    clients = [Hostile(seed * N_CLIENTS + number) for number in range(N_CLIENTS)]
    memory, start = [], time.monotonic()
    with ThreadPoolExecutor(N_CLIENTS) as pool:
        for _ in range(10):
            list(pool.map(lambda client: client.attack(server.port, requests // 10 // N_CLIENTS), clients))
            if [server.get(path) for path in lists] != before:
                raise click.ClickException("the server lists something else than before")
            memory.append(sum(each["pss"] for each in server.memory()))
    for client in clients:
        client.end()
    seconds = time.monotonic() - start
    wrong = [each for client in clients for each in client.wrong]
    if wrong:
        raise click.ClickException(f"{len(wrong)} wrong answers, the first: {wrong[0]}")
    if server.process.poll() is not None or server.counter("ppt_worker_restarts_total"):
        raise click.ClickException("the server, or a worker, died")
    growth = memory[-1] / memory[0] - 1
    if growth > MOST_GROWTH:
        raise click.ClickException(f"memory grew by {growth:.0%}, from {memory[0]:.0f} MB to {memory[-1]:.0f} MB")
    sent: Counter[str] = sum((client.sent for client in clients), Counter())
    answers: Counter[str] = sum((client.answers for client in clients), Counter())
    return {
        "requests": sum(sent.values()),
        "seconds": seconds,
        "sent": dict(sorted(sent.items())),
        "answers": dict(sorted(answers.items())),
        "memory_mb": [memory[0], memory[-1]],
    }


@click.command()
@click.option("--requests", default=100_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(requests: int, seed: int, as_json: bool) -> None:
    """Attack, and print counts; end with an error where the server fails."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(folder, users=300, items=600)
        access = folder / "access.log"
        limits = ["--max-bytes", 5000, "--timeout", TIMEOUT, "--access-log", access]
        command = [*SERVE, folder / "network.packed", "--data", folder / "data", *limits]
        with started(command, folder / "said") as server:
            server.wait()
            found = run(server, requests, seed)
        found["log_lines"] = check_logs(access, folder / "said")
    if as_json:
        return click.echo(document([found]))
    for name, value in found.items():
        click.echo(f"{name}: {value}")


if __name__ == "__main__":
    main()
