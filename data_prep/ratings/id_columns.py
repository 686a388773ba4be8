"""Columns of ids, times and ratings, of whatever type a file or a program gave them."""

import uuid

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_prep.ratings.moments import ISO, is_moment, possible_formats, read_moments
from data_prep.ratings.raw_ratings import Ids, number_ids
from data_prep.ratings.text_lines import MISSING, shorten
from ppt_core.errors import DataError

_WHOLE = r"^-?[0-9]+(\.0+)?$"


def refuse_row(source: object, faulty: pa.ChunkedArray, what: str, advice: str = "") -> None:
    """Raise `DataError` that names the first row at fault, if there is one, and counts the others."""
    row = pc.index(faulty, True).as_py()
    if row >= 0:
        n_others = pc.sum(faulty).as_py() - 1
        raise DataError(f"{source}: row {row + 1} {what}" + (f", like {n_others:,} more" if n_others else "") + advice)


def plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values of a column without a dictionary or an extension type around them; bytes are text (`_texts`)."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
        return plain_column(column)
    if pa.types.is_dictionary(kind):
        if not column.num_chunks:
            return plain_column(pa.chunked_array([], kind.value_type))
        column = column.unify_dictionaries()  # so that all values of a column are taken for the same kind of bytes
        values = plain_column(pa.chunked_array([column.chunk(0).dictionary])).combine_chunks()
        return pa.chunked_array([values.take(chunk.indices) for chunk in column.chunks])
    if pa.types.is_fixed_size_binary(kind) or str(kind) in ("binary", "large_binary", "binary_view"):
        return pa.chunked_array([pa.array(_texts(column.to_pylist(), kind), pa.large_string())])
    if str(kind) == "string_view":
        return column.cast(pa.large_string())
    return column


def _texts(values: list[bytes | None], kind: pa.DataType) -> list[str | None]:
    """Bytes as people write them: text where all are UTF-8 without controls, else UUIDs where each has 16, else hex.

    Of a type that has 16 bytes always they are UUIDs in any case.
    """
    known = [value for value in values if value is not None]
    texts = None if pa.types.is_fixed_size_binary(kind) and kind.byte_width == 16 else _decoded(known)
    if texts is None and all(len(value) == 16 for value in known):
        texts = [str(uuid.UUID(bytes=value)) for value in known]
    found = iter(texts if texts is not None else [value.hex() for value in known])
    return [None if value is None else next(found) for value in values]


def _decoded(values: list[bytes]) -> list[str] | None:
    try:
        texts = [value.decode() for value in values]
    except UnicodeDecodeError:
        return None
    return None if any(char < " " or char == "\x7f" for text in texts for char in set(text)) else texts


