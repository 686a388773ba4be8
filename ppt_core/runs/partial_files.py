"""What is being written, under a name of its own: held by its process, and removed once that is gone."""

import contextlib
import ctypes
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

PARTIAL = ".partial"
"""How the name of what is being written ends."""

_SECONDS_TO_HOLD = 10


def prefix_of(path: Path) -> str:
    """How the names of what becomes ``path`` begin."""
    return f".{path.name[:50]}."  # a whole name could grow beyond the 255 bytes of a file system


@contextlib.contextmanager
def held(partial: Path) -> Iterator[bool]:
    """Hold a temporary file or folder during the block: the lock is the kernel's, and goes with its process.

    Yields False if another process holds it; where there are no such locks nobody does.
    """
    try:
        import fcntl

        handle = os.open(partial, os.O_RDONLY)
    except (ImportError, OSError):  # Windows has no such locks
        yield True
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # some network file systems have none either
            yield not isinstance(error, BlockingIOError)
        else:
            yield True
    finally:
        os.close(handle)


def leftovers(folder: Path, pattern: str = ".*") -> list[Path]:
    """The temporary files and folders in ``folder`` whose processes are gone, killed perhaps."""
    return [each for each in sorted(folder.glob(f"{pattern}{PARTIAL}")) if _is_left(each)]


def _is_left(partial: Path) -> bool:
    """Whether nobody holds a temporary file or folder. One that is seconds old may be about to be held."""
    try:
        import fcntl

        if partial.is_symlink() or time.time() - partial.lstat().st_mtime < _SECONDS_TO_HOLD:
            return False
        handle = os.open(partial, os.O_RDONLY | os.O_NONBLOCK)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def remove_leftovers(found: Iterable[Path]) -> None:
    """Remove what `leftovers` found, as far as that is possible."""
    for each in found:
        if each.is_dir():
            shutil.rmtree(each, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                each.unlink()


def exchange(first: Path, second: Path) -> bool:
    """Let two paths change places in one step; False where the system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2  # Linux 3.15 with glibc 2.28
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(call(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0)
