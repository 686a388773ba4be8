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

from data_prep.ratings.columns import ReadOptions
from data_prep.ratings.id_columns import id_texts
from data_prep.ratings.moments import ISO, is_moment, possible_formats, read_moments
from data_prep.ratings.raw_ratings import Ids, Ratings
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

    Raises `DataError`, naming the column and the row, for what is neither, or is missing.
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
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1 or not max(lengths):
        found = ", ".join(f"{len(column):,} {role}s" for role, column in columns.items())
        raise DataError(f"the ratings hold {found}; there must be as many of each, and at least one")
    table: dict[str, Any] = {
        role: id_texts(_NAME, role, pa.chunked_array([pa.array(_ids(role, columns[role]))]))
        for role in ("user", "item")
    }
    if "time" in columns:
        table["time"] = _times(columns["time"], options.time_format)
    if "rating" in columns:
        values = pd.to_numeric(pd.Series(np.asarray(columns["rating"])), errors="coerce")
        table["rating"] = pa.array(values.to_numpy(np.float32), from_pandas=True)
    if "event" in columns:
        events = pd.Series(columns["event"]).astype(object)
        table["event"] = pa.array(
            events.where(events.notna(), "").astype(str).tolist(), pa.string()
        ).dictionary_encode()
    names = names or {role: role for role in columns}
    return count_positives(_NAME, RoleTable(pa.table(table), names, type(source).__name__), options)


def _read_arrow(source: Any, options: ReadOptions) -> ReadRatings:
    try:
        table = pa.table(source)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"the ratings hold a column that Arrow does not know ({error}); make it integers or strings"
        ) from None
    names, table = columns_by_role(table, partial(roles_of, _NAME, options=options))
    table, n_bad = checked_table(_NAME, table, names, options)
    names = {role: name for role, name in names.items() if role in table.column_names}
    return count_positives(_NAME, RoleTable(table, names, "arrow", n_bad), options)


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


def _ids(role: str, values: Any) -> Ids | pa.Array:
    ids = np.asarray(values)
    if ids.ndim == 1 and ids.dtype.kind in "iu":
        return ids
    objects = np.asarray(values, object)
    missing = np.flatnonzero(pd.isna(objects)) if objects.ndim == 1 else np.zeros(0, np.intp)
    if len(missing):
        raise DataError(f"row {missing[0]} has no {role}; drop the rows without one")
    kinds = {type(value) for value in objects.tolist()} if objects.ndim == 1 else set()
    if kinds and all(issubclass(kind, str) for kind in kinds):
        return objects
    if kinds in ({bytes}, {Decimal}):  # what Arrow knows, as in files
        try:
            return pa.array(objects.tolist())
        except pa.ArrowInvalid as error:
            raise DataError(f"the {role} ids are numbers too large for a table ({error}); make them strings") from None
    if kinds == {UUID}:
        return np.array([str(value) for value in objects.tolist()], object)
    if objects.ndim == 1 and all(_is_integer(value) for value in objects.tolist()):
        return np.array([int(value) for value in objects.tolist()], np.int64)
    raise DataError(f"the {role} ids are neither all integers nor all strings; make them one or the other")


def _is_integer(value: object) -> bool:
    """Whether a value is an integer of 64 bits; floats are, too, where pandas made them of a column with gaps."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return False
    return bool(-(2**63) <= value < 2**63 and int(value) == value)


def _times(values: Any, time_format: str | None) -> pa.Array:
    column = pd.Series(values)
    if column.dtype.kind == "O":
        column = column.infer_objects()
    missing = np.flatnonzero(column.isna().to_numpy())
    if len(missing):
        raise DataError(f"row {missing[0]} has no time; drop such rows, or the whole column")
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return pa.array(pd.DatetimeIndex(column).as_unit("us").asi8, pa.timestamp("us"))
    times = column.to_numpy()
    if times.dtype.kind not in "iuf":
        return _dates(column, time_format)
    if not np.isfinite(times).all():
        raise DataError(f"row {int(np.flatnonzero(~np.isfinite(times))[0])} has an infinite time; drop such rows")
    return pa.array(times.astype(np.float64 if times.dtype.kind == "f" else np.int64))


def _dates(column: "pd.Series[Any]", time_format: str | None) -> pa.Array:
    if all(isinstance(value, date) for value in column.tolist()):
        try:
            instants = pd.to_datetime(column, utc=True)  # without a zone a time counts as UTC
        except (ValueError, OverflowError) as error:
            raise DataError(f"the times are no dates that can be compared ({error}); make them all UTC") from None
        return pa.array(pd.DatetimeIndex(instants).as_unit("us").asi8, pa.timestamp("us"))
    texts = [value if isinstance(value, str) else "" for value in column.tolist()]
    formats = [time_format] if time_format else possible_formats(texts[:1]) or [ISO]
    moments = read_moments(_NAME, texts, formats)
    if not is_moment(moments).all():
        row = int(np.flatnonzero(~is_moment(moments))[0])
        raise DataError(
            f"the times are {column.dtype} (row {row} is {column.iloc[row]!r}); give numbers or timestamps, or dates"
        )
    return pa.array(moments, pa.timestamp("us"))
