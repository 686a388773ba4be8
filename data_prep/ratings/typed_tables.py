"""Tables whose columns have types: Parquet, Arrow, JSON lines, and what another library hands over as Arrow."""

import io
import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.json
import pyarrow.parquet

from data_prep.ratings.archives import Source
from data_prep.ratings.columns import ADVICE, ReadOptions, Role, find_columns
from data_prep.ratings.id_columns import id_texts, plain_column, refuse_row, typed_times
from data_prep.ratings.text_lines import shorten
from ppt_core.errors import DataError

_JSON_BLOCK_BYTES = 1 << 24
_SMALL_BYTES = 1 << 20


def typed_format(head: bytes) -> str | None:
    """What a file is by its first bytes: ``parquet``, ``arrow`` or ``json lines``; None for anything else."""
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"FEA1", b"\xff\xff\xff\xff")):
        return "arrow"
    first = next((line for line in head.splitlines() if line.strip()), b"")
    if not first.lstrip().startswith(b"{"):
        return None
    try:
        return "json lines" if isinstance(json.loads(first), dict) else None
    except ValueError:
        return None


def read_typed(source: Source, kind: str, sample: bytes, options: ReadOptions) -> tuple[pa.Table, dict[Role, str]]:
    """Read the wanted columns of a typed file: a column for each role, and what the file calls them.

    Raises `DataError` for a damaged file, and for columns that are not there.
    """
    try:
        if kind == "json lines":
            names, table = _read_json(source, sample, options)
        else:
            with source.open() as stream:  # it is read from its end: it must be seekable
                data = pa.OSFile(str(source.path)) if source.is_plain else pa.BufferReader(stream.read())
            names, table = (
                _read_parquet(source, data, options) if kind == "parquet" else _read_arrow(source, data, options)
            )
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{source} is a truncated or damaged {kind} file ({reason}); fetch it again") from None
    return table, names


def roles_of(source: object, names: Sequence[str], options: ReadOptions) -> dict[Role, str]:
    """The name of each role's column. Raises `DataError` if user and item cannot be told."""
    positions = find_columns(source, names, options)
    if not positions:
        raise DataError(
            f"{source} has no user and item columns by known names (its columns: "
            f"{shorten(', '.join(names), 200)}); {ADVICE}"
        )
    return {role: names[position] for role, position in positions.items() if role != "event" or options.wants("event")}


def checked_table(
    source: object, table: pa.Table, roles: dict[Role, str], options: ReadOptions
) -> tuple[pa.Table, int]:
    """Bring a table's columns, one for each role, to the types that `read_text` gives; and count the rows left out.

    Raises `DataError` for a row without a user, an item or a time, unless such rows are to be left out.
    """
    if not len(table):
        raise DataError(f"{source} has columns and no ratings")
    found: dict[str, pa.ChunkedArray] = {}
    good = None
    for role in roles:
        column = table.column(role)
        if role in ("user", "item"):
            if not options.skip_bad_rows:
                refuse_row(source, pc.is_null(column), f"has no {role}")
            found[role] = id_texts(source, role, column)
        elif role == "time":
            found[role] = typed_times(source, column, options.time_format)
        elif role == "event":
            found[role] = pc.fill_null(plain_column(column).cast(pa.string()), "").dictionary_encode()
        else:
            ratings = _ratings(source, plain_column(column), required=options.wants("rating"))
            if ratings is not None:
                found[role] = ratings
            continue
        if role != "event" and found[role].null_count:
            if not options.skip_bad_rows:
                what = "an empty string, nan, None or the like"
                refuse_row(source, pc.is_null(found[role]), f"has no {role} ({what})")
            valid = pc.is_valid(found[role])
            good = valid if good is None else pc.and_(good, valid)
    checked = pa.table(found)
    if good is None:
        return checked, 0
    kept = checked.filter(good)
    if not len(kept):
        raise DataError(f"{source} has no row with a user, an item and a time, where it has such columns")
    return kept, len(checked) - len(kept)


def _ratings(source: object, column: pa.ChunkedArray, *, required: bool) -> pa.ChunkedArray | None:
    try:
        return column.cast(pa.float32(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        if required:
            raise DataError(f"{source}: the rating column holds {column.type}, not numbers ({error})") from None
        return None


def _read_parquet(source: Source, data: pa.NativeFile, options: ReadOptions) -> tuple[dict[Role, str], pa.Table]:
    file = pyarrow.parquet.ParquetFile(data)
    roles = roles_of(source, file.schema_arrow.names, options)
    return roles, _by_role(file.read(list(roles.values())), roles)


def _read_arrow(source: Source, data: pa.NativeFile, options: ReadOptions) -> tuple[dict[Role, str], pa.Table]:
    if bytes(data.read(4)) == b"\xff\xff\xff\xff":
        data.seek(0)
        table = pa.ipc.open_stream(data).read_all()
    else:
        data.seek(0)
        table = pyarrow.feather.read_table(data)
    roles = roles_of(source, table.column_names, options)
    return roles, _by_role(table, roles)


def _by_role(table: pa.Table, roles: dict[Role, str]) -> pa.Table:
    return pa.table({role: table.column(name) for role, name in roles.items()})


def _read_json(source: Source, sample: bytes, options: ReadOptions) -> tuple[dict[Role, str], pa.Table]:
    whole = sample[: sample.rfind(b"\n") + 1] or sample
    fields = pyarrow.json.read_json(io.BytesIO(whole), read_options=_json_block(len(whole), threads=False)).schema
    roles = roles_of(source, fields.names, options)
    schema = pa.schema([fields.field(name) for name in roles.values()])
    threads = source.path.stat().st_size > _SMALL_BYTES

    def read(parse: pyarrow.json.ParseOptions) -> pa.Table:
        with source.open() as stream:
            return pyarrow.json.read_json(stream, read_options=_json_block(None, threads=threads), parse_options=parse)

    try:  # of each object only what is wanted, of the types that it begins with
        table = read(pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"))
    except pa.ArrowInvalid:
        table = read(pyarrow.json.ParseOptions())
    return roles, _by_role(table, roles)


def _json_block(n_bytes: int | None, *, threads: bool) -> pyarrow.json.ReadOptions:
    return pyarrow.json.ReadOptions(use_threads=threads, block_size=max(n_bytes or 0, _JSON_BLOCK_BYTES))
