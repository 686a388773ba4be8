"""Ratings that a program holds already: a DataFrame, columns, rows or a sparse matrix."""

from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.ratings.columns import ReadOptions
from data_prep.ratings.raw_ratings import Ratings
from data_prep.ratings.readers import ReadRatings, RoleTable, count_positives
from data_prep.ratings.typed_tables import checked_table, columns_by_role, roles_of
from ppt_core.errors import DataError

_ROLES = ("user", "item", "time")
_NAME = "the ratings"


def read_memory(source: Any, options: ReadOptions | None = None) -> Ratings:
    """Return the ratings in an object, in its order: see `read_object`."""
    return read_object(source, options).ratings


def read_object(source: Any, options: ReadOptions | None = None) -> ReadRatings:
    """Return the ratings in an object, in its order, and how it was read.

    ==============  ==================================================================================================
    DataFrame, or   columns by the names that files may have (`data_prep.ratings.readers.read_files`), or as
    a mapping       ``options`` name them; other columns are ignored, a time column may be missing
    Arrow table     likewise; also what hands one over, as a DataFrame of polars does
    tuple           columns in the order users, items and, if there are three, times
    list, 2-D       rows of (user, item) or (user, item, time)
    array
    sparse matrix   of scipy: every stored value but 0 is a rating of its row, the user, for its column, the item;
                    the numbers of rows and columns are the ids, and there are no times
    ==============  ==================================================================================================

    Ids are integers, or strings; where all strings are written as integers, they are these. Times are numbers,
    timestamps or texts of dates; without them `Ratings.has_times` is False.

    Raises `DataError`, naming the column and the row from 1, for what is neither, or is missing, unless such rows are
    to be left out.
    """
    if isinstance(source, Ratings):
        return ReadRatings(source, None)
    options = options or ReadOptions()
    names: dict[str, str] = {}
    if hasattr(source, "tocoo"):
        matrix = source.tocoo()
        stored = matrix.data != 0
        columns: dict[str, Any] = {
            "user": matrix.row[stored].astype(np.int64),
            "item": matrix.col[stored].astype(np.int64),
            "rating": matrix.data[stored],
        }
    elif isinstance(source, (pd.DataFrame, Mapping)):
        if isinstance(source, pd.DataFrame) and any(name is not None for name in source.index.names):
            source = source.reset_index()
        names = roles_of(_NAME, list(map(str, source)), options)
        by_text = {str(name): name for name in source}
        columns = {role: source[by_text[name]] for role, name in names.items()}
    elif hasattr(source, "__arrow_c_stream__"):
        return _read_arrow(source, options)
    else:
        columns = _columns(source)
    try:
        lengths = {role: len(column) for role, column in columns.items()}
    except TypeError:
        raise DataError(
            "the ratings hold one value where a column should be; give users and items as lists or arrays"
        ) from None
    if len(set(lengths.values())) != 1 or not max(lengths.values()):
        found = ", ".join(f"{length:,} {role}s" for role, length in lengths.items())
        raise DataError(f"the ratings hold {found}; there must be as many of each, and at least one")
    table: dict[str, Any] = {role: _ids(role, columns[role]) for role in ("user", "item")}
    if "time" in columns:
        table["time"] = _times(columns["time"])
    if "rating" in columns:
        values = pd.to_numeric(pd.Series(np.asarray(columns["rating"])), errors="coerce")
        table["rating"] = pa.array(values.to_numpy(np.float32), from_pandas=True)
    if "event" in columns:
        events = pd.Series(columns["event"]).astype(object)
        table["event"] = pa.array(
            events.where(events.notna(), "").astype(str).tolist(), pa.string()
        ).dictionary_encode()
    return _read_table(pa.table(table), names or {role: role for role in columns}, type(source).__name__, options)


def _read_arrow(source: Any, options: ReadOptions) -> ReadRatings:
    try:
        table = pa.table(source)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"the ratings hold a column that Arrow does not know ({error}); make it integers or strings"
        ) from None
    names, table = columns_by_role(table, partial(roles_of, _NAME, options=options))
    return _read_table(table, names, "arrow", options)


