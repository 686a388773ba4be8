"""Standard streams that are closed, full, or that nobody reads any more."""

import io
import os
import sys
from typing import Any, TextIO


class _Output(io.FileIO):
    """A standard stream whose errors name it. What waits in buffers after one goes to the null device."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return self._give_up(error, memoryview(data).nbytes)

    def _give_up(self, error: OSError, n_bytes: int) -> int:
        raise OSError(error.errno, error.strerror, "standard output") from None


class _Notices(_Output):
    """A standard error that drops what it cannot write."""

    def _give_up(self, error: OSError, n_bytes: int) -> int:
        return n_bytes


def open_standard_streams() -> None:
    """Let a command go on whatever its standard streams are.

    Closed ones (``2>&-``) become the null device; else the next file that is opened, such as a run's, would take their
    number, and what a library writes to standard error would land in it. What is written to a standard error that is
    full or that nobody reads any more is dropped: no training ends because its progress is not looked at. Of standard
    output the first failed write raises OSError, and the rest is dropped.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
    if sys.__stdout__ is not None and sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Output, sys.__stdout__)
    if sys.__stderr__ is not None and sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Notices, sys.__stderr__)


def _text(kind: type[_Output], like: TextIO) -> TextIO:
    file = kind(like.fileno(), "w", closefd=False)
    at_once = kind is _Notices or file.isatty()
    return io.TextIOWrapper(io.BufferedWriter(file), like.encoding, like.errors, line_buffering=at_once)
