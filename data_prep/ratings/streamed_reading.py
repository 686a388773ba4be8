"""Reading files of ratings that are larger than memory: a block at a time, ids numbered, rows put on disk."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_prep.ratings.archives import Source, find_sources
from data_prep.ratings.columns import ROLES, ReadOptions
from data_prep.ratings.id_columns import ids_of_texts
from data_prep.ratings.moments import mixed_units
from data_prep.ratings.raw_ratings import Ids, number_ids
from data_prep.ratings.readers import RoleTable, Tally, name_of, refuse_other_columns, times_of
from data_prep.ratings.reading import Reading
from data_prep.ratings.stored_ratings import Room, StoredColumns, StoredRatings, TimesInBlocks
from data_prep.ratings.text_layout import text_layout, without_ratings
from data_prep.ratings.text_lines import TextLayout, first_fault
from data_prep.ratings.text_tables import text_blocks
from data_prep.ratings.typed_tables import (
    SAMPLE_BYTES,
    checked_table,
    parquet_blocks,
    parquet_columns,
    roles_of,
    typed_format,
)
from ppt_core.errors import DataError

_UNPACKED_TIMES = 5  # what a packed text is taken to hold: csv of ratings packs to between a third and a sixth


class StreamedRatings(NamedTuple):
    """What `read_streamed` returns: as `data_prep.ratings.readers.ReadRatings`, with the rows on disk.

    ``folder`` holds their folder, and what is made of them is written there; ``room`` is what they were read within.
    """

    ratings: StoredRatings
    reading: Reading
    folder: Path
    room: Room


class _Part(NamedTuple):
    """One file that can be read in blocks: its columns, how it was read, and what yields tables by role.

    ``blocks`` takes the type of numbers that are times, int64 or float64, and rows at a time. It raises
    `pyarrow.ArrowInvalid` where a time is no such number.
    """

    source: Source
    names: dict[str, str]
    format: str
    layout: TextLayout | None
    blocks: Callable[[pa.DataType, int], Iterator[pa.Table]]


def why_not_streamed(sources: Sequence[Source], options: ReadOptions) -> str | None:
    """Why files cannot be read in blocks, as the end of a sentence that begins with a file; None if they can."""
    if options.skip_bad_rows:
        return "rows that cannot be read are left out in memory alone (skip_bad_rows=)"
    for source in sources:
        kind = _kind(source)
        if kind in ("json lines", "arrow"):
            return f"{source} is {kind}; convert it to Parquet or csv"
        if kind == "parquet" and not source.is_plain:
            return f"{source} is packed Parquet; unpack it"
        if kind == "parquet":
            _, types, _ = parquet_columns(source, partial(roles_of, source, options=options))
            for role, found in types.items():
                if not _is_plain_type(role, found):
                    return f"the {role} column of {source} holds {str(found)[:60]}; make it plain numbers or strings"
        elif len(_layout(source, options).formats) > 1:
            return f"the dates of {source} may be written in several ways; say which with time_format="
    return None


def estimated_rows(sources: Sequence[Source], options: ReadOptions) -> int:
    """About how many rows files hold: of Parquet exactly, of a text by the length of its first lines."""
    n_rows = 0
    for source in sources:
        sample, n_bytes = _sample(source), source.path.stat().st_size * (1 if source.is_plain else _UNPACKED_TIMES)
        if typed_format(sample) == "parquet" and source.is_plain:
            n_rows += parquet_columns(source, partial(roles_of, source, options=options))[2]
        else:
            n_rows += n_bytes * max(sample.count(b"\n"), 1) // len(sample)
    return n_rows


def read_streamed(
    paths: Sequence[Path], options: ReadOptions | None = None, *, folder: Path, room: Room
) -> StreamedRatings:
    """Read files as `data_prep.ratings.readers.read_files` does, a block of rows in memory at a time.

    Args:
        paths: files and folders of texts and Parquet for which `why_not_streamed` has no reason.
        options: how they are read.
        folder: where the rows are written, into a folder of their own.
        room: how many rows are held at a time. Ids are all held.

    Raises what `read_files` does; of rows that cannot be read the first alone is named.
    """
    options = options or ReadOptions()
    sources = [source for path in paths for source in find_sources(path, options.members)]
    name = name_of(sources)
    parts = [_open(source, options) for source in sources]
    try:
        return _store_numbers(name, parts, options, folder, room)
    except DataError:  # perhaps for a rating that nobody asked for: without it all is said again
        shorter = [_without_rating(part) for part in parts]
        if shorter == parts:
            raise
        return _store_numbers(name, shorter, options, folder, room)


def _store_numbers(
    name: str, parts: Sequence[_Part], options: ReadOptions, folder: Path, room: Room
) -> StreamedRatings:
    """Times are integers where all are."""
    try:
        return _store(name, parts, options, pa.int64(), folder, room)
    except pa.ArrowInvalid:
        try:
            return _store(name, parts, options, pa.float64(), folder, room)
        except pa.ArrowInvalid as error:
            raise _fault(parts, error) from None


def _fault(parts: Sequence[_Part], error: pa.ArrowInvalid) -> DataError:
    """The error that names the first line at fault."""
    for part in parts:
        found = None if part.layout is None else first_fault(part.source, part.layout)
        if found:
            return DataError(f"{part.source}: {found}")
    return DataError(f"{parts[0].source}: {' '.join(str(error).split())}")


def _store(
    name: str, parts: Sequence[_Part], options: ReadOptions, number_type: pa.DataType, folder: Path, room: Room
) -> StreamedRatings:
    first = parts[0]
    refuse_other_columns([(part.source, part.names) for part in parts])
    tally, users, items = Tally(name, options), _Numbers("user"), _Numbers("item")
    has_times, is_moment = "time" in first.names, None
    dtypes = {"user": np.int32, "item": np.int32, **({"time": np.dtype(str(number_type))} if has_times else {})}
    stored = StoredColumns(folder / "rows", dtypes)
    try:
        for part in parts:
            for table in part.blocks(number_type, room.block_rows):
                if has_times:
                    is_date = pa.types.is_timestamp(table.column("time").type)
                    if is_moment not in (None, is_date):
                        raise DataError(f"{name}: some files hold dates and others numbers for times; convert the ones")
                    is_moment = is_date
                    table = _with_times(table, table.column("time").type if is_date else number_type)
                rows = tally.positives(table)
                columns: dict[str, NDArray[Any]] = {
                    "user": users.of(name, rows.column("user")),
                    "item": items.of(name, rows.column("item")),
                }
                if has_times:
                    columns["time"] = times_of(rows)[0]
                stored.append(**columns)
                del table, rows
        tally.refuse_nothing()
    except BaseException:
        stored.remove()
        raise
    user_numbers, user_ids = users.finished()
    item_numbers, item_ids = items.finished()
    ratings = StoredRatings(
        columns=stored,
        user_numbers=user_numbers,
        item_numbers=item_numbers,
        user_ids=user_ids,
        item_ids=item_ids,
        has_times=has_times,
        time_unit="us" if is_moment else None,
        block_rows=room.block_rows,
    )
    units = {} if is_moment or not has_times else mixed_units(TimesInBlocks(ratings))
    whole = RoleTable(pa.table({}), first.names, first.format, 0, first.layout)
    return StreamedRatings(ratings, tally.reading(whole, units), folder, room)


def _with_times(table: pa.Table, kind: pa.DataType) -> pa.Table:
    return table.set_column(table.column_names.index("time"), "time", table.column("time").cast(kind))


class _Numbers:
    """Ids that come in blocks, numbered by first appearance."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._ids: pa.Array | None = None

    def of(self, name: str, column: pa.ChunkedArray) -> NDArray[np.int32]:
        """The number of each id of a block: int64, or dictionaries of strings, of which spaces around are dropped."""
        if not len(column):
            return np.empty(0, np.int32)
        if pa.types.is_integer(column.type):
            codes, found = number_ids(column.to_numpy())
            ids = pa.array(found)
        else:
            column = column.unify_dictionaries()
            indices = np.concatenate([chunk.indices.to_numpy() for chunk in column.chunks])
            texts = pc.utf8_trim_whitespace(column.chunk(0).dictionary.cast(pa.large_string())).dictionary_encode()
            codes, order = number_ids(texts.indices.to_numpy()[indices])
            ids = texts.dictionary.take(pa.array(order))
        if self._ids is None:
            self._ids = ids.slice(0, 0)
        if ids.type != self._ids.type:
            raise DataError(
                f"{name}: some files hold integers and others strings for {self._role} ids; convert the ones"
            )
        places = pc.index_in(ids, value_set=self._ids)
        is_new = pc.is_null(places)
        numbers: NDArray[np.int32] = np.array(pc.fill_null(places, -1), np.int32)
        n_new = pc.sum(is_new).as_py()
        numbers[is_new.to_numpy(zero_copy_only=False)] = np.arange(len(self._ids), len(self._ids) + n_new)
        self._ids = pa.concat_arrays([self._ids, ids.filter(is_new)])
        return numbers[codes]

    def finished(self) -> tuple[NDArray[np.int32] | None, Ids]:
        """What the number of each is among the distinct ids, None for the same, and these."""
        assert self._ids is not None
        if pa.types.is_integer(self._ids.type):
            return None, self._ids.to_numpy()
        numbers, ids = number_ids(ids_of_texts(self._ids))  # 1 and 1.0 are one id if all are numbers
        return (numbers if len(ids) < len(numbers) else None), ids


