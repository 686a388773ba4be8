"""Columns of a delimited text file as arrow arrays, and the name of the line that spoils one."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from data_prep.ratings.archives import Source
from ppt_core.errors import DataError

# What pandas, R, SQL and spreadsheets write for a missing value. As an id it would merge many users into one.
MISSING = ("", "NA", "N/A", "<NA>", "NaN", "nan", "NULL", "null", "None")
Kind = Literal["id", "integer", "number"]

_BLOCK_BYTES = 1 << 23  # large blocks: each one builds its own dictionary of ids
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, kw_only=True)
class TextLayout:
    """Where the wanted values stand in the lines of a text file.

    Attributes:
        separator: one character, or ``::``.
        n_columns: how many values every line has.
        columns: the wanted columns: name -> (position from 0, what it holds).
        n_header_lines: lines to skip at the start.
        quoted: whether a value in double quotes may hold the separator.
    """

    separator: str
    n_columns: int
    columns: dict[str, tuple[int, Kind]]
    n_header_lines: int = 0
    quoted: bool = False


def read_text(source: Source, layout: TextLayout) -> pa.Table:
    """Read the wanted columns of a text file; blank lines are skipped.

    Returns:
        One column for each of ``layout.columns``, without nulls: an ``id`` is dictionary<int32, string> and
        may have spaces around it, an ``integer`` is int64, a ``number`` is int64 or float64 (all finite).

    Raises `DataError` that names the line and the value at fault, or if the file has no rows.
    """
    try:
        table = _parse(source, layout, pa.int64())
    except pa.ArrowInvalid:
        try:
            table = _parse(source, layout, pa.float64())
        except pa.ArrowInvalid as error:
            fault = _first_fault(source, layout) or " ".join(str(error).split())
            raise DataError(f"{source}: {fault}") from None
    if not len(table):
        raise DataError(f"{source} has a header line and no ratings" if layout.n_header_lines else f"{source} is empty")
    if not all(_is_complete(column) for column in table.columns):
        raise DataError(f"{source}: {_first_fault(source, layout) or 'it holds a missing value'}")
    return table


def text_fields(source: Source, layout: TextLayout) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number from 1, values) of each line that is not blank: slow, for naming a line at fault.

    Bytes that are not UTF-8 become lone surrogates. Raises `DataError` for a line that cannot be split.
    """
    with (
        source.open() as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        if len(layout.separator) > 1:
            for number, line in enumerate(text, 1):
                if number > layout.n_header_lines and line.strip("\r\n"):
                    yield number, line.rstrip("\r\n").split(layout.separator)
            return
        reader = csv.reader(
            text, delimiter=layout.separator, quoting=csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE
        )
        try:
            for fields in reader:
                if reader.line_num > layout.n_header_lines and fields:
                    yield reader.line_num, fields
        except csv.Error as error:  # a value of more than 128 KiB; before Python 3.11 also a zero byte
            raise DataError(f"{source}: line {reader.line_num} cannot be split into values ({error})") from None


def _parse(source: Source, layout: TextLayout, number_type: pa.DataType) -> pa.Table:
    types = {"id": pa.dictionary(pa.int32(), pa.string()), "integer": pa.int64(), "number": number_type}
    names = [f"column {position}" for position in range(layout.n_columns)]
    wanted = {names[position]: types[kind] for position, kind in layout.columns.values()}
    gaps: dict[str, pa.DataType] = {}
    if layout.separator == "::":
        # pyarrow splits at one character only: "a::b" has an empty value in the middle, which must be null.
        names = [name for column in names for name in (column, f"after {column}")][:-1]
        gaps = {name: pa.null() for name in names[1::2]}
    with source.open() as stream:
        table = pyarrow.csv.read_csv(
            stream,
            read_options=pyarrow.csv.ReadOptions(
                column_names=names, skip_rows=layout.n_header_lines, block_size=_BLOCK_BYTES
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=layout.separator[0],
                quote_char='"' if layout.quoted else False,
                newlines_in_values=layout.quoted,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=[*wanted, *gaps],
                column_types={**wanted, **gaps},
                null_values=[""],
                strings_can_be_null=False,
            ),
        )
    return table.select(list(wanted)).rename_columns(list(layout.columns))


def _is_complete(column: pa.ChunkedArray) -> bool:
    if column.null_count:
        return False
    if pa.types.is_dictionary(column.type):
        missing = pa.array(MISSING)
        return not any(
            pc.any(pc.is_in(pc.utf8_trim_whitespace(chunk.dictionary), missing)).as_py() for chunk in column.chunks
        )
    return bool(pc.all(pc.is_finite(column)).as_py())


def _first_fault(source: Source, layout: TextLayout) -> str | None:
    """Say what is wrong with the first line that is not as it should be, e.g. ``line 7 has no user``."""
    for number, fields in text_fields(source, layout):
        if len(fields) != layout.n_columns:
            return f"line {number} has {_count(len(fields), 'value')} where {layout.n_columns} are needed"
        for name, (position, kind) in layout.columns.items():
            if fault := _fault(fields[position], name, kind):
                return f"line {number} {fault}"
    return None


def _fault(value: str, name: str, kind: Kind) -> str | None:
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"is not UTF-8 text (its {name} is {value.encode(errors='surrogateescape')!r}); convert the file"
    value = value.strip()
    if value in MISSING:
        return f"has no {name} (found {value!r})"
    if kind == "integer" and not _INTEGER.fullmatch(value):
        return f"has {shorten(value)} where the {name} should be an integer"
    if kind == "number" and not (_NUMBER.fullmatch(value) and np.isfinite(float(value))):
        return f"has {shorten(value)} where the {name} should be a finite number, e.g. seconds since 1970"
    return None


def is_number(value: str) -> bool:
    """Whether ``value`` is written as a finite decimal number, spaces around it aside."""
    return _NUMBER.fullmatch(value.strip()) is not None and bool(np.isfinite(float(value)))


def shorten(text: str, length: int = 60) -> str:
    """Quote ``text`` for an error message, cut to about ``length`` characters, always on one line."""
    return repr(text if len(text) <= length else text[:length] + "...")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")
