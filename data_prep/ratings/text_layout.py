"""Which values stand where in a text of ratings: found out from its first lines, or from what options say."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from data_prep.ratings.archives import Source
from data_prep.ratings.columns import (
    ADVICE,
    ROLES,
    ReadOptions,
    Role,
    find_columns,
    known_names,
    names_a_column,
    plain_name,
    position_of,
)
from data_prep.ratings.moments import possible_formats, unit_of
from data_prep.ratings.text_lines import COMMENTS, CONVERT, MISSING, Kind, TextLayout, is_number, point, shorten
from ppt_core.errors import DataError

ACCEPTED_FORMATS = (
    "tab-separated 'user item rating timestamp' without a header, the same separated by '::', csv or tsv with a "
    "header, JSON lines, Parquet and Arrow; other layouts where separator= and the columns are named"
)
_SEPARATORS = ("\t", "::", ",", ";", "|", " ")


class _Line(NamedTuple):
    number: int  # from 1
    text: str


def text_layout(source: Source, sample: bytes, options: ReadOptions) -> TextLayout:
    """Find the layout of a text from its first bytes.

    Raises `DataError` for what is no such text, or whose columns could be more than one thing.
    """
    lines, comments = _lines(source, sample)
    said = re.fullmatch(r"sep=(.)", lines[0].text.strip("\r\n"), re.IGNORECASE)
    if said and len(lines) > 1:  # as Excel writes it for itself
        options, lines = replace(options, separator=options.separator or said[1]), lines[1:]
    lines = _without_preamble(lines, options)
    first = lines[0]
    header = next(
        (line for line in comments if line.number < first.number and _header(line.text.lstrip("#% "), options)), None
    )
    if header is not None:
        header = header._replace(text=header.text.lstrip("#% "))
    elif _is_header(source, lines, options):
        header, lines = first, lines[1:]
    separator = _header(header.text, options) if header else _separator(source, lines, options)
    if separator is None:  # a header whose columns were said by position
        separator = _separator(source, lines or [first], options)
    quoted = separator in (",", ";") or any(
        len(field) > 1 and field[0] == field[-1] == '"'
        for line in (*([header] if header else []), *lines[:1])
        for field in line.text.strip().split(separator)
    )
    quoted = quoted and separator != "::"
    names = split(header.text, separator, quoted=quoted) if header else []
    rows, escaped = _rows(lines, separator, len(names), quoted=quoted)
    width = Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
    if header:
        if rows and width == len(names) + 1:
            names = _with_nameless(names, [row for row in rows if len(row) == width])
        width = len(names)
        positions = find_columns(source, names, options)
        if not positions:
            raise _nameless(source, first, separator)
    else:
        names = [f"column {place + 1}" for place in range(width)]
        rows = [row for row in rows if len(row) == width]
        positions = _numbered_columns(source, first, separator, rows, options)
    rows = [row for row in rows if len(row) == width]
    cells = {role: [row[place] for row in rows] for role, place in positions.items()}
    decimal_comma = separator != "," and _has_decimal_commas(cells)
    if decimal_comma:
        cells |= {role: list(map(point, cells[role])) for role in cells if role in ("time", "rating")}
    if separator == " " and any(line.text != line.text.strip() or "  " in line.text for line in lines[:1]):
        raise DataError(f"{source} has several spaces between values; make them one, as `tr -s ' '` does")
    kinds = _kinds(cells, options)
    return TextLayout(
        separator=separator,
        n_columns=width,
        columns={role: (positions[role], kinds[role]) for role in ROLES if role in kinds},
        n_header_lines=header.number if header else first.number - 1,
        quoted=quoted,
        escaped=escaped,
        decimal_comma=decimal_comma,
        has_header=header is not None,
        names=tuple(name.strip() for name in names),
        formats=_time_formats(cells.get("time", []), options) if kinds.get("time") == "moment" else (),
        unread_event=_mention(names, positions, cells) if "event" in positions and "event" not in kinds else None,
        with_ratings=options.wants("rating"),
    )


def _without_preamble(lines: list[_Line], options: ReadOptions) -> list[_Line]:
    """The lines from a header on, where there are titles above it that name no columns."""
    if options.header is not None or _header(lines[0].text, options):
        return lines
    for place, line in enumerate(lines[1:20], 1):
        separator = _header(line.text, options)
        if separator and all(separator not in above.text for above in lines[:place]):
            names = list(map(plain_name, split(line.text, separator, quoted=True)))
            if all(any(name in known_names(role) for name in names) for role in ("user", "item")):
                return lines[place:]
    return lines


def _rows(lines: Sequence[_Line], separator: str, n_names: int, *, quoted: bool) -> tuple[list[list[str]], bool]:
    """The values of lines, and whether backslashes in them are escapes: where more lines then have all values."""
    rows = [split(line.text, separator, quoted=quoted) for line in lines]
    if quoted and any('\\"' in line.text for line in lines):
        escaped = [split(line.text, separator, quoted=quoted, escaped=True) for line in lines]
        width = n_names or Counter(map(len, escaped)).most_common(1)[0][0]
        if sum(len(row) == width for row in escaped) > sum(len(row) == width for row in rows):
            return escaped, True
    return rows, False


def _with_nameless(names: list[str], rows: list[list[str]]) -> list[str]:
    """The names of columns of which one has none: behind the last separator of a row, or row names as R writes them."""
    if all(not row[-1].strip() for row in rows):
        return [*names, ""]
    first = [row[0] for row in rows]
    return ["", *names] if len(set(first)) == len(first) else names


def _has_decimal_commas(cells: dict[Role, list[str]]) -> bool:
    values = [value for role in ("time", "rating") for value in cells.get(role, []) if value.strip() not in MISSING]
    return any(not is_number(value) and is_number(point(value)) for value in values)


def without_ratings(layout: TextLayout) -> TextLayout:
    """The same layout for a rating column that turned out to hold something else."""
    return replace(layout, columns={role: column for role, column in layout.columns.items() if role != "rating"})


def _lines(source: Source, sample: bytes) -> tuple[list[_Line], list[_Line]]:
    """The lines of a sample that are not blank, and those among them that are comments."""
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{source} is UTF-16 text, not UTF-8; save it as UTF-8, or `iconv -f utf-16 -t utf-8` it")
    found = sample.removeprefix(b"\xef\xbb\xbf").splitlines()
    numbered = [(number, line) for number, line in enumerate(found, 1) if line.strip()]
    if not numbered:
        raise DataError(f"{source} is empty")
    number, line_bytes = numbered[0]
    if b"\0" in sample or line_bytes.lstrip()[:1] in (b"<", b"{", b"["):
        raise unknown_format(source, line_bytes)
    try:
        line_bytes.decode()
    except UnicodeDecodeError:
        raise DataError(
            f"{source}: line {number} is not UTF-8 text ({line_bytes[:40]!r}); convert the file, {CONVERT}"
        ) from None
    if len(numbered) > 1 and not sample.endswith((b"\n", b"\r")):
        numbered.pop()  # the sample may end within it
    lines = [_Line(number, line.decode(errors="replace")) for number, line in numbered]
    comments = [line for line in lines if line.text.lstrip().startswith(COMMENTS)]
    rest = [line for line in lines if line not in comments]
    return (rest, comments) if rest else (lines, [])


def unknown_format(source: Source, first_line: bytes) -> DataError:
    """The error for a file that is nothing known."""
    seen = shorten(first_line.decode(errors="backslashreplace"))
    return DataError(f"{source} is in no known format: it begins with {seen}; accepted: {ACCEPTED_FORMATS}")


def _nameless(source: Source, first: _Line, separator: str) -> DataError:
    names_tab_layout = separator in ("\t", "::")
    return DataError(
        f"{source}: its first line names no user and item column ({shorten(first.text)}); {ADVICE}"
        + (", or give four values user, item, rating, timestamp a line" if names_tab_layout else "")
    )


def split(text: str, separator: str, *, quoted: bool, escaped: bool = False) -> list[str]:
    """The values of one line; a value may hold the separator only in double quotes, where these mean that."""
    if len(separator) > 1:
        return text.split(separator)
    try:
        escape = "\\" if escaped else None
        if quoted:
            return next(csv.reader([text], delimiter=separator, escapechar=escape))
        return next(csv.reader([text], delimiter=separator, quoting=csv.QUOTE_NONE, escapechar=escape))
    except (csv.Error, StopIteration):
        return [text]


def _header(text: str, options: ReadOptions) -> str | None:
    """The separator by which a line names a user or an item column; None if it names none."""
    for separator in (options.separator,) if options.separator else _SEPARATORS:
        names = split(text, separator, quoted=True)
        if len(names) > 1 and names_a_column(names, options):
            return separator
    return None


def _is_header(source: Source, lines: Sequence[_Line], options: ReadOptions) -> bool:
    if options.header is not None:
        return options.header
    first = lines[0]
    if _header(first.text, options):
        return True
    if any(isinstance(said, str) and not said.isdigit() for said in map(options.column, ROLES)):
        raise _no_such_names(source, first, options)
    if len(lines) < 2 or not list(options.said()):
        return False
    separator = _separator(source, lines[1:], options)
    names, *rows = (split(line.text, separator, quoted=separator != "::") for line in lines)
    rows = [row for row in rows if len(row) == len(names)]
    for role in options.said():
        place = int(str(options.column(role))) - 1
        if place < len(names) and rows and not _is_value(names[place]) and all(_is_value(row[place]) for row in rows):
            return True
    return False


def _no_such_names(source: Source, first: _Line, options: ReadOptions) -> DataError:
    said = ", ".join(f"{options.column(role)!r} for {role}_column=" for role in options.said())
    return DataError(
        f"{source}: its first line ({shorten(first.text)}) holds no such names as {said}; correct them, or number the "
        "columns from 1"
    )


def _is_value(cell: str) -> bool:
    return is_number(cell) or bool(possible_formats([cell.strip()]))


def _separator(source: Source, lines: Sequence[_Line], options: ReadOptions) -> str:
    if options.separator:
        return options.separator
    for separator in _SEPARATORS if list(options.said()) else _SEPARATORS[:-1]:
        counts = Counter(line.text.count(separator) for line in lines)
        if 2 * sum(n for count, n in counts.items() if count) > len(lines):
            return separator
    raise unknown_format(source, lines[0].text.encode())


def _numbered_columns(
    source: Source, first: _Line, separator: str, rows: Sequence[list[str]], options: ReadOptions
) -> dict[Role, int]:
    """The columns of a text without a header: as they were numbered, or MovieLens's four."""
    numbers = [str(place + 1) for place in range(len(rows[0]))]
    said = {role: position_of(source, role, str(options.column(role)), numbers) for role in options.said()}
    if "user" in said and "item" in said:
        for role in ("rating", "event"):
            if options.wants(role) and role not in said:
                raise DataError(f"{source} names no columns; say which one holds the {role}s with {role}_column=")
        return said
    if separator not in ("\t", "::") or len(numbers) != 4:
        raise _nameless(source, first, separator)
    times = [row[3].strip() for row in rows if row[3].strip() not in MISSING]
    if "time" not in said and not all(_is_time(time) for time in times):
        hint = ", and its third looks like one" if all(_is_time(row[2].strip()) for row in rows) else ""
        raise DataError(
            f"{source} names no columns, and its fourth ({times[0]} ...) is hardly a time{hint}; number the columns "
            "from 1 with user_column=, item_column= and, where there are such, time_column= and rating_column="
        )
    return {"user": 0, "item": 1, "time": 3, **({} if said.get("time") == 2 else {"rating": 2}), **said}


