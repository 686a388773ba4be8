"""Columns of a delimited text file as arrow arrays."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from data_prep.ratings.archives import Source
from data_prep.ratings.moments import is_moment, read_moments
from data_prep.ratings.text_lines import (
    MISSING,
    Kind,
    TextLayout,
    first_fault,
    is_int64,
    is_no_row,
    is_number,
    point,
)
from ppt_core.errors import DataError

_BLOCK_BYTES = 1 << 23  # large blocks: each one builds its own dictionary of ids
_SMALL_BYTES = 1 << 20


def read_text(source: Source, layout: TextLayout) -> pa.Table:
    """Read the wanted columns of a text file; blank lines and comments are skipped.

    Returns:
        One column for each of ``layout.columns``: an ``id`` is dictionary<int32, string> without nulls and may have
        spaces around it, an ``integer`` is int64, a ``number`` is int64 or float64 (all finite), a ``moment`` is
        timestamp[us], a ``value`` is float32 with nulls, an ``event`` is a dictionary with empty strings.

    Raises `DataError` that names the line and the value at fault, or if the file has no rows.
    """
    try:
        table = _parse(source, layout, pa.int64())
    except pa.ArrowInvalid:
        try:
            table = _parse(source, layout, pa.float64())
        except pa.ArrowInvalid as error:
            raise _spoilt(source, layout, " ".join(str(error).split())) from None
    if not len(table):
        raise _without_rows(source, layout)
    return _complete(source, table, layout, _spoilt)


def text_blocks(source: Source, layout: TextLayout, number_type: pa.DataType, n_rows: int) -> Iterator[pa.Table]:
    """The table of `read_text` in blocks of about ``n_rows`` rows, its numbers all of one type: int64 or float64.

    Raises `pyarrow.ArrowInvalid` where a value is no such number or a line cannot be read, and `DataError` for a
    missing value or if the file has no rows.
    """

    def spoilt(source: Source, layout: TextLayout, otherwise: str) -> DataError:
        return DataError(f"{source}: {first_fault(source, layout) or otherwise}")

    batches: list[pa.RecordBatch] = []
    n_held = n_seen = 0
    with contextlib.ExitStack() as stack:
        stream, names, options = _opened(stack, source, layout, number_type, None)
        reader = stack.enter_context(pyarrow.csv.open_csv(stream, **options))
        for batch in reader:
            batches.append(batch)
            n_held += len(batch)
            if n_held >= n_rows:
                yield _complete(source, _renamed(pa.Table.from_batches(batches), names), layout, spoilt)
                n_seen, n_held, batches = n_seen + n_held, 0, []
    if n_held:
        yield _complete(source, _renamed(pa.Table.from_batches(batches), names), layout, spoilt)
    elif not n_seen:
        raise _without_rows(source, layout)


def _complete(
    source: Source, table: pa.Table, layout: TextLayout, spoilt: Callable[[Source, TextLayout, str], DataError]
) -> pa.Table:
    """A table without missing values, texts of dates read; what ``spoilt`` makes is raised where that cannot be."""
    for name, (_, kind) in layout.columns.items():
        if kind in ("id", "integer", "number", "moment") and not _is_complete(table.column(name)):
            raise spoilt(source, layout, "it holds a missing value")
        if kind == "moment":
            place, moments = table.column_names.index(name), _moments(source, table.column(name), layout)
            if moments.null_count:
                raise spoilt(source, layout, "it holds a date in another format")
            table = table.set_column(place, name, moments)
    return table


def read_good_rows(source: Source, layout: TextLayout) -> tuple[pa.Table, int]:
    """`read_text` without the rows that cannot be read, and their number: slower, and in more memory."""
    skipped: list[int] = []
    table = _parse(source, layout, None, skipped)
    good = pa.array(np.ones(len(table), np.bool_))
    for place, (name, (_, kind)) in enumerate(layout.columns.items()):
        column = _converted(source, table.column(name), kind, layout)
        if kind not in ("value", "event"):
            good = pc.and_(good, pc.is_valid(column).combine_chunks())
        table = table.set_column(place, name, column)
    for name in table.column_names[len(layout.columns) :]:  # between the colons of "::"
        good = pc.and_(good, pc.equal(table.column(name).cast(pa.string()), "").combine_chunks())
    n_bad = len(skipped) + len(table) - pc.sum(good).as_py() if len(table) else len(skipped)
    table = table.filter(good).select(list(layout.columns))
    if not len(table):
        raise _without_rows(source, layout)
    return table, n_bad


def _without_rows(source: Source, layout: TextLayout) -> DataError:
    return DataError(f"{source} has a header line and no ratings" if layout.has_header else f"{source} is empty")


def _spoilt(source: Source, layout: TextLayout, otherwise: str) -> DataError:
    """The error that names the first line at fault, and how many there are."""
    fault = first_fault(source, layout)
    try:
        table, n_bad = read_good_rows(source, layout)
    except (pa.ArrowInvalid, DataError):
        return DataError(f"{source}: {fault or otherwise}")
    if not n_bad:  # a rating, which no row needs
        return DataError(f"{source}: {fault or otherwise}")
    others = f", and {n_bad - 1:,} more of {len(table) + n_bad:,} rows cannot be read" if n_bad > 1 else ""
    it = "them" if others else "it"
    return DataError(f"{source}: {fault or otherwise}{others}; correct {it}, or leave {it} out with skip_bad_rows=")


def _parse(
    source: Source, layout: TextLayout, number_type: pa.DataType | None, skipped: list[int] | None = None
) -> pa.Table:
    """Parse with numbers of a type. With None all is text, rows of another length go to ``skipped``, gaps remain."""
    with contextlib.ExitStack() as stack:
        stream, names, options = _opened(stack, source, layout, number_type, skipped)
        return _renamed(pyarrow.csv.read_csv(stream, **options), names)


def _renamed(table: pa.Table, names: dict[str, str]) -> pa.Table:
    return table.select(list(names)).rename_columns(list(names.values()))


def _opened(
    stack: contextlib.ExitStack,
    source: Source,
    layout: TextLayout,
    number_type: pa.DataType | None,
    skipped: list[int] | None,
) -> tuple[Any, dict[str, str], dict[str, Any]]:
    """The bytes of a text, what its parsed columns that are wanted are to be called, and arrow's options."""
    text = pa.dictionary(pa.int32(), pa.string())
    types = {"id": text, "moment": text, "event": text, "integer": pa.int64(), "value": pa.float32()}
    names = [f"column {position}" for position in range(layout.n_columns)]
    wanted = {
        names[position]: text if number_type is None else types.get(kind, number_type)
        for position, kind in layout.columns.values()
    }
    gaps: dict[str, pa.DataType] = {}
    if layout.separator == "::":
        # pyarrow splits at one character only: "a::b" has an empty value in the middle, which must be null.
        names = [name for column in names for name in (column, f"after {column}")][:-1]
        gaps = {name: pa.null() if number_type is not None else text for name in names[1::2]}

    def of_another_length(row: pyarrow.csv.InvalidRow) -> str:
        if is_no_row(row.text):
            return "skip"
        if skipped is None:
            return "error"
        skipped.append(1)
        return "skip"

    stack.enter_context(_silent_about_bytes())
    # A plain file is read by arrow itself, small ones in this thread: a thread of arrow's that lets go of Python's
    # stream when the interpreter ends already would abort it.
    stream = stack.enter_context(pa.OSFile(str(source.path)) if source.is_plain else source.open())
    options = {
        "read_options": pyarrow.csv.ReadOptions(
            column_names=names,
            skip_rows=layout.n_header_lines,
            block_size=_BLOCK_BYTES,
            use_threads=source.path.stat().st_size > _SMALL_BYTES,
        ),
        "parse_options": pyarrow.csv.ParseOptions(
            delimiter=layout.separator[0],
            quote_char='"' if layout.quoted else False,
            escape_char="\\" if layout.escaped else False,
            newlines_in_values=layout.quoted,
            invalid_row_handler=of_another_length,
        ),
        "convert_options": pyarrow.csv.ConvertOptions(
            include_columns=[*wanted, *gaps],
            column_types={**wanted, **gaps},
            null_values=list(MISSING),
            decimal_point="," if layout.decimal_comma else ".",
            strings_can_be_null=False,
            check_utf8=number_type is not None,
        ),
    }
    columns = {} if number_type is not None else {name: name for name in gaps}
    return stream, dict(zip(wanted, layout.columns, strict=True)) | columns, options