def _read_table(table: pa.Table, names: dict[str, str], kind: str, options: ReadOptions) -> ReadRatings:
    table, n_bad = checked_table(_NAME, table, names, options)
    names = {role: name for role, name in names.items() if role in table.column_names}
    return count_positives(_NAME, RoleTable(table, names, kind, n_bad), options)


def _columns(source: Any) -> dict[str, Any]:
    """The columns of an object by their roles, ``time`` only where there is one."""
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
            "DataFrame, columns, rows or a sparse matrix; a lazy table must be collected first"
        )
    if len(parts) not in (2, 3):
        raise DataError(f"the ratings have {len(parts)} columns; there are users, items and, if known, times")
    return dict(zip(_ROLES, parts, strict=False))


def _ids(role: str, values: Any) -> pa.Array:
    """A column of ids, nulls where there is none."""
    ids = np.asarray(values)
    if ids.ndim == 1 and ids.dtype.kind in "iu":
        return pa.array(ids)
    objects = np.asarray(values, object)
    if objects.ndim == 1:
        missing = np.asarray(pd.isna(objects))
        known = _known_ids(role, objects[~missing].tolist())
        if known is not None:
            return _with_gaps(known, missing)
    raise DataError(f"the {role} ids are neither all integers nor all strings; make them one or the other")


def _known_ids(role: str, values: list[Any]) -> pa.Array | None:
    """Ids of one kind, none of them missing; None for any other."""
    kinds = {type(value) for value in values}
    if all(issubclass(kind, str) for kind in kinds):
        return pa.array(values, pa.string())
    if kinds in ({bytes}, {Decimal}):  # what Arrow knows, as in files
        try:
            return pa.array(values)
        except pa.ArrowInvalid as error:
            raise DataError(f"the {role} ids are numbers too large for a table ({error}); make them strings") from None
    if kinds == {UUID}:
        return pa.array(list(map(str, values)))
    return pa.array([int(value) for value in values], pa.int64()) if all(map(_is_integer, values)) else None


def _with_gaps(known: pa.Array, missing: NDArray[np.bool_]) -> pa.Array:
    """A column of the values that are known and nulls between them, where they are missing."""
    return known.take(pa.array(np.cumsum(~missing) - 1, mask=missing)) if missing.any() else known


def _is_integer(value: object) -> bool:
    """Whether a value is an integer of 64 bits; floats are, too, where pandas made them of a column with gaps."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return False
    return bool(-(2**63) <= value < 2**63 and int(value) == value)


def _times(values: Any) -> pa.Array:
    """A column of times as numbers, timestamps or texts, nulls where there is none."""
    column = pd.Series(values)
    missing = column.isna().to_numpy()
    known = column[~missing].infer_objects()
    if pd.api.types.is_datetime64_any_dtype(known.dtype):
        return _with_gaps(pa.array(pd.DatetimeIndex(known).as_unit("us").asi8, pa.timestamp("us")), missing)
    times = known.to_numpy()
    if times.dtype.kind in "iuf":
        return _with_gaps(pa.array(times), missing)
    if all(isinstance(value, str) for value in times.tolist()):
        return _with_gaps(pa.array(times.tolist(), pa.string()), missing)
    if not all(isinstance(value, date) for value in times.tolist()):
        odd = next(place for place, value in enumerate(times.tolist()) if not isinstance(value, date))
        raise DataError(
            f"the times are {column.dtype} (row {np.flatnonzero(~missing)[odd] + 1} is {times[odd]!r}); give numbers "
            "or timestamps, or dates"
        )
    try:
        instants = pd.to_datetime(known, utc=True)  # without a zone a time counts as UTC
    except (ValueError, OverflowError) as error:
        raise DataError(f"the times are no dates that can be compared ({error}); make them all UTC") from None
    return _with_gaps(pa.array(pd.DatetimeIndex(instants).as_unit("us").asi8, pa.timestamp("us")), missing)
