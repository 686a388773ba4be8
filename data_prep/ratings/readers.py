"""Ratings files of every common shape, told apart by what is in them, never by their names."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_prep.ratings.archives import Source, find_sources
from data_prep.ratings.columns import ROLES, ReadOptions
from data_prep.ratings.id_columns import number_column
from data_prep.ratings.moments import date_of, mixed_units, unit_of
from data_prep.ratings.raw_ratings import Ratings
from data_prep.ratings.reading import ColumnReading, Reading
from data_prep.ratings.text_layout import text_layout, without_ratings
from data_prep.ratings.text_lines import TextLayout
from data_prep.ratings.text_tables import read_good_rows, read_text
from data_prep.ratings.typed_tables import SAMPLE_BYTES, checked_table, read_typed, roles_of, typed_format
from ppt_core.errors import DataError


class ReadRatings(NamedTuple):
    """What `read_files` returns: the ratings that count, and how their source was read, None if it was not."""

    ratings: Ratings
    reading: Reading | None


class RoleTable(NamedTuple):
    """One file: a column for each role, their names there, and how it was read."""

    table: pa.Table
    names: dict[str, str]
    format: str
    n_bad_rows: int = 0
    layout: TextLayout | None = None


def read_ratings(path: Path, options: ReadOptions | None = None) -> Ratings:
    """Read the users, items and times of a ratings file, in file order: see `read_files`."""
    return read_files([path], options).ratings


def read_files(paths: Sequence[Path], options: ReadOptions | None = None) -> ReadRatings:
    """Read the ratings of one or several files or folders as one table, in the order of the files and their rows.

    ==============  ===============================================================================================
    layout          how it is told
    ==============  ===============================================================================================
    text, header    separated by a tab, ``::``, comma, semicolon, ``|`` or space; columns by known names
                    (`data_prep.ratings.columns`) or as ``options`` name them; RecBole's ``user_id:token`` too
    text, none      tab or ``::``: user, item, rating, timestamp (MovieLens), where the fourth is a time; any other
                    as ``options`` number its columns
    JSON lines      an object a line
    Parquet, Arrow  integers, strings, decimals, bytes and UUIDs are ids; numbers, dates, timestamps and texts of
                    dates are times
    ==============  ===============================================================================================

    Each may be compressed or the member of an archive, and a folder holds parts of one table
    (`data_prep.ratings.archives.find_sources`). Ids are int64 where every id of the column is written as an int64, and
    str otherwise (``007`` stays distinct from ``7``, and ``1.0`` is 1). Only the order of times matters; without a time
    column there are none.

    Raises `DataError` for everything that cannot be read: a missing file, an unknown format, missing columns, no rows,
    missing ids, and lines that are ragged, not UTF-8 or hold text in place of a time; and where two readings are
    possible, naming the option that decides.
    """
    options = options or ReadOptions()
    sources = [source for path in paths for source in find_sources(path, options.members)]
    parts = [_read(source, options) for source in sources]
    first = parts[0]
    for source, part in zip(sources, parts, strict=True):
        if part.names.keys() != first.names.keys():
            raise DataError(
                f"{source} has columns for {', '.join(part.names)}, and {sources[0]} for {', '.join(first.names)}; "
                "parts of one table must have the same"
            )
    name = str(sources[0]) if len(sources) == 1 else f"{sources[0]} and {len(sources) - 1} more"
    whole = first._replace(
        table=first.table if len(parts) == 1 else _joined(name, [part.table for part in parts]),
        n_bad_rows=sum(part.n_bad_rows for part in parts),
    )
    _refuse_many_bad_rows(name, whole, options)
    return count_positives(name, whole, options)


def _read(source: Source, options: ReadOptions) -> RoleTable:
    with source.open() as stream:
        sample = stream.read(SAMPLE_BYTES)
    kind = typed_format(sample)
    if kind is not None:
        table, names = read_typed(source, kind, sample, partial(roles_of, source, options=options))
        table, n_bad = checked_table(source, table, names, options)
        names = {role: name for role, name in names.items() if role in table.column_names}
        return RoleTable(table, names, kind, n_bad)
    layout = text_layout(source, sample, options)
    table, n_bad = _read_text(source, layout, options)
    layout = layout if table.num_columns == len(layout.columns) else without_ratings(layout)
    names = {role: layout.names[layout.columns[role][0]] for role in ROLES if role in layout.columns}
    return RoleTable(table, names, "text", n_bad, layout)


def _read_text(source: Source, layout: TextLayout, options: ReadOptions) -> tuple[pa.Table, int]:
    if "rating" in layout.columns and not layout.with_ratings:
        try:
            return read_text(source, layout), 0
        except DataError:  # perhaps for a rating that nobody asked for: without it all is said again
            layout = without_ratings(layout)
    if not options.skip_bad_rows:
        return read_text(source, layout), 0
    try:
        return read_text(source, layout), 0
    except DataError:
        return read_good_rows(source, layout)


def _joined(name: str, tables: Sequence[pa.Table]) -> pa.Table:
    """Tables one behind the other, ids as integers where all have them so, or else as strings."""
    columns = {}
    for role in tables[0].column_names:
        parts = [table.column(role) for table in tables]
        kinds = {part.type for part in parts}
        if len(kinds) > 1 and role in ("user", "item"):
            parts = [part.cast(pa.string()).dictionary_encode() for part in parts]
        elif len(kinds) > 1:
            if any(pa.types.is_timestamp(kind) for kind in kinds):
                raise DataError(f"{name}: some files hold dates and others numbers for times; convert the ones")
            parts = [part.cast(pa.float64()) for part in parts]
        columns[role] = pa.chunked_array([chunk for part in parts for chunk in part.chunks])
    return pa.table(columns)


def _refuse_many_bad_rows(name: str, part: RoleTable, options: ReadOptions) -> None:
    n_rows = len(part.table) + part.n_bad_rows
    if part.n_bad_rows > options.max_bad_rows * n_rows:
        raise DataError(
            f"{name}: {part.n_bad_rows:,} of {n_rows:,} rows cannot be read, and max_bad_rows is "
            f"{options.max_bad_rows}; are the columns the right ones?"
        )


def count_positives(name: str, part: RoleTable, options: ReadOptions) -> ReadRatings:
    """Leave out the rows whose rating or event does not count, number the ids, and say what was understood."""
    table, not_counted = part.table, {}
    if options.events:
        table = _with_events(name, table, options.events)
        not_counted["other_events"] = len(part.table) - len(table)
    if options.min_rating is not None:
        n_before = len(table)
        least = pa.scalar(float(np.float32(options.min_rating)), pa.float32())
        table = table.filter(pc.fill_null(pc.greater_equal(table.column("rating"), least), False))
        not_counted["below_min_rating"] = n_before - len(table)
        if not len(table):
            highest = pc.max(part.table.column("rating")).as_py()
            found = "there is none" if highest is None else f"the highest is {highest:g}"
            raise DataError(f"{name}: no row has a rating of {options.min_rating:g} ({found})")
    times, has_times, unit = _times(table)
    users, user_ids = number_column(table.column("user"))
    items, item_ids = number_column(table.column("item"))
    ratings = Ratings(
        users=users,
        items=items,
        times=times,
        user_ids=user_ids,
        item_ids=item_ids,
        has_times=has_times,
        time_unit=unit,
    )
    columns = {role: _column_reading(role, name, part.table.column(role), unit) for role, name in part.names.items()}
    if part.layout is not None and part.layout.unread_event is not None:
        event, example = part.layout.unread_event
        columns["event"] = ColumnReading(name=event, example=example)
    n_not_positive = 0
    if "rating" in part.names and options.min_rating is None:
        n_not_positive = pc.sum(pc.less_equal(part.table.column("rating"), 0)).as_py() or 0
    reading = Reading(
        format=part.format,
        columns=columns,
        n_rows=len(part.table),
        separator=part.layout.separator if part.layout else None,
        header=part.layout.has_header if part.layout else None,
        n_bad_rows=part.n_bad_rows,
        not_counted=not_counted,
        n_not_positive=n_not_positive,
        time_units=mixed_units(times) if unit is None else {},
    )
    return ReadRatings(ratings, reading)


def _with_events(name: str, table: pa.Table, events: Sequence[str]) -> pa.Table:
    column = table.column("event").unify_dictionaries()
    known = [text.strip() for text in column.chunk(0).dictionary.to_pylist()]
    absent = [event for event in events if event not in known]
    if absent:
        shown = ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
        raise DataError(f"{name} has no event {absent[0]!r}; its events are {shown}")
    wanted = np.array([text in events for text in known])
    chosen = np.concatenate([wanted[chunk.indices.to_numpy()] for chunk in column.chunks])
    return table.filter(pa.array(chosen))


def _times(table: pa.Table) -> tuple[NDArray[np.int64] | NDArray[np.float64], bool, str | None]:
    """The times of each row, whether there are any, and their unit if it is known."""
    if "time" not in table.column_names:
        return np.zeros(len(table), np.int64), False, None
    column = table.column("time")
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.int64()).to_numpy(), True, "us"
    return column.to_numpy(), True, None


def _column_reading(role: str, name: str, column: pa.ChunkedArray, unit: str | None) -> ColumnReading:
    example = str(column[0].as_py()).strip()
    if role in ("user", "item", "event"):
        return ColumnReading(name=name, example=example)
    extent = pc.min_max(column.cast(pa.int64()) if role == "time" and unit else column)
    low, high = extent["min"].as_py(), extent["max"].as_py()
    if role == "time" and (unit or (unit_of(low) and unit_of(high))):
        return ColumnReading(name=name, example=example, low=date_of(low, unit), high=date_of(high, unit))
    return ColumnReading(name=name, example=example, low=low, high=high)