def _open(source: Source, options: ReadOptions) -> _Part:
    if _kind(source) == "parquet":
        names, _, _ = parquet_columns(source, partial(roles_of, source, options=options))
        return _Part(source, names, "parquet", None, partial(_typed_blocks, source, names, options))
    return _text_part(source, _layout(source, options))


def _text_part(source: Source, layout: TextLayout) -> _Part:
    names: dict[str, str] = {role: layout.names[layout.columns[role][0]] for role in ROLES if role in layout.columns}
    return _Part(source, names, "text", layout, partial(text_blocks, source, layout))


def _without_rating(part: _Part) -> _Part:
    """A text without its column of ratings, if that was not asked for."""
    if part.layout is None or part.layout.with_ratings or "rating" not in part.names:
        return part
    return _text_part(part.source, without_ratings(part.layout))


def _typed_blocks(
    source: Source, names: dict[str, str], options: ReadOptions, number_type: pa.DataType, n_rows: int
) -> Iterator[pa.Table]:
    n_before = 0
    for block in parquet_blocks(source, names, n_rows):
        label = f"{source}, counted from row {n_before + 1:,}" if n_before else source
        table, _ = checked_table(label, block, names, options)
        if "time" in table.column_names and table.column("time").type == pa.float64() and number_type == pa.int64():
            raise pa.ArrowInvalid("times are no integers")
        yield table
        n_before += len(block)
    if not n_before:
        raise DataError(f"{source} has columns and no ratings")


def _sample(source: Source) -> bytes:
    with source.open() as stream:
        return stream.read(SAMPLE_BYTES)


def _kind(source: Source) -> str | None:
    return typed_format(_sample(source))


def _layout(source: Source, options: ReadOptions) -> TextLayout:
    return text_layout(source, _sample(source), options)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_plain_type(role: str, kind: pa.DataType) -> bool:
    """Whether each value of a column can be read without the others."""
    if role == "event":
        return True
    if role == "rating":
        return _is_number(kind)
    if role == "time":
        return _is_number(kind) or pa.types.is_temporal(kind)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind)) or str(kind) in ("string", "large_string")
