"""A catalogue as the kernels read it: blocks of items, what the first layer compares of them as ranks."""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ncf_ppt.packed import _catalogue_kernels
from ncf_ppt.packed._kernels import BLOCK

_Number = TypeVar("_Number", np.float32, np.uint16)

ITEMS_PER_SECTION = 127 * BLOCK  # a rank among them, and their number, have 16 bits


@dataclass(frozen=True, kw_only=True, eq=False)
class Tiles:
    """Items in blocks of `ncf_ppt.packed._kernels.BLOCK`.

    A user asks of an item's first-layer values only whether they reach thresholds, so a value's rank says as much as
    the value: v >= t just where as many values of the section are below v as are below t. Ranks have half the bytes
    and compare in half the time.

    Attributes:
        ranks: uint16 (tiles, channels, BLOCK): how many values of the item's section and channel are below the item's.
        factors: float32 (tiles, factors, BLOCK).
        levels: for each section float32 (channels, items of the section): its values in ascending order.
        items_per_section: a multiple of BLOCK.
    """

    ranks: NDArray[np.uint16]
    factors: NDArray[np.float32]
    levels: tuple[NDArray[np.float32], ...]
    items_per_section: int

    @classmethod
    def of(
        cls,
        values: NDArray[np.float32],
        factors: NDArray[np.float32],
        *,
        items_per_section: int = ITEMS_PER_SECTION,
    ) -> "Tiles":
        """Build from first-layer values (items, channels), finite ones, and factors (items, factors)."""
        n_items, n_channels = values.shape
        n_tiles = -(-n_items // BLOCK)
        ranks = _empty_lines((n_tiles, n_channels, BLOCK), np.uint16)
        levels = []
        for first in range(0, n_items, items_per_section):
            columns = np.ascontiguousarray(values[first : first + items_per_section].T)
            levels.append(np.sort(columns, axis=1))
            n_before = first // BLOCK
            _catalogue_kernels.fill_ranks(columns, levels[-1], ranks[n_before : n_before + items_per_section // BLOCK])
        tiles = _empty_lines((n_tiles, factors.shape[1], BLOCK), np.float32)
        _catalogue_kernels.fill_tiles(factors, tiles)
        return cls(ranks=ranks, factors=tiles, levels=tuple(levels), items_per_section=items_per_section)

    def ranks_of(self, thresholds: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Ranks (users, sections, channels) of thresholds (users, channels)."""
        ranks = np.empty((len(thresholds), len(self.levels), thresholds.shape[1]), np.uint16)
        for section, levels in enumerate(self.levels):
            _catalogue_kernels.rank_thresholds(thresholds, levels, ranks[:, section])
        return ranks


def _empty_lines(shape: tuple[int, ...], dtype: type[_Number]) -> NDArray[_Number]:
    """An array whose rows, of a multiple of 64 bytes, are cache lines."""
    memory = np.empty(math.prod(shape) * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + memory.size - 64].view(dtype).reshape(shape)
