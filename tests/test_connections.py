"""Connections of a server over real sockets in this process: what is read, what is refused, and what is idle."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ncf_ppt.http.connections import MAX_HEAD, Connection

pytest.importorskip("httptools")

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def count_bytes(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers with the number of bytes of the body."""
    n, more = 0, True
    while more:
        message = await receive()
        n, more = n + len(message.get("body", b"")), message.get("more_body", False)
    body = b"%d" % n
    head = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})


def converse(talk: Callable[[Client, set[Any]], Awaitable[None]]) -> list[tuple[int, float, int, str]]:
    """Let a client ``talk``, with its connection's other end in the set; return what was refused."""
    from uvicorn import Config
    from uvicorn.server import ServerState

    refused: list[tuple[int, float, int, str]] = []

    async def run() -> None:
        config = Config(count_bytes, http=Connection, ws="none", lifespan="off", log_config=None)
        config.load()
        state = ServerState()

        def connection() -> Connection:
            return Connection(config, state, {}, changed=lambda: None, refused=lambda *request: refused.append(request))

        server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
        client = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            await asyncio.wait_for(talk(client, state.connections), 30)
        finally:
            client[1].close()
            server.close()

    asyncio.run(run())
    return refused


async def answer(client: Client) -> tuple[int, bytes]:
    """Status and body of the next answer."""
    head = await client[0].readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(head[9:12]), await client[0].readexactly(length)


def post(n: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % n + b"y" * n


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def test_a_large_body_is_no_large_head() -> None:
    async def talk(client: Client, connections: set[Any]) -> None:
        for request in (post(200_000), post(200_000) + GET, post(300_000)):
            client[1].write(request)
            assert await answer(client) == (200, request[request.index(b": ", 30) + 2 :].split(b"\r\n", 1)[0])
            if request.endswith(GET):
                assert await answer(client) == (200, b"0")

    assert converse(talk) == []


def test_many_requests_in_one_piece_are_no_large_head() -> None:
    n = 2 * MAX_HEAD // len(GET)

    async def talk(client: Client, connections: set[Any]) -> None:
        client[1].write(GET[:5])
        await asyncio.sleep(0.05)
        client[1].write(GET[5:] + GET * n + GET[:5])
        await asyncio.sleep(0.05)
        client[1].write(GET[5:])
        for _ in range(n + 2):
            assert await answer(client) == (200, b"0")

    assert converse(talk) == []


@pytest.mark.parametrize("begin", [b"", GET, post(100_000)])
def test_a_head_without_an_end_is_refused_and_told(begin: bytes) -> None:
    async def talk(client: Client, connections: set[Any]) -> None:
        if begin:
            client[1].write(begin)
            assert (await answer(client))[0] == 200
        client[1].write(GET[:-2])
        for _ in range(4):
            client[1].write(b"X: " + b"y" * (MAX_HEAD // 3))
            await asyncio.sleep(0.02)
        assert (await answer(client))[0] == 431

    ((status, seconds, n_bytes, client),) = converse(talk)
    assert (status, client) == (431, "127.0.0.1")
    assert seconds >= 0
    assert n_bytes > 0


def test_who_has_got_every_answer_is_idle() -> None:
    async def talk(client: Client, connections: set[Any]) -> None:
        client[1].write(GET[:5])
        await asyncio.sleep(0.05)
        (connection,) = connections
        assert not connection.is_idle
        client[1].write(GET[5:])
        assert (await answer(client))[0] == 200
        assert connection.is_idle
        client[1].write(post(10)[:-1])
        await asyncio.sleep(0.05)
        assert not connection.is_idle
        client[1].write(b"y")
        assert (await answer(client))[0] == 200
        assert connection.is_idle

    assert converse(talk) == []


def test_what_is_no_http_is_refused_and_told() -> None:
    async def talk(client: Client, connections: set[Any]) -> None:
        client[1].write(b"\x16\x03\x01 hello\r\n\r\n")
        assert (await answer(client))[0] == 400

    assert [request[0] for request in converse(talk)] == [400]
