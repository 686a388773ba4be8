"""Ratings on disk: columns of coded rows in plain files, written once and read in blocks."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.raw_ratings import Ids

BLOCK_ROWS = 1 << 22
"""Rows that are read at a time, at most: more cost memory and save nothing."""


class Room(NamedTuple):
    """How much may be in memory: rows of a block that is read or gone through, and bytes of a part by user."""

    block_rows: int = BLOCK_ROWS
    part_bytes: int = 1 << 30


class StoredColumns:
    """Parallel arrays in a folder, one file of bare values a column; rows are appended.

    Args:
        folder: is made, if it does not exist.
        dtypes: name -> type of each column.
    """

    def __init__(self, folder: Path, dtypes: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._dtypes = {name: np.dtype(dtype) for name, dtype in dtypes.items()}
        self._n_rows = 0

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self._dtypes)

    def append(self, **columns: NDArray[Any]) -> None:
        """Write rows behind those that are there; each column must be given, as long as the others."""
        for name, dtype in self._dtypes.items():
            with (self._folder / name).open("ab") as file:
                file.write(np.ascontiguousarray(columns[name], dtype).data)
        self._n_rows += len(next(iter(columns.values())))

    def read(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """The values of a column in some rows, or in all."""
        dtype, start = self._dtypes[name], rows.start if rows else 0
        n = (rows.stop - start) if rows else self._n_rows
        if not n:
            return np.empty(0, dtype)
        return np.fromfile(self._folder / name, dtype, n, offset=start * dtype.itemsize)

    def blocks(self, n_rows: int) -> Iterator[slice]:
        """The numbers of all rows, ``n_rows`` at a time."""
        return (slice(start, min(start + n_rows, self._n_rows)) for start in range(0, self._n_rows, n_rows))

    def remove(self) -> None:
        """Delete the folder: the rows are gone."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._n_rows = 0

    def __len__(self) -> int:
        return self._n_rows


@dataclass(frozen=True, kw_only=True)
class StoredRatings:
    """`data_prep.ratings.raw_ratings.Ratings` whose rows are on disk; their ids are in memory.

    Attributes:
        columns: ``user`` and ``item``, int32, and where there are times ``time``, int64 or float64, in file order.
        user_numbers: the code of each number in ``user``, int32; None where they are the same.
        item_numbers: likewise of ``item``.
        user_ids: the original id of each user code.
        item_ids: the original id of each item code.
        has_times: whether there are times.
        time_unit: see `Ratings`.
        block_rows: rows that are read at a time.
    """

    columns: StoredColumns
    user_numbers: NDArray[np.int32] | None
    item_numbers: NDArray[np.int32] | None
    user_ids: Ids
    item_ids: Ids
    has_times: bool
    time_unit: str | None
    block_rows: int = BLOCK_ROWS

    def blocks(self) -> Iterator[slice]:
        """The numbers of all rows, a block at a time."""
        return self.columns.blocks(self.block_rows)

    def pair(self, rows: slice) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The user codes and the item codes of some rows."""
        users, items = self.columns.read("user", rows), self.columns.read("item", rows)
        return (
            users if self.user_numbers is None else self.user_numbers[users],
            items if self.item_numbers is None else self.item_numbers[items],
        )

    def pairs(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """The user codes and the item codes of all rows in file order, a block at a time."""
        return map(self.pair, self.blocks())

    def times(self, rows: slice) -> NDArray[np.int64] | NDArray[np.float64]:
        """The times of some rows, 0 where there are none."""
        return self.columns.read("time", rows) if self.has_times else np.zeros(rows.stop - rows.start, np.int64)

    def __len__(self) -> int:
        return len(self.columns)


class TimesInBlocks:
    """The times of all rows, to be gone through more than once."""

    def __init__(self, ratings: StoredRatings) -> None:
        self._ratings = ratings

    def __iter__(self) -> Iterator[NDArray[np.int64] | NDArray[np.float64]]:
        return map(self._ratings.times, self._ratings.blocks())
