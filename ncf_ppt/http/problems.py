"""Errors as problem details (RFC 9457): one line each, in the words of the command line."""

from http import HTTPStatus

from ppt_core.json_text import json_text

PROTOCOL_VERSION = 1
"""Of the requests and answers; it changes when a program that reads them would have to."""


class Problem(Exception):
    """A request that is answered by an error.

    Attributes:
        status: of the answer.
        detail: one line: what, the value found, what to do.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, detail: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, " ".join(detail.split()), headers

    def body(self) -> bytes:
        """The answer's JSON."""
        return json_text(
            {
                "type": "about:blank",
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                "detail": self.detail,
                "protocol_version": PROTOCOL_VERSION,
            }
        ).encode()
