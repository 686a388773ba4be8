"""Ratings files of every common shape, told apart by what is in them, never by their names."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from numpy.typing import NDArray

from data_prep.ratings.archives import Source, find_source
from data_prep.ratings.raw_ratings import Ids, Ratings, number_ids
from data_prep.ratings.text_tables import MISSING, Kind, TextLayout, is_number, read_text, shorten
from ppt_core.errors import DataError

# Compared in lower case, without underscores, and without a RecBole type such as ":token".
COLUMN_NAMES = {
    "user": ("userid", "user"),
    "item": ("itemid", "item", "movieid"),
    "time": ("timestamp", "time"),
}
ACCEPTED_COLUMNS = (
    "user_id, userId, userID, UserId or user; item_id, itemId, itemID, ItemId, movieId or item; "
    "timestamp, Timestamp or time"
)
ACCEPTED_FORMATS = (
    "tab-separated 'user item rating timestamp' without a header, the same separated by '::', csv or tsv "
    "with a header, and parquet, each also as .gz or in a .zip"
)

_SAMPLE_BYTES = 1 << 16


def read_ratings(path: Path) -> Ratings:
    """Read the users, items and times of a ratings file, in file order.

    ==========  =======================================================================================
    separator   layout
    ==========  =======================================================================================
    tab         no header: user, item, rating, timestamp (MovieLens-100K); or with a header
    ``::``      no header: user, item, rating, timestamp (MovieLens-1M, 10M); or with a header
    comma       with a header that names the user, the item and the time (MovieLens-20M and later);
                names may carry a RecBole type as in ``user_id:token``; other columns are ignored
    parquet     columns named in the same way; times are numbers or timestamps
    ==========  =======================================================================================

    Each may be gzipped or a member of a zip archive (`data_prep.ratings.archives.find_source`). Ids are int64 where
    every id of the column is written as an int64, and str otherwise (``007`` stays distinct from ``7``; in
    parquet a column of strings stays strings). Times must be numbers; only their order matters.

    Raises `DataError` for everything that cannot be read: a missing file, an unknown format, missing columns,
    no rows, missing ids, and lines that are ragged, not UTF-8 or hold text in place of a time.
    """
    source = find_source(path)
    with source.open() as stream:
        sample = stream.read(_SAMPLE_BYTES)
    if sample.startswith(b"PAR1"):
        return _read_parquet(source)
    columns = read_text(source, _rating_layout(source, sample))
    users, user_ids = _number_column(columns["user"], integers=True)
    items, item_ids = _number_column(columns["item"], integers=True)
    return Ratings(users=users, items=items, times=columns["time"].to_numpy(), user_ids=user_ids, item_ids=item_ids)


def _rating_layout(source: Source, sample: bytes) -> TextLayout:
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{source} is UTF-16 text, not UTF-8; save it as UTF-8")
    lines = sample.removeprefix(b"\xef\xbb\xbf").splitlines()
    n_blank = next((number for number, line in enumerate(lines) if line.strip()), None)
    if n_blank is None:
        raise DataError(f"{source} is empty")
    line_bytes = lines[n_blank]
    if b"\0" in sample or line_bytes.lstrip()[:1] in (b"<", b"{", b"["):
        raise _unknown_format(source, line_bytes)
    try:
        line = line_bytes.decode()
    except UnicodeDecodeError:
        raise DataError(
            f"{source}: line {n_blank + 1} is not UTF-8 text ({line_bytes[:40]!r}); convert the file"
        ) from None
    separator = next((candidate for candidate in ("\t", "::", ",") if candidate in line), None)
    if separator is None:
        raise _unknown_format(source, line_bytes)
    quoted = separator == "," or '"' in line
    if separator == "::":
        quoted, fields = False, line.split(separator)
    else:
        fields = next(csv.reader([line], delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE))
    positions = _find_columns(source, fields)
    n_header_lines = n_blank + 1
    if not positions:
        if separator == "," or not (len(fields) == 4 and is_number(fields[3])):
            raise DataError(
                f"{source}: its first line names no user, item and time column ({shorten(line)}); "
                f"it should be a header with the names {ACCEPTED_COLUMNS}"
                + ("" if separator == "," else ", or four values user, item, rating, timestamp")
            )
        positions, n_header_lines, quoted = {"user": 0, "item": 1, "time": 3}, 0, False
    kinds: dict[str, Kind] = {"user": "id", "item": "id", "time": "number"}
    return TextLayout(
        separator=separator,
        n_columns=len(fields),
        columns={role: (positions[role], kind) for role, kind in kinds.items()},
        n_header_lines=n_header_lines,
        quoted=quoted,
    )


def _unknown_format(source: Source, first_line: bytes) -> DataError:
    seen = shorten(first_line.decode(errors="backslashreplace"))
    return DataError(f"{source} is in no known format: it begins with {seen}; accepted: {ACCEPTED_FORMATS}")


def _find_columns(source: Source, names: list[str]) -> dict[str, int]:
    """Return the position of each role's column, or nothing at all if no name is known."""
    plain = [name.strip().split(":")[0].lower().replace("_", "") for name in names]
    found = {
        role: [position for position, name in enumerate(plain) if name in accepted]
        for role, accepted in COLUMN_NAMES.items()
    }
    if not any(found.values()):
        return {}
    listed = ", ".join(names)
    for role, positions in found.items():
        if not positions:
            raise DataError(
                f"{source} has no {role} column (its columns: {shorten(listed, 200)}); "
                f"names accepted: {ACCEPTED_COLUMNS}"
            )
        if len(positions) > 1:
            several = " and ".join(names[position] for position in positions)
            raise DataError(f"{source} has more than one {role} column ({several}); rename or remove all but one")
    return {role: positions[0] for role, positions in found.items()}


