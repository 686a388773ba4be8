"""Requests that arrive together, answered by one call of the engine in a thread of its own."""

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ncf_ppt.http.engine import Engine
from ncf_ppt.http.problems import Problem

Kind = Literal["recommend", "score", "similar"]

WINDOW = 0.002
"""Seconds that a request waits for others, where the last call had several."""

_COSTS: dict[Kind, int] = {"recommend": 128, "similar": 128, "score": 1}
_MOST = 32 * 128  # of a call: what others wait for
_SHARE = 8 * 128  # of one request in a call while others wait


@dataclass(eq=False)
class _Job:
    """What one request asks of the engine.

    Attributes:
        engine: by whose numbers it was asked.
        deadline: by `time.monotonic`; no part of it is begun after it.
        results: of the first rows, as far as they are known.
        begun: rows that are known or being computed.
    """

    engine: Engine
    kind: Kind
    rows: Sequence[Any]
    deadline: float
    future: "asyncio.Future[list[Any]]"
    results: list[Any] = field(default_factory=list)
    begun: int = 0


_Part = tuple[_Job, int, int]


class Batcher:
    """Brings the rows of requests together into calls, and calls the engine one call after the other.

    A long request shares each call with the others that wait. A request that nobody came with is passed on at once.

    Args:
        told: called after each call with the number of its requests, of its rows and its seconds.
    """

    def __init__(self, told: Callable[[int, int, float], None]) -> None:
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Job] = deque()
        self._is_busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._had_company = False
        self._calls: queue.SimpleQueue[list[_Part] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="engine", daemon=True).start()

    async def ask(self, engine: Engine, kind: Kind, rows: Sequence[Any], deadline: float) -> list[Any]:
        """Return what ``engine`` finds for each row; raise `Problem` if it was not begun before the deadline."""
        job = _Job(engine, kind, rows, deadline, self._loop.create_future())
        self._waiting.append(job)
        if not self._is_busy and self._timer is None:
            self._timer = self._loop.call_later(WINDOW if self._had_company else 0, self._start)
        return await job.future

    def close(self) -> None:
        """Let the thread end."""
        self._calls.put(None)

    def _start(self) -> None:
        """Hand the next call to the thread, if somebody waits."""
        self._timer = None
        parts = self._next_parts()
        if parts:
            self._is_busy = True
            self._had_company = len(parts) > 1
            self._calls.put(parts)

    def _next_parts(self) -> list[_Part]:
        parts: list[_Part] = []
        now, cost, later = time.monotonic(), 0, []
        while self._waiting and cost < _MOST:
            job = self._waiting.popleft()
            if job.future.done():  # nobody waits for it any more
                continue
            if job.deadline < now:
                job.future.set_exception(
                    Problem(503, "the server is too busy to answer in time; ask for less at a time, or later")
                )
                continue
            if parts and job.engine is not parts[0][0].engine:
                self._waiting.appendleft(job)
                break
            each = _COSTS[job.kind]
            n = max(1, min(_SHARE if self._waiting or parts else _MOST, _MOST - cost) // each)
            end = min(job.begun + n, len(job.rows))
            parts.append((job, job.begun, end))
            cost += (end - job.begun) * each
            job.begun = end
            if end < len(job.rows):
                later.append(job)
        self._waiting.extend(later)
        return parts

    def _work(self) -> None:
        """Call the engine, in the thread."""
        while (parts := self._calls.get()) is not None:
            start = time.perf_counter()
            try:
                results: list[list[Any]] | Exception = _call(parts)
            except Exception as error:  # it is the requests' answer, whatever it is
                results = error
            with contextlib.suppress(RuntimeError):  # nobody waits any more: the loop has ended
                self._loop.call_soon_threadsafe(self._finish, parts, results, time.perf_counter() - start)

    def _finish(self, parts: list[_Part], results: list[list[Any]] | Exception, seconds: float) -> None:
        self._is_busy = False
        self._start()  # what waits goes first: it is computed while these are written
        for number, (job, _, end) in enumerate(parts):
            if job.future.done():
                continue
            if isinstance(results, Exception):
                job.future.set_exception(results)
                continue
            job.results += results[number]
            if end == len(job.rows):
                job.future.set_result(job.results)
        self._told(len(parts), sum(end - start for _, start, end in parts), seconds)


def _call(parts: list[_Part]) -> list[list[Any]]:
    """The results of each part."""
    results: list[list[Any]] = [[] for _ in parts]
    engine = parts[0][0].engine
    for kind, call in (("recommend", engine.recommend), ("score", engine.score), ("similar", engine.similar)):
        some = [number for number, (job, _, _) in enumerate(parts) if job.kind == kind]
        rows = [row for number in some for row in parts[number][0].rows[parts[number][1] : parts[number][2]]]
        if rows:
            found = iter(call(rows))
            for number in some:
                _, start, end = parts[number]
                results[number] = [next(found) for _ in range(start, end)]
    return results