@contextlib.contextmanager
def _silent_about_bytes() -> Iterator[None]:
    """Let arrow print no traceback where a row of another length, which it hands over as text, is no UTF-8."""
    before = sys.unraisablehook

    def hook(found: Any) -> None:
        if not isinstance(found.exc_value, UnicodeDecodeError):
            before(found)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _moments(source: Source, column: pa.ChunkedArray, layout: TextLayout) -> pa.ChunkedArray:
    """The moments of a dictionary of texts, timestamp[us]; null where a text is none."""
    column = column.unify_dictionaries()
    texts = column.chunk(0).dictionary.to_pylist()
    moments = read_moments(source, texts, layout.formats)
    values = pa.array(moments, pa.timestamp("us"), mask=~is_moment(moments))
    return pa.chunked_array([values.take(chunk.indices) for chunk in column.chunks])


def _converted(source: Source, column: pa.ChunkedArray, kind: Kind, layout: TextLayout) -> pa.ChunkedArray:
    """A column of texts as what it should hold, null where it does not; nothing is refused."""
    column = column.unify_dictionaries()
    known = [_readable(text) for text in column.chunk(0).dictionary.cast(pa.binary()).to_pylist()]
    if kind == "event":
        values = pa.array([text or "" for text in known], pa.string())
    elif kind == "id":
        values = pa.array([None if text in MISSING else text for text in known], pa.string())
    elif kind == "moment":
        moments = read_moments(source, [text or "" for text in known], layout.formats)
        values = pa.array(moments, pa.timestamp("us"), mask=~is_moment(moments))
    else:
        known = [point(text) if text and layout.decimal_comma else text for text in known]
        numbers = [float(text) if text and is_number(text) else None for text in known]
        readable = [(text or "", n) for text, n in zip(known, numbers, strict=True)]
        if kind != "value" and all(n is None or is_int64(text) for text, n in readable):
            numbers = [None if n is None else int(text) for text, n in readable]
        values = pa.array(numbers, pa.float32() if kind == "value" else None)
    if kind in ("id", "event"):
        chunks = [pa.DictionaryArray.from_arrays(chunk.indices, values) for chunk in column.chunks]
        if kind == "id":  # a null in the dictionary is no null to arrow
            chunks = [chunk.cast(pa.string()).dictionary_encode() for chunk in chunks]
        return pa.chunked_array(chunks)
    return pa.chunked_array([values.take(chunk.indices) for chunk in column.chunks])


def _readable(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode().strip()
    except UnicodeDecodeError:
        return None


def _is_complete(column: pa.ChunkedArray) -> bool:
    if column.null_count:
        return False
    if pa.types.is_dictionary(column.type):
        missing = pa.array(MISSING)
        return not any(
            pc.any(pc.is_in(pc.utf8_trim_whitespace(chunk.dictionary), missing)).as_py() for chunk in column.chunks
        )
    return bool(pc.all(pc.is_finite(column)).as_py())
