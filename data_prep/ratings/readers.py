"""Ratings files of every common shape, told apart by what is in them, never by their names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
    refuse_other_columns([(source, part.names) for source, part in zip(sources, parts, strict=True)])
    name = name_of(sources)
    whole = first._replace(
        table=first.table if len(parts) == 1 else _joined(name, [part.table for part in parts]),
        n_bad_rows=sum(part.n_bad_rows for part in parts),
    )
    return count_positives(name, whole, options)


def name_of(sources: Sequence[Source]) -> str:
    """What errors call one or several files."""
    return str(sources[0]) if len(sources) == 1 else f"{sources[0]} and {len(sources) - 1} more"


def refuse_other_columns(parts: Sequence[tuple[Source, Mapping[str, str]]]) -> None:
    """Raise `DataError` unless the columns by role of each file are for what those of the first are."""
    first, names = parts[0]
    for source, others in parts:
        if others.keys() != names.keys():
            raise DataError(
                f"{source} has columns for {', '.join(others)}, and {first} for {', '.join(names)}; parts of one "
                "table must have the same"
            )


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
    """Leave out the rows whose rating or event does not count, number the ids, and say what was understood.

    Raises `DataError` if nothing counts, or if more rows could not be read than `ReadOptions.max_bad_rows` allows.
    """
    _refuse_many_bad_rows(name, part, options)
    tally = Tally(name, options)
    table = tally.positives(part.table)
    tally.refuse_nothing()
    times, has_times, unit = times_of(table)
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
    return ReadRatings(ratings, tally.reading(part, mixed_units([times]) if unit is None else {}))


class Tally:
    """What is found in a table that comes whole or in blocks: which rows count, how many do not, and what they hold."""

    def __init__(self, name: str, options: ReadOptions) -> None:
        self._name, self._options = name, options
        self._n_rows = self._n_positives = self._n_not_positive = 0
        self._not_counted: dict[str, int] = {}
        self._events: dict[str, None] = {}
        self._columns: dict[str, ColumnReading] = {}  # without names; of times the numbers
        self._time_unit: str | None = None

    def positives(self, table: pa.Table) -> pa.Table:
        """The rows of a block whose rating and event count. Its columns are roles, of the types of `read_text`."""
        options, whole = self._options, table
        self._n_rows += len(table)
        for role in table.column_names:
            self._see(role, table.column(role))
        if options.events:
            table = self._with_events(table)
            self._leave_out("other_events", len(whole) - len(table))
        if options.min_rating is not None:
            n_before = len(table)
            least = pa.scalar(float(np.float32(options.min_rating)), pa.float32())
            table = table.filter(pc.fill_null(pc.greater_equal(table.column("rating"), least), False))
            self._leave_out("below_min_rating", n_before - len(table))
        elif "rating" in whole.column_names:
            self._n_not_positive += pc.sum(pc.less_equal(whole.column("rating"), 0)).as_py() or 0
        self._n_positives += len(table)
        return table

    def refuse_nothing(self) -> None:
        """Raise `DataError` if an event that was asked for never came, or if no row has the least rating."""
        absent = [event for event in self._options.events if event not in self._events]
        if absent:
            known = list(self._events)
            shown = ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
            raise DataError(f"{self._name} has no event {absent[0]!r}; its events are {shown}")
        if self._options.min_rating is not None and not self._n_positives:
            highest = self._columns["rating"].high
            found = "there is none" if highest is None else f"the highest is {highest:g}"
            raise DataError(f"{self._name}: no row has a rating of {self._options.min_rating:g} ({found})")

    def reading(self, part: RoleTable, time_units: Mapping[str, int]) -> Reading:
        """What was understood, of a source that was read as ``part`` says; of times, by their units, how many."""
        layout, columns = part.layout, {role: self._named(role, name) for role, name in part.names.items()}
        if layout is not None and layout.unread_event is not None:
            event, example = layout.unread_event
            columns["event"] = ColumnReading(name=event, example=example)
        return Reading(
            format=part.format,
            columns=columns,
            n_rows=self._n_rows,
            separator=layout.separator if layout else None,
            header=layout.has_header if layout else None,
            n_bad_rows=part.n_bad_rows,
            not_counted=self._not_counted,
            n_not_positive=self._n_not_positive,
            time_units=time_units,
        )

    def _leave_out(self, reason: str, n_rows: int) -> None:
        self._not_counted[reason] = self._not_counted.get(reason, 0) + n_rows

    def _with_events(self, table: pa.Table) -> pa.Table:
        column = table.column("event").unify_dictionaries()
        known = [text.strip() for text in column.chunk(0).dictionary.to_pylist()]
        self._events |= dict.fromkeys(known)
        wanted = np.array([text in self._options.events for text in known], np.bool_)
        chosen = np.concatenate([wanted[chunk.indices.to_numpy()] for chunk in column.chunks])
        return table.filter(pa.array(chosen))

    def _see(self, role: str, column: pa.ChunkedArray) -> None:
        """Note the first value of a column, and its least and largest where it holds numbers."""
        before, low, high = self._columns.get(role), None, None
        if role in ("time", "rating"):
            if pa.types.is_timestamp(column.type):
                self._time_unit, values = "us", column.cast(pa.int64())
            else:
                values = column
            extent = pc.min_max(values)
            low, high = extent["min"].as_py(), extent["max"].as_py()
        if before is None:
            self._columns[role] = ColumnReading(name="", example=str(column[0].as_py()).strip(), low=low, high=high)
        elif low is not None:
            seen = [value for value in (before.low, before.high, low, high) if isinstance(value, (int, float))]
            self._columns[role] = replace(before, low=min(seen), high=max(seen))

    def _named(self, role: str, name: str) -> ColumnReading:
        found = replace(self._columns[role], name=name)
        low, high, unit = found.low, found.high, self._time_unit
        if role != "time" or not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
            return found
        if unit or (unit_of(low) and unit_of(high)):
            return replace(found, low=date_of(low, unit), high=date_of(high, unit))
        return found


def times_of(table: pa.Table) -> tuple[NDArray[np.int64] | NDArray[np.float64], bool, str | None]:
    """The times of each row, whether there are any, and their unit if it is known."""
    if "time" not in table.column_names:
        return np.zeros(len(table), np.int64), False, None
    column = table.column("time")
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.int64()).to_numpy(), True, "us"
    return column.to_numpy(), True, None
