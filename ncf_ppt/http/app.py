"""The ASGI application of a worker: from a request to an answer.

Routes are few and fixed, so they are a dictionary; the time of a request goes into the engine.
"""

import hmac
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import numpy as np

from ncf_ppt.http import questions
from ncf_ppt.http.access_log import AccessLog
from ncf_ppt.http.batcher import Batcher
from ncf_ppt.http.engine import Engine, Found
from ncf_ppt.http.known_ids import UnknownId
from ncf_ppt.http.metrics import ROUTES, Metrics
from ncf_ppt.http.openapi import openapi
from ncf_ppt.http.page import page
from ncf_ppt.http.problems import PROTOCOL_VERSION, Problem
from ncf_ppt.http.settings import Limits
from ppt_core.errors import DataError
from ppt_core.json_text import json_text

Headers = tuple[tuple[bytes, bytes], ...]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_VERSION = (b"ppt-protocol-version", str(PROTOCOL_VERSION).encode())
_JSON: Headers = ((b"content-type", b"application/json"),)
_PROBLEM: Headers = ((b"content-type", b"application/problem+json"),)
_PROMETHEUS: Headers = ((b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),)
_SAFE: Headers = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
_CLOSE = (b"connection", b"close")
_OPEN = {"/", "/healthz", "/readyz"}
_POSTED = {
    "/recommend": ("users", "history", "k", "include_seen", "items", "exclude"),
    "/similar": ("items", "k"),
    "/score": ("user", "items", "pairs"),
}
_ASKED = {
    "/recommend": questions.RECOMMEND,
    "/similar": questions.SIMILAR,
    "/score": questions.SCORE,
    "/user": questions.USER,
}
_READ = {"/", "/healthz", "/readyz", "/metrics", "/openapi.json"}


