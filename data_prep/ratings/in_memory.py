"""Ratings that a program holds already: a DataFrame, columns, rows or a sparse matrix."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep.ratings.raw_ratings import Ids, Ratings
from data_prep.ratings.readers import ACCEPTED_COLUMNS, COLUMN_NAMES
from ppt_core.errors import DataError

_ROLES = ("user", "item", "time")


def read_memory(source: Any) -> Ratings:
    """Return the ratings in an object, in its order.

    ==============  ==================================================================================================
    `Ratings`       as they are
    DataFrame, or   columns by the names that files may have (`data_prep.ratings.readers.read_ratings`), other columns
    a mapping       are ignored; a time column may be missing
    tuple           columns in the order users, items and, if there are three, times
    list, 2-D       rows of (user, item) or (user, item, time)
    array
    sparse matrix   of scipy: every stored value but 0 is a rating of its row, the user, for its column, the item;
                    the numbers of rows and columns are the ids, and there are no times
    ==============  ==================================================================================================

    Ids are integers, or strings. Times are numbers or timestamps; without them `Ratings.has_times` is False.

    Raises `DataError`, naming the column and the row, for what is neither, or is missing.
    """
    if isinstance(source, Ratings):
        return source
    if hasattr(source, "tocoo"):
        matrix = source.tocoo()
        stored = matrix.data != 0
        columns = {"user": matrix.row[stored].astype(np.int64), "item": matrix.col[stored].astype(np.int64)}
    else:
        columns = _columns(source)
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1 or not max(lengths):
        found = ", ".join(f"{len(column):,} {role}s" for role, column in columns.items())
        raise DataError(f"the ratings hold {found}; there must be as many of each, and at least one")
    times = _times(columns["time"]) if "time" in columns else None
    return Ratings.from_ids(_ids("user", columns["user"]), _ids("item", columns["item"]), times)


def _columns(source: Any) -> dict[str, Any]:
    """The columns of an object by their roles, ``time`` only where there is one."""
    if hasattr(source, "to_pandas"):  # a table of another library
        source = source.to_pandas()
    if isinstance(source, (pd.DataFrame, Mapping)):
        return _named_columns(source)
    if isinstance(source, tuple):
        parts: list[Any] = list(source)
    elif isinstance(source, np.ndarray) and source.ndim == 2:
        parts = list(source.T)
    elif isinstance(source, Iterable) and not isinstance(source, (bytes, np.ndarray)):
        rows = list(source)
        widths = {len(row) if isinstance(row, (tuple, list)) else 0 for row in rows}
        if len(widths) != 1 or not widths <= {2, 3}:
            raise DataError("a list of ratings holds rows of (user, item) or (user, item, time), all of one length")
        parts = [list(column) for column in zip(*rows, strict=True)]
    else:
        raise DataError(
            f"ratings cannot be read from {type(source).__name__}; give a path, the name of a known data set, a "
            "DataFrame, columns, rows or a sparse matrix"
        )
    if len(parts) not in (2, 3):
        raise DataError(f"the ratings have {len(parts)} columns; there are users, items and, if known, times")
    return dict(zip(_ROLES, parts, strict=False))


def _named_columns(table: Any) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name in table:
        plain = re.sub(r":.*|_", "", str(name)).lower()
        for role, names in COLUMN_NAMES.items():
            if plain in names:
                if role in columns:
                    raise DataError(f"two columns name the {role}, {name} being the second; drop one of them")
                columns[role] = table[name]
    for role in ("user", "item"):
        if role not in columns:
            found = ", ".join(map(str, table))
            raise DataError(f"no column names the {role} (columns: {found}); names accepted: {ACCEPTED_COLUMNS}")
    return columns


def _ids(role: str, values: Any) -> Ids:
    ids = np.asarray(values)
    if ids.ndim == 1 and ids.dtype.kind in "iu":
        return ids
    objects = np.asarray(values, object)
    missing = np.flatnonzero(pd.isna(objects)) if objects.ndim == 1 else np.zeros(0, np.intp)
    if len(missing):
        raise DataError(f"row {missing[0]} has no {role}; drop the rows without one")
    are_strings = objects.ndim == 1 and all(isinstance(value, str) for value in objects.tolist())
    if are_strings:
        return objects
    if objects.ndim == 1 and all(_is_integer(value) for value in objects.tolist()):
        return np.array([int(value) for value in objects.tolist()], np.int64)
    raise DataError(f"the {role} ids are neither all integers nor all strings; make them one or the other")


def _is_integer(value: object) -> bool:
    """Whether a value is an integer of 64 bits; floats are, too, where pandas made them of a column with gaps."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return False
    return bool(-(2**63) <= value < 2**63 and int(value) == value)


def _times(values: Any) -> NDArray[Any]:
    column = pd.Series(values)
    if column.dtype.kind == "O":
        column = column.infer_objects()
    missing = np.flatnonzero(column.isna().to_numpy())
    if len(missing):
        raise DataError(f"row {missing[0]} has no time; drop such rows, or the whole column")
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return np.asarray(pd.DatetimeIndex(column).as_unit("ns").asi8)
    times = column.to_numpy()
    if times.dtype.kind not in "iuf":
        raise DataError(f"the times are {column.dtype} (the first is {column.iloc[0]!r}); give numbers or timestamps")
    if not np.isfinite(times).all():
        raise DataError(f"row {int(np.flatnonzero(~np.isfinite(times))[0])} has an infinite time; drop such rows")
    return times
