"""The lines of a delimited text: how they are laid out, and the name of the one that spoils a table."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TextIO

import numpy as np

from data_prep.ratings.archives import Source
from data_prep.ratings.moments import is_moment, parse_moments
from ppt_core.errors import DataError

# What pandas, R, SQL and spreadsheets write for a missing value. As an id it would merge many users into one.
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT", "NULL", "null", "None", "\\N")
COMMENTS = ("#", "%")
_BLANKS = " \t\r\n\x1a"  # the last ends a file of old programs
Kind = Literal["id", "integer", "number", "value", "event", "moment"]

CONVERT = "as `iconv -f latin1 -t utf-8` does"
"""What to do with a text that is not UTF-8."""

_LONGEST = 1 << 23  # what arrow reads at once
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
        escaped: whether a backslash within a value makes the next character plain, as Spark writes it.
        decimal_comma: whether numbers have a comma where others have a point.
        has_header: whether one of the skipped lines names the columns.
        names: the names of all columns.
        formats: in which of these the moments may be written, see `data_prep.ratings.moments`.
        unread_event: name and first value of a column of events that need not be read.
        with_ratings: whether a value in place of a rating may not be anything else.
    """

    separator: str
    n_columns: int
    columns: Mapping[str, tuple[int, Kind]]
    n_header_lines: int = 0
    quoted: bool = False
    escaped: bool = False
    decimal_comma: bool = False
    has_header: bool = False
    names: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    unread_event: tuple[str, str] | None = None
    with_ratings: bool = False


def text_fields(source: Source, layout: TextLayout) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number from 1, values) of each line that is not blank: slow, for naming a line at fault.

    Bytes that are not UTF-8 become lone surrogates. Raises `DataError` for a line that cannot be split.
    """
    with (
        source.open() as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        lines = bounded(source, text)
        if len(layout.separator) > 1:
            for number, line in enumerate(lines, 1):
                if number > layout.n_header_lines and line.strip("\r\n"):
                    fields = line.rstrip("\r\n").split(layout.separator)
                    if not _is_no_row(fields, layout):
                        yield number, fields
            return
        reader = csv.reader(
            lines,
            delimiter=layout.separator,
            quoting=csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE,
            escapechar="\\" if layout.escaped else None,
        )
        try:
            for fields in reader:
                if reader.line_num > layout.n_header_lines and fields and not _is_no_row(fields, layout):
                    yield reader.line_num, fields
        except csv.Error as error:  # a value of more than 128 KiB; before Python 3.11 also a zero byte
            raise DataError(f"{source}: line {reader.line_num} cannot be split into values ({error})") from None


def bounded(source: Source, text: TextIO) -> Iterator[str]:
    """The lines of a text. Raises `DataError` for one that would fill the memory: a few packed bytes may be such."""
    number = 0
    while line := text.readline(_LONGEST):
        number += 1
        if len(line) == _LONGEST:
            raise DataError(
                f"{source}: line {number} has more than {_LONGEST:,} characters; this is no table of ratings"
            )
        yield line


def _is_no_row(fields: list[str], layout: TextLayout) -> bool:
    return len(fields) != layout.n_columns and is_no_row(layout.separator.join(fields))


def is_no_row(line: str) -> bool:
    """Whether a line that has not the values of a row may be left out: it begins as a comment, or is blank."""
    return line.lstrip().startswith(COMMENTS) or not line.strip(_BLANKS)


def first_fault(source: Source, layout: TextLayout) -> str | None:
    """Say what is wrong with the first line that is not as it should be, e.g. ``line 7 has no user``."""
    for number, fields in text_fields(source, layout):
        if len(fields) != layout.n_columns:
            return f"line {number} has {_count(len(fields), 'value')} where {layout.n_columns} are needed"
        for name, (position, kind) in layout.columns.items():
            if fault := _fault(fields[position], name, kind, layout):
                return f"line {number} {fault}"
    return None


def _fault(value: str, name: str, kind: Kind, layout: TextLayout) -> str | None:
    try:
        value.encode()
    except UnicodeEncodeError:
        found = value.encode(errors="surrogateescape")
        return f"is not UTF-8 text (its {name} is {found!r}); convert the file, {CONVERT}"
    value = value.strip()
    if kind == "event" or (kind == "value" and value in MISSING):
        return None
    if value in MISSING:
        return f"has no {name} (found {value!r})"
    if kind == "integer" and not is_integer(value):
        return f"has {shorten(value)} where the {name} should be an integer"
    if kind == "moment" and not any(is_moment(parse_moments([value], each)).all() for each in layout.formats):
        return f"has {shorten(value)} where the {name} should be a date like the others"
    if kind in ("number", "value") and not is_number(point(value) if layout.decimal_comma else value):
        what = "e.g. seconds since 1970" if kind == "number" else "or nothing"
        fault = f"has {shorten(value)} where the {name} should be a finite number, {what}"
        if name != "time" or not any(char.isdigit() for char in value):
            return fault
        return f"{fault}; name another column with time_column=, or say with time_format= how dates are written"
    return None


def point(value: str) -> str:
    """A number with a decimal comma as one with a point; anything else as it is."""
    return value.replace(",", ".") if value.count(",") == 1 and "." not in value else value


def is_integer(value: str) -> bool:
    """Whether ``value`` is written as an integer."""
    return _INTEGER.fullmatch(value) is not None


def is_int64(value: str) -> bool:
    """Whether ``value`` is written as an integer, in a few digits, that 64 bits hold."""
    return is_integer(value) and len(value) < 100 and -(2**63) <= int(value) < 2**63


def is_number(value: str) -> bool:
    """Whether ``value`` is written as a finite decimal number, spaces around it aside."""
    return _NUMBER.fullmatch(value.strip()) is not None and bool(np.isfinite(float(value)))


def shorten(text: str, length: int = 60) -> str:
    """Quote ``text`` for an error message, cut to about ``length`` characters, always on one line."""
    return repr(text if len(text) <= length else text[:length] + "...")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")
