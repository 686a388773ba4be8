"""The access log: a JSON object a line, written by a thread, so that nobody waits for who reads it."""

import contextlib
import os
import queue
import sys
import threading
from datetime import datetime, timezone
from typing import Any

from ppt_core.json_text import json_text

_WAITING = 10_000  # lines
_AT_ONCE = 4096  # bytes: a pipe takes so many as a whole, so that lines of several workers do not mix


class AccessLog:
    """Lines for a file that other processes write to, too.

    A line names the time, the method, the path (escaped as JSON escapes, and shortened), the status, the milliseconds,
    the bytes of the answer and the client's address: neither what was asked about nor headers. Method and path are
    empty where a request was refused before they were known.

    Args:
        target: a file to add lines to, ``-`` for standard output, None for none.
        dropped: called for each line that there was no room for.
    """

    def __init__(self, target: str | None, dropped: Any) -> None:
        self._dropped = dropped
        self._lines: queue.Queue[str | None] = queue.Queue(_WAITING)
        self._thread = None
        if target is not None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._file = sys.stdout.fileno() if target == "-" else os.open(target, flags, 0o640)
            self._thread = threading.Thread(target=self._write, name="access log", daemon=True)
            self._thread.start()

    def add(self, method: str, path: str, status: int, seconds: float, n_bytes: int, client: str) -> None:
        """Put a line into the queue; it is dropped if nobody takes them."""
        if self._thread is None:
            return
        line = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "method": method[:20],
            "path": path[:200],
            "status": status,
            "ms": round(1000 * seconds, 3),
            "bytes": n_bytes,
            "client": client,
        }
        try:
            self._lines.put_nowait(json_text(line) + "\n")
        except queue.Full:
            self._dropped()

    def close(self) -> None:
        """Write what waits, within two seconds; what nobody takes by then is lost."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._lines.put(None, timeout=1)
            self._thread.join(1)

    def _write(self) -> None:
        block = ""
        while True:
            line = self._lines.get()
            is_last = line is None or self._lines.empty()
            if block and (line is None or len(block) + len(line) > _AT_ONCE):
                self._put(block)
                block = ""
            if line is None:
                return
            block += line
            if is_last:
                self._put(block)
                block = ""

    def _put(self, block: str) -> None:
        try:
            os.write(self._file, block.encode())
        except OSError:  # nobody reads any more, or the disk is full: answers go on
            for _ in range(block.count("\n")):
                self._dropped()
