"""One writer at a time in a folder that several processes may reach."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ppt_core.errors import DataError
from ppt_core.runs.files import writing


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep every other process that enters ``folder`` by this function out of it during the block.

    The lock is the kernel's (POSIX ``fcntl``): it goes with its process, however that ends. So what a killed one left
    is taken over at once, and workers forked from it hold nothing. The file ``folder/lock`` says who has it, and is
    gone after the block. Two blocks in one process do not keep each other out, and where a file system or a platform
    knows no such locks nobody is kept out.

    Raises `DataError`, naming the holder, if another process is in the folder.
    """
    path = folder / "lock"
    with contextlib.ExitStack() as stack:
        while True:
            with writing(path):
                handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            stack.callback(os.close, handle)
            is_locked = _lock(handle, folder)
            if not is_locked or _is_at(handle, path):
                break
            stack.pop_all().close()  # its last holder removed it between the two
        stack.callback(_remove, path)  # before it is closed, so that nobody else has it
        if is_locked:
            with writing(path):
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


def _lock(handle: int, folder: Path) -> bool:
    """Lock the open file; False where that is impossible, `DataError` where another process has."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return False
        holder = " ".join(os.pread(handle, 200, 0).decode("utf-8", "replace").split()) or "another process"
        raise DataError(
            f"{folder} is being written by {holder}; wait until that has ended, or end it and resume"
        ) from None
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file is the one that ``path`` names now."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the folder may be gone
        path.unlink()
