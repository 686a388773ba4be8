"""Connections of uvicorn, with limits of time and size on requests that do not come to an end."""

import logging
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ncf_ppt.http.problems import Problem

MAX_HEAD = 1 << 16
"""Bytes of a request line and headers that come in more than one piece."""

Refused = Callable[[int, float, int, str], None]
"""Hears of a request that no application saw: status, seconds, bytes of the answer and the client's address."""


class Connection(HttpToolsProtocol):
    """One client. What is wrong with a request before it reaches the application is a problem detail, too.

    Args:
        args: those of uvicorn's protocol.
        changed: called when connections come or go.
        refused: called when a request is refused before it reaches the application.

    Attributes:
        waits_since: when the client began to owe us the end of a request (by the loop's clock); None while it does not.
        idle_since: when the last answer ended, or the connection began.
    """

    waits_since: float | None = None
    idle_since = 0.0
    _n_head = 0  # bytes of the head that is under way, but for a first piece that holds other things, too
    _in_head = False

    def __init__(self, *args: Any, changed: Callable[[], None], refused: Refused) -> None:
        super().__init__(*args)
        self._changed, self._refused = changed, refused

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.waits_since = self.idle_since = self.loop.time()
        self._changed()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        super().connection_lost(exc)
        self._changed()

    def data_received(self, data: bytes) -> None:
        """Read a piece of a request; an endless head ends the connection."""
        self._n_head += len(data)
        super().data_received(data)
        if not self._in_head:
            self._n_head = 0
        elif self._n_head > MAX_HEAD and not self.transport.is_closing():
            self.refuse(431, f"the head of the request is larger than {MAX_HEAD:,} bytes; send less")

    def on_message_begin(self) -> None:
        """Note when a request begins."""
        super().on_message_begin()
        self.waits_since, self._in_head = self.loop.time(), True

    def on_headers_complete(self) -> None:
        """Note the end of the head."""
        self._in_head, self._n_head = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note the end of a request."""
        self.waits_since, self._n_head = None, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note the end of an answer."""
        self.idle_since = self.loop.time()
        super().on_response_complete()

    @property
    def is_idle(self) -> bool:
        """Whether neither a request nor an answer is on its way."""
        is_answered = self.cycle is None or self.cycle.response_complete
        return is_answered and not self._in_head and self.waits_since in (None, self.idle_since)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self.refuse(400, "this is no request of HTTP/1.1")

    def refuse(self, status: int, detail: str) -> None:
        """Answer by a problem and close the connection."""
        body = Problem(status, detail).body()
        head = b"content-type: application/problem+json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()
        seconds = self.loop.time() - (self.idle_since if self.waits_since is None else self.waits_since)
        self._refused(status, seconds, len(body), self.client[0] if self.client else "")

    def sweep(self, now: float, timeout: float) -> None:
        """End what takes longer than ``timeout``: a request that does not end, or an answer that nobody reads."""
        if self.transport.is_closing():
            if self.idle_since < now - 2 * timeout:
                self.transport.abort()
        elif self.waits_since is not None and self.waits_since < now - timeout:
            if self.cycle is None or self.cycle.response_complete:
                self.refuse(408, f"the request did not end within {timeout:g} seconds")
            else:
                self.transport.abort()
        elif self.flow.write_paused and self.idle_since < now - 2 * timeout:
            self.transport.abort()


def silence() -> None:
    """Keep uvicorn's own notices, which quote requests, out of standard error."""
    logging.getLogger("uvicorn.error").disabled = True
