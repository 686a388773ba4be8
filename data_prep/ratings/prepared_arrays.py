"""The arrays of a prepared set: what they must be before a kernel reads them, and how they are read from files."""

from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppt_core.errors import DataError
from ppt_core.mapped import extent

_SHAPES = {
    "history": "one of each train item",
    "test_items": "one of each user",
    "test_negatives": "a row of each user",
    "validation_items": "one of each user",
    "validation_negatives": "a row of each user",
}


def refuse_misfits(
    arrays: Mapping[str, NDArray[Any] | None],
    user_ids: NDArray[Any],
    item_ids: NDArray[Any],
    *,
    n_users: int,
    n_items: int,
    n_train: int,
    n_tested: int,
) -> None:
    """Raise ValueError unless all arrays of a prepared set fit its train items: kernels check no bounds.

    Args:
        arrays: ``history``, ``test_items``, ``test_negatives``, ``validation_items``, ``validation_negatives``, as
            `data_prep.ratings.interactions.PreparedData` describes them; None for what there is not.
        user_ids: original ids.
        item_ids: original ids.
        n_users: rows of the train matrix.
        n_items: its columns.
        n_train: its entries.
        n_tested: users with a held-out item, who are the first.
    """
    for name, array in arrays.items():
        if array is None:
            continue
        n_rows = n_train if name == "history" else n_tested if name.startswith("test") else n_users
        n_axes = 2 if name.endswith("negatives") else 1
        if array.dtype.kind != "i" or array.ndim != n_axes or len(array) != n_rows:
            raise ValueError(
                f"{name} is {array.dtype} {array.shape}; it must hold integers, {_SHAPES[name]}, {n_rows} in all"
            )
        low, high = extent(array) if array.size else (0, 0)
        if low < 0 or high >= n_items:
            raise ValueError(f"{name} holds {low} to {high}; items must be between 0 and {n_items - 1}")
    for name, ids, n in (("users", user_ids, n_users), ("items", item_ids, n_items)):
        if ids.ndim != 1 or len(ids) != n:
            raise ValueError(f"there are {len(ids)} ids of {n} {name}; each must have one")


def load_array(path: Path) -> NDArray[Any]:
    """Map an array from a ``.npy`` file. Raises `DataError` if it is none."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, TypeError, OSError, EOFError, OverflowError, SyntaxError, TokenError) as error:
        raise DataError(f"{path} is no array of NumPy ({_one_line(error)}); make the folder again") from None


def read_ids(path: Path) -> NDArray[Any]:
    """Read original ids from a Parquet file of one column: int64 or str objects (n,). Raises `DataError` for others."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        column = pq.read_table(path).column(0)
    except (pa.ArrowException, OSError, IndexError) as error:
        raise DataError(f"{path} is no Parquet file of ids ({_one_line(error)}); make the folder again") from None
    is_known = column.type == pa.int64() or pa.types.is_string(column.type)
    if not is_known or column.null_count:
        raise DataError(
            f"{path} holds ids of type {column.type}, {column.null_count} missing; they must be int64 or strings"
        )
    return np.asarray(column.to_numpy())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