def _is_time(cell: str) -> bool:
    return unit_of(float(cell)) is not None if is_number(cell) else bool(possible_formats([cell]))


def _kinds(cells: dict[Role, list[str]], options: ReadOptions) -> dict[Role, Kind]:
    """What each column holds; a column that need not be read and cannot be is left out."""
    kinds: dict[Role, Kind] = {"user": "id", "item": "id"}
    if "time" in cells:
        kinds["time"] = "moment" if _time_formats(cells["time"], options) else "number"
    if "rating" in cells and (
        options.wants("rating") or all(is_number(cell) or cell.strip() in MISSING for cell in cells["rating"])
    ):
        kinds["rating"] = "value"
    if "event" in cells and options.wants("event"):
        kinds["event"] = "event"
    return kinds


def _time_formats(cells: Sequence[str], options: ReadOptions) -> tuple[str, ...]:
    """The formats in which the first cell that is no number, nor missing, is a moment."""
    first = next((cell.strip() for cell in cells if cell.strip() not in MISSING), "")
    if options.time_format is not None:
        return (options.time_format,)
    return () if not first or is_number(first) else tuple(possible_formats([first]))


def _mention(names: Sequence[str], positions: dict[Role, int], cells: dict[Role, list[str]]) -> tuple[str, str]:
    return names[positions["event"]].strip(), next(iter(cells["event"]), "")