def id_texts(source: object, role: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A typed column of ids as integers or as dictionaries of strings, nulls where there is none.

    Raises `DataError` for ids that are neither integers nor strings.
    """
    kind = column.type
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == 8:  # pointers, as polars hands over objects
        raise DataError(f"{source}: the {role} column holds objects, or 8 bytes each; make the ids integers or strings")
    try:
        column = plain_column(column)
        kind = column.type
        if pa.types.is_integer(kind) and kind != pa.uint64():
            return column.cast(pa.int64())
        if pa.types.is_floating(kind):  # what pandas makes of integers once a value was missing
            refuse_row(source, pc.fill_null(pc.is_inf(column), False), f"has an infinite number for its {role}")
            return pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column).cast(pa.int64())
        if pa.types.is_decimal(kind):
            return _integers_of(column)
        if kind == pa.uint64():
            return column.cast(pa.string()).dictionary_encode()
        if str(kind) in ("string", "large_string"):
            column = column.cast(pa.large_string())
            missing = pc.is_in(pc.utf8_trim_whitespace(column), pa.array(MISSING, pa.large_string()))
            return pc.if_else(missing, pa.scalar(None, pa.large_string()), column).cast(pa.string()).dictionary_encode()
    except pa.ArrowInvalid as error:
        raise DataError(f"{source}: the {role} ids are numbers, and not all are integers ({error})") from None
    raise DataError(f"{source}: the {role} column holds {str(kind)[:60]}; ids must be integers or strings")


def _integers_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole decimals as integers, or as strings of digits where one has more than 64 bits."""
    whole = column.cast(pa.decimal256(76 - max(column.type.scale, 0), 0))
    try:
        return whole.cast(pa.int64())
    except pa.ArrowInvalid:
        return whole.cast(pa.string()).dictionary_encode()


def typed_times(source: object, column: pa.ChunkedArray, time_format: str | None) -> pa.ChunkedArray:
    """A typed column of times as int64, float64 or timestamp[us], nulls where there is none.

    Raises `DataError` for what is no time.
    """
    column = plain_column(column)
    kind = column.type
    try:
        if pa.types.is_date(kind):
            return column.cast(pa.timestamp("ms")).cast(pa.timestamp("us"))
        if pa.types.is_timestamp(kind):
            return column.cast(pa.timestamp("us"), safe=False)
        if pa.types.is_integer(kind):
            return column.cast(pa.int64())
        if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            column = column.cast(pa.float64())
            refuse_row(source, pc.fill_null(pc.is_inf(column), False), "has an infinite time")
            return pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
        if str(kind) in ("string", "large_string"):
            return _times_of_texts(source, column.cast(pa.string()), time_format)
    except pa.ArrowInvalid as error:
        raise DataError(f"{source}: a time is too large ({error})") from None
    raise DataError(
        f"{source}: the time column holds {str(kind)[:60]} (first value {shorten(str(column[0].as_py()))}); "
        "times must be numbers, dates or timestamps; name another column with time_column="
    )


def _times_of_texts(source: object, column: pa.ChunkedArray, time_format: str | None) -> pa.ChunkedArray:
    column = column.dictionary_encode().unify_dictionaries()
    texts = pc.utf8_trim_whitespace(column.chunk(0).dictionary)
    known = texts.filter(pc.invert(pc.is_in(texts, pa.array(MISSING))))
    if time_format is None:
        for number_type in (pa.int64(), pa.float64()):
            try:
                numbers = pc.cast(pc.if_else(pc.is_in(texts, pa.array(MISSING)), None, texts), number_type)
            except pa.ArrowInvalid:
                continue
            return pa.chunked_array([numbers.take(chunk.indices) for chunk in column.chunks])
    values = texts.to_pylist()
    formats = [time_format] if time_format else possible_formats(known[:1].to_pylist()) or [ISO]
    moments = read_moments(source, values, formats)
    faulty = next(
        (text for text, ok in zip(values, is_moment(moments), strict=True) if not ok | (text in MISSING)), None
    )
    if faulty is not None:
        raise DataError(
            f"{source}: the time column holds string (first value {shorten(faulty)} that is no date like the others); "
            "times must be numbers, dates or timestamps; say with time_format= how dates are written"
        )
    found = pa.array(moments, pa.timestamp("us"), mask=~is_moment(moments))
    return pa.chunked_array([found.take(chunk.indices) for chunk in column.chunks])


def number_column(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], Ids]:
    """Number ids by first appearance: int64, or dictionaries of strings.

    Spaces around strings are dropped, and all are int64 if all are written as integers, ``1.0`` for 1 included: one id
    is one id whatever it was read from. Leading zeros, and signs of what is no number, keep a column as strings.
    """
    if pa.types.is_integer(column.type):
        return number_ids(column.to_numpy())
    column = column.unify_dictionaries()
    dictionary = column.chunk(0).dictionary
    values = ids_of_texts(pc.utf8_trim_whitespace(dictionary))
    # Trimmed ids may coincide; and arrow does not promise that a dictionary is in order of first appearance.
    distinct_codes, distinct = number_ids(values)
    indices = np.concatenate([chunk.indices.to_numpy() for chunk in column.chunks])
    codes, order = number_ids(distinct_codes[indices])
    return codes, distinct[order]


def ids_of_texts(texts: pa.Array) -> Ids:
    """Ids without spaces around them as int64 if all are written as integers, else as str objects, (n,)."""
    ids: Ids = _as_integers(texts).to_numpy(zero_copy_only=False)
    return ids


def _as_integers(ids: pa.Array) -> pa.Array:
    """Return string ids as int64 if that loses nothing (leading zeros, a sign, digits), else as they are."""
    whole = ids
    if pc.any(pc.ends_with(ids, ".0")).as_py() and pc.all(pc.match_substring_regex(ids, _WHOLE)).as_py():
        whole = pc.replace_substring_regex(ids, r"\.0+$", "")
    try:
        integers = pc.cast(whole, pa.int64())
    except pa.ArrowInvalid:
        return ids
    return integers if pc.all(pc.equal(pc.cast(integers, whole.type), whole)).as_py() else ids
