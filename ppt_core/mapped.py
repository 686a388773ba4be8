"""Arrays that are mapped from a file: how to read them in little memory."""

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray


def release_pages(array: NDArray[Any]) -> None:
    """Give back the memory of the file that ``array`` is mapped from, read-only, as `numpy.load` does it.

    Pages that were read count as memory of the process until then; when read again they come from the file, usually
    from the system's cache of it. Other arrays, and systems that have no such call, are left as they are.
    """
    base: Any = array
    is_writeable = array.flags.writeable
    while isinstance(base, np.ndarray):
        is_writeable = base.flags.writeable
        base = base.base
    if isinstance(base, mmap.mmap) and not is_writeable and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def extent(array: NDArray[Any]) -> tuple[int, int]:
    """Smallest and largest of an array of integers, not empty; of a mapped one 8 MB at a time are in memory."""
    n_rows = max(1, (1 << 23) * len(array) // max(1, array.nbytes))
    lowest, highest = [], []
    for start in range(0, len(array), n_rows):
        block = array[start : start + n_rows]
        lowest.append(int(block.min()))
        highest.append(int(block.max()))
        release_pages(array)
    return min(lowest), max(highest)