class App:
    """Answers requests.

    Args:
        engine: what is asked; `engine` may be set to another one at any time.
        limits: of requests.
        tokens: one of which a request must bear; empty asks for none.
        metrics: counts.
        log: takes a line for each request.

    Attributes:
        is_draining: whether every answer ends its connection, since the worker is to stop.
    """

    def __init__(
        self, engine: Engine, *, limits: Limits, tokens: tuple[bytes, ...], metrics: Metrics, log: AccessLog
    ) -> None:
        self.engine = engine
        self.is_draining = False
        self.n_under_way = 0
        self._limits, self._tokens, self._metrics, self._log = limits, tokens, metrics, log
        self._batcher = Batcher(metrics.called)

    def close(self) -> None:
        """Let the engine's thread end."""
        self._batcher.close()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong becomes a problem of one line."""
        start = time.perf_counter()
        path = scope["path"]
        headers: Headers
        try:
            headers, body = await self._answer(scope, path, receive)
            status = 200
        except Problem as problem:
            status, headers, body = problem.status, (*_PROBLEM, *problem.headers), problem.body()
        except UnknownId as error:
            status, headers, body = 404, _PROBLEM, Problem(404, str(error)).body()
        except DataError as error:
            status, headers, body = 400, _PROBLEM, Problem(400, str(error)).body()
        except Exception as error:  # a defect of ours: its place is told to who runs the server, and nobody else
            _tell_defect(error)
            status, headers, body = 500, _PROBLEM, Problem(500, "the server failed; its log says more").body()
        head = [_VERSION, *headers, *_SAFE, (b"content-length", b"%d" % len(body))]
        if self.is_draining or status == 413:
            head.append(_CLOSE)
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body})
        seconds = time.perf_counter() - start
        route = path[1:] or "page"
        self._metrics.answered(route if route in ROUTES else "other", status, seconds)
        client = scope["client"]
        self._log.add(scope["method"], path, status, seconds, len(body), client[0] if client else "")

    def refused(self, status: int, seconds: float, n_bytes: int, client: str) -> None:
        """Count and log a request that was refused before anything of it could be used."""
        self._metrics.answered("other", status, seconds)
        self._log.add("", "", status, seconds, n_bytes, client)

    async def _answer(self, scope: dict[str, Any], path: str, receive: Receive) -> tuple[Headers, bytes]:
        method = scope["method"]
        if path not in _ASKED and path not in _READ:
            raise Problem(404, f"{_shown(path)} is nothing that is here; / and /openapi.json say what is")
        allowed = ("GET", "POST") if path in _POSTED else ("GET", "HEAD")
        if method not in allowed:
            allow = (b"allow", ", ".join(allowed).encode())
            raise Problem(405, f"{path} takes {' and '.join(allowed)}, not {_shown(method)}", (allow,))
        if self._tokens and path not in _OPEN:
            self._refuse_strangers(scope["headers"])
        if path in _READ:
            return self._read(path)
        if method == "POST":
            fields = questions.of_body(await self._body(scope["headers"], receive), _POSTED[path])
        else:
            fields = questions.of_query(scope["query_string"], _ASKED[path])
        return await self._ask(path, fields)

    def _refuse_strangers(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        given = next((value for name, value in headers if name == b"authorization"), b"")
        kind, _, token = given.partition(b" ")
        found = [hmac.compare_digest(token.strip(), each) for each in self._tokens]
        if kind.lower() != b"bearer" or not any(found):
            raise Problem(
                401, "a token is needed: send it as Authorization: Bearer TOKEN", ((b"www-authenticate", b"Bearer"),)
            )

    async def _body(self, headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> bytes:
        most = self._limits.max_bytes
        too_large = Problem(413, f"the body is larger than {most:,} bytes; ask for less at a time")
        said = next((value for name, value in headers if name == b"content-length"), b"0")
        if not said.isdigit() or len(said) > 18 or int(said) > most:
            raise too_large
        body: bytes = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Problem(400, "the request ended before its body")
            body += message.get("body", b"")
            if len(body) > most:
                raise too_large
            if not message.get("more_body"):
                return body

    def _read(self, path: str) -> tuple[Headers, bytes]:
        if path == "/metrics":
            return _PROMETHEUS, self._metrics.text(self.engine.name, self.engine.identity).encode()
        if path == "/openapi.json":
            return _JSON, openapi(self._limits)
        if path == "/":
            return page()
        if path == "/readyz" and self.is_draining:
            raise Problem(503, "the server stops")
        return _JSON, self._json({"status": "ok"}, self.engine)

    async def _ask(self, path: str, fields: dict[str, Any]) -> tuple[Headers, bytes]:
        if self.n_under_way >= self._limits.max_requests:
            raise Problem(
                429,
                f"{self.n_under_way:,} requests are under way, as many as may be; ask again in a second",
                ((b"retry-after", b"1"),),
            )
        self.n_under_way += 1
        self._metrics.add("under_way")
        try:
            return _JSON, await self._found(path, fields)
        finally:
            self.n_under_way -= 1
            self._metrics.add("under_way", -1)

    async def _found(self, path: str, fields: dict[str, Any]) -> bytes:
        engine, limits = self.engine, self._limits
        deadline = time.monotonic() + limits.timeout
        if path == "/recommend":
            lists, k, n_unknown = questions.lists_wanted(fields, engine, limits)
            found = await self._batcher.ask(engine, "recommend", lists, deadline)
            is_new = lists[0].user is None
            users = [None] if is_new else engine.users.of_numbers(np.array([each.user for each in lists]))
            entries = [_list_of(engine, user, each) for user, each in zip(users, found, strict=True)]
            more = {"n_unknown_items": n_unknown} if {"items", "exclude", "history"} & set(fields) else {}
            return self._json({"k": k, **more, "recommendations": entries}, engine)
        if path == "/similar":
            items, k = questions.alike_wanted(fields, engine, limits)
            found = await self._batcher.ask(engine, "similar", items, deadline)
            return self._json({"k": k, "similar": list(map(_alike_of, [engine] * len(items), items, found))}, engine)
        if path == "/score":
            pairs = questions.pairs_wanted(fields, engine, limits)
            scores = await self._batcher.ask(engine, "score", pairs, deadline)
            return self._json({"scores": list(map(_score_of, [engine] * len(pairs), pairs, scores))}, engine)
        return self._json(_user_of(engine, questions.one_user(fields, engine)), engine)

    def _json(self, document: dict[str, Any], engine: Engine) -> bytes:
        return json_text({"protocol_version": PROTOCOL_VERSION, "model": engine.identity, **document}).encode()


def _list_of(engine: Engine, user: Any, found: Found | DataError) -> dict[str, Any]:
    if isinstance(found, DataError):
        raise Problem(500, str(found))
    items, scores = found
    entry = {"user_id": user, "item_ids": engine.items.of_numbers(items), "scores": scores.tolist()}
    return entry | _titles(engine, "titles", items)


def _alike_of(engine: Engine, item: tuple[int, int], found: Found) -> dict[str, Any]:
    (item_id,) = engine.items.of_numbers(np.array(item[:1]))
    entry = {"item_id": item_id, "similar_ids": engine.items.of_numbers(found[0]), "similarities": found[1].tolist()}
    if engine.titles is not None:
        entry |= {"title": engine.titles[item[0]], **_titles(engine, "similar_titles", found[0])}
    return entry


def _score_of(engine: Engine, pair: tuple[int, int], score: float | DataError) -> dict[str, Any]:
    if isinstance(score, DataError):
        raise Problem(500, str(score))
    (user,), (item,) = engine.users.of_numbers(np.array(pair[:1])), engine.items.of_numbers(np.array(pair[1:]))
    return {"user_id": user, "item_id": item, "score": score}


def _user_of(engine: Engine, user: int) -> dict[str, Any]:
    """What a user had, in the order of item numbers; null where it is not known."""
    (user_id,) = engine.users.of_numbers(np.array([user]))
    if engine.seen is None:
        return {"user_id": user_id, "item_ids": None}
    items = engine.seen.items_of(user)
    return {"user_id": user_id, "item_ids": engine.items.of_numbers(items), **_titles(engine, "titles", items)}


def _titles(engine: Engine, name: str, items: Any) -> dict[str, list[str]]:
    return {} if engine.titles is None else {name: [engine.titles[item] for item in items.tolist()]}


def _shown(text: str) -> str:
    return ascii(text[:80])


def _tell_defect(error: Exception) -> None:
    """Where a defect is, on standard error, in one line without anything of the request."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}, line {place.tb_lineno}" if place is not None else "?"
    print(f"a request failed: {type(error).__name__} in {where}", file=sys.stderr)  # noqa: T201
