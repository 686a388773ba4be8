"""Messages between the supervisor and its children: a JSON object a line, with open files beside it."""

import contextlib
import json
import os
import socket
from typing import Any

from ppt_core.json_text import json_text

_MOST = 1 << 16


class Channel:
    """One end of a pair of connected sockets.

    Linux ends a read after a message with files, so that files come with their message.
    """

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._octets = b""
        self._files: list[int] = []

    @classmethod
    def pair(cls) -> tuple["Channel", socket.socket]:
        """A channel, and the socket that a child opens as the other end."""
        ours, theirs = socket.socketpair()
        theirs.set_inheritable(True)
        return cls(ours), theirs

    def send(self, message: dict[str, Any], files: tuple[int, ...] = ()) -> None:
        """Send a message with open files; one that nobody takes any more is lost."""
        with contextlib.suppress(OSError):
            socket.send_fds(self.socket, [json_text(message).encode() + b"\n"], files)

    def receive(self) -> list[tuple[dict[str, Any], list[int]]] | None:
        """Return the messages that have arrived, after waiting for some bytes; None if the other end is gone."""
        try:
            octets, files, _, _ = socket.recv_fds(self.socket, _MOST, 8)
        except BlockingIOError:
            return []
        except OSError:
            return None
        for number in files:
            os.set_inheritable(number, False)
        self._files += files
        if not octets:
            return None
        *lines, self._octets = (self._octets + octets).split(b"\n")
        messages = []
        for line in lines:
            files, self._files = self._files, []
            messages.append((json.loads(line), files))
        return messages

    def wait(self) -> tuple[dict[str, Any], list[int]]:
        """Wait for one message. Raises EOFError if the other end is gone."""
        while True:
            messages = self.receive()
            if messages is None:
                raise EOFError
            if messages:
                return messages[0]