def _number_column(column: pa.ChunkedArray, *, integers: bool) -> tuple[NDArray[np.int32], Ids]:
    """Number a dictionary column of string ids by first appearance.

    With ``integers``, spaces around ids are dropped, and the ids are int64 if all are written as such.
    """
    column = column.unify_dictionaries()
    dictionary = column.chunk(0).dictionary
    if integers:
        dictionary = _as_integers(pc.utf8_trim_whitespace(dictionary))
    values = dictionary.to_numpy(zero_copy_only=False)
    # Trimmed ids may coincide; and arrow does not promise that a dictionary is in order of first appearance.
    distinct_codes, distinct = number_ids(values)
    indices = np.concatenate([chunk.indices.to_numpy() for chunk in column.chunks])
    codes, order = number_ids(distinct_codes[indices])
    return codes, distinct[order]


def _as_integers(ids: pa.Array) -> pa.Array:
    """Return string ids as int64 if that loses nothing (leading zeros, a sign, digits), else as they are."""
    try:
        integers = pc.cast(ids, pa.int64())
    except pa.ArrowInvalid:
        return ids
    return integers if pc.all(pc.equal(pc.cast(integers, pa.string()), ids)).as_py() else ids


def _read_parquet(source: Source) -> Ratings:
    with source.open() as stream:
        packed = source.member is not None or source.gzipped
        data = pa.py_buffer(stream.read()) if packed else None  # parquet is read from its end: it must be seekable
    try:
        file = pyarrow.parquet.ParquetFile(source.path if data is None else pa.BufferReader(data))
        names = file.schema_arrow.names
        positions = _find_columns(source, names)
        if not positions:
            raise DataError(
                f"{source} has no user, item and time columns "
                f"(its columns: {shorten(', '.join(names), 200)}); names accepted: {ACCEPTED_COLUMNS}"
            )
        table = file.read([names[position] for position in positions.values()])
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{source} is a truncated or damaged parquet file ({reason}); fetch it again") from None
    if not len(table):
        raise DataError(f"{source} has columns and no ratings")
    columns = {}
    for role, position in positions.items():
        column = table.column(names[position])
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        _refuse_row(source, pc.is_null(column), f"has no {role}")
        columns[role] = column
    users, user_ids = _parquet_ids(source, "user", columns["user"])
    items, item_ids = _parquet_ids(source, "item", columns["item"])
    times = _parquet_times(source, columns["time"])
    return Ratings(users=users, items=items, times=times, user_ids=user_ids, item_ids=item_ids)


def _refuse_row(source: Source, faulty: pa.ChunkedArray, what: str) -> None:
    row = pc.index(faulty, True).as_py()
    if row >= 0:
        n_others = pc.sum(faulty).as_py() - 1
        raise DataError(f"{source}: row {row + 1} {what}" + (f", like {n_others:,} more" if n_others else ""))


def _parquet_ids(source: Source, role: str, column: pa.ChunkedArray) -> tuple[NDArray[np.int32], Ids]:
    if pa.types.is_integer(column.type):
        return number_ids(column.to_numpy())
    if pa.types.is_floating(column.type):  # what pandas makes of integers once a value was missing
        _refuse_row(source, pc.invert(pc.is_finite(column)), f"has no {role} (found nan or inf)")
        try:
            return number_ids(column.cast(pa.int64()).to_numpy())
        except pa.ArrowInvalid as error:
            raise DataError(f"{source}: the {role} ids are numbers, and not all are integers ({error})") from None
    if str(column.type) in ("string", "large_string", "string_view"):
        column = column.cast(pa.large_string())
        missing = pc.is_in(pc.utf8_trim_whitespace(column), pa.array(MISSING, pa.large_string()))
        _refuse_row(source, missing, f"has no {role} (an empty string, nan, None or the like)")
        return _number_column(column.dictionary_encode(), integers=False)
    raise DataError(f"{source}: the {role} column holds {column.type}; ids must be integers or strings")


def _parquet_times(source: Source, column: pa.ChunkedArray) -> NDArray[np.int64] | NDArray[np.float64]:
    kind = column.type
    try:
        if pa.types.is_date32(kind):
            column = column.cast(pa.int32())
        if pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            return np.asarray(column.cast(pa.int64()).to_numpy())
        if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            column = column.cast(pa.float64())
            _refuse_row(source, pc.invert(pc.is_finite(column)), "has a time that is nan or infinite")
            return np.asarray(column.to_numpy())
    except pa.ArrowInvalid as error:
        raise DataError(f"{source}: a time is too large ({error})") from None
    raise DataError(
        f"{source}: the time column holds {kind} (first value {shorten(str(column[0].as_py()))}); "
        "times must be numbers or timestamps"
    )
