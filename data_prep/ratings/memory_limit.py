"""How much memory preparing may take: a size as people write it, what a machine has, and what follows for blocks."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from data_prep.ratings.archives import find_sources
from data_prep.ratings.columns import ReadOptions
from data_prep.ratings.prepare import Settings
from data_prep.ratings.readers import ReadRatings, read_files
from data_prep.ratings.stored_ratings import BLOCK_ROWS, Room
from data_prep.ratings.streamed_reading import StreamedRatings, estimated_rows, read_streamed, why_not_streamed
from ppt_core.errors import DataError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_BASE_BYTES = 400_000_000  # the program, its libraries and what they keep for themselves
_ROW_BYTES = 100  # of a row in memory: measured 75 at 20 million rows, of numbers
_BLOCK_ROW_BYTES = 250  # of a row of a block that is being read
_LEAST_BYTES = 500_000_000


def bytes_of(size: str | int) -> int:
    """A size such as ``4GB``, ``500MB`` or ``1.5 GiB`` in bytes; a number is bytes. Raises ValueError for others."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)\s*([kmgt]i?)?b?", str(size).strip().lower())
    if found is None:
        raise ValueError(f"memory is {size!r}; it must be a size such as 4GB, 500MB or 1.5GiB")
    n_bytes = int(float(found[1]) * _UNITS[found[2] or ""])
    if n_bytes < _LEAST_BYTES:
        least = f"{_LEAST_BYTES // 10**6}MB"
        raise ValueError(f"memory is {size!r}; it must be at least {least}, most of which the program itself takes")
    return n_bytes


def available_bytes() -> int | None:
    """Memory that a new program can take: what Linux says is available, within the limit of a container; else None."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
        for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
            text = Path(limit).read_text("ascii").strip() if Path(limit).exists() else "max"
            found += [int(text)] if text.isdigit() else []
    except (OSError, ValueError, IndexError):
        return None
    return min(found, default=None)


def needed_bytes(n_rows: int, settings: Settings) -> int:
    """Memory for preparing so many rows at once, at most: as many users as there can be have negatives."""
    n_users = n_rows // settings.filters.min_ratings
    return _BASE_BYTES + n_rows * _ROW_BYTES + n_users * settings.n_negatives * (8 if settings.validation else 4)


def room(limit: int) -> Room:
    """What may be held at a time within a limit in bytes: the rest is for ids and counts of users and items."""
    free = max(limit - _BASE_BYTES, _LEAST_BYTES - _BASE_BYTES)
    return Room(block_rows=min(BLOCK_ROWS, free // 2 // _BLOCK_ROW_BYTES), part_bytes=free // 2)


def read_within(
    paths: Sequence[Path],
    options: ReadOptions | None,
    *,
    memory: int | None,
    settings: Settings,
    folder: Callable[[], Path] | None,
    whole: str | None = None,
) -> ReadRatings | StreamedRatings:
    """Read files in memory where preparing them fits there, or else in blocks, the rows put on disk.

    Args:
        paths: files and folders.
        options: how they are read.
        memory: bytes that preparing may take. None takes what the machine has: what cannot be streamed is then read
            in memory all the same, as it is on a system that does not say what it has.
        settings: what is made of the rows.
        folder: makes the folder for rows on disk; None for none.
        whole: why all rows must be in memory, or None.

    Raises `DataError` for files that need more than ``memory`` and cannot be streamed, and what reading raises.
    """
    options = options or ReadOptions()
    limit = available_bytes() if memory is None else memory
    sources = [source for path in paths for source in find_sources(path, options.members)]
    n_bytes = needed_bytes(estimated_rows(sources, options), settings)
    if limit is None or n_bytes <= limit:
        return read_files(paths, options)
    reason = whole or why_not_streamed(sources, options)
    if reason is None and folder is None:
        reason = "it is not written to a folder; name one with out="
    if reason is None and folder is not None:
        return read_streamed(paths, options, folder=folder(), room=room(limit))
    if memory is not None:
        raise _too_large(str(sources[0]) if len(sources) == 1 else f"{len(sources)} files", n_bytes, memory, reason)
    return read_files(paths, options)


def refuse_large(what: str, n_rows: int, memory: int | None, settings: Settings) -> None:
    """Raise `DataError` for rows that are made in memory and need more than they may take."""
    n_bytes = needed_bytes(n_rows, settings)
    if memory is not None and n_bytes > memory:
        raise _too_large(what, n_bytes, memory, "they are made in memory; ask for fewer rows")


def _too_large(what: str, n_bytes: int, memory: int, reason: str | None) -> DataError:
    return DataError(
        f"{what} may need {n_bytes / 1e9:.1f} GB to prepare, memory= allows {memory / 1e9:.1f} GB, and "
        f"cannot be prepared in parts: {reason}, or allow more memory"
    )
