"""Tables whose columns have types: Parquet, Arrow, JSON lines, and what another library hands over as Arrow."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.json
import pyarrow.parquet

from data_prep.ratings.archives import Source
from data_prep.ratings.columns import ADVICE, ReadOptions, find_columns
from data_prep.ratings.id_columns import id_texts, plain_column, refuse_row, typed_times
from data_prep.ratings.text_lines import CONVERT, bounded, shorten
from ppt_core.errors import DataError

SAMPLE_BYTES = 1 << 16
"""How much of a file is read to find out what it is."""

_JSON_BLOCK_BYTES = 1 << 24
_SMALL_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 20
_SKIP = "; correct the rows, or leave such rows out with skip_bad_rows="

Choice = Callable[[list[str]], dict[str, str]]


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
    except (ValueError, RecursionError):
        return None


def read_typed(source: Source, kind: str, sample: bytes, choose: Choice) -> tuple[pa.Table, dict[str, str]]:
    """Read some columns of a typed file: a column for each role that ``choose`` finds among the names of all.

    Returns the columns by role, and what the file calls them. Raises `DataError` for a damaged file.
    """
    try:
        if kind == "json lines":
            names, table = _read_json(source, sample, choose)
        else:
            # it is read from its end: it must be seekable
            data = pa.OSFile(str(source.path)) if source.is_plain else pa.BufferReader(source.read())
            names, table = (_read_parquet if kind == "parquet" else _read_arrow)(data, choose)
    except (pa.ArrowException, OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise damaged(source, kind, error) from None
    return table, names


def roles_of(source: object, names: Sequence[str], options: ReadOptions) -> dict[str, str]:
    """The name of each role's column. Raises `DataError` if user and item cannot be told."""
    positions = find_columns(source, names, options)
    if not positions:
        raise DataError(
            f"{source} has no user and item columns by known names (its columns: "
            f"{shorten(', '.join(names), 200)}); {ADVICE}"
        )
    return {role: names[position] for role, position in positions.items() if role != "event" or options.wants("event")}


def _leaves(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """The columns of a schema by name, each with where it lies: that of ``{"user": {"id": 3}}`` is ``user.id``.

    A name that begins with a dollar, as MongoDB writes the type of a value, adds nothing.
    """
    found: dict[str, tuple[str, ...]] = {}
    for top in schema:
        waiting: list[tuple[pa.Field, str, tuple[str, ...]]] = [(top, top.name, (top.name,))]
        while waiting:
            field, name, path = waiting.pop(0)
            if pa.types.is_struct(field.type) and field.type.num_fields:
                within = [field.type.field(place) for place in range(field.type.num_fields)]
                waiting += [(e, name if e.name[:1] == "$" else f"{name}.{e.name}", (*path, e.name)) for e in within]
            else:
                found.setdefault(name, path)
    return found


def _leaves_of(value: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """`_leaves` of one JSON object."""
    found: dict[str, tuple[str, ...]] = {}
    for name, within in value.items():
        deeper = _leaves_of(within) if isinstance(within, dict) and within else {"": ()}
        for rest, path in deeper.items():
            shown = name if not rest or rest[:1] == "$" else f"{name}.{rest}"
            found.setdefault(shown, (name, *path))
    return found


def _by_role(table: pa.Table, roles: dict[str, str], leaves: dict[str, tuple[str, ...]]) -> pa.Table:
    columns = {}
    for role, name in roles.items():
        top, *path = leaves[name]
        columns[role] = table.column(top)
        for part in path:
            columns[role] = pc.struct_field(columns[role], part)
    return pa.table(columns)


def checked_table(source: object, table: pa.Table, roles: dict[str, str], options: ReadOptions) -> tuple[pa.Table, int]:
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
                refuse_row(source, pc.is_null(column), f"has no {role}", _SKIP)
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
                refuse_row(source, pc.is_null(found[role]), f"has no {role} ({what})", _SKIP)
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


def _read_parquet(data: pa.NativeFile, choose: Choice) -> tuple[dict[str, str], pa.Table]:
    file = pyarrow.parquet.ParquetFile(data)
    leaves = _leaves(file.schema_arrow)
    roles = choose(_names(file.schema_arrow, leaves))
    return roles, _by_role(file.read(list({leaves[name][0]: None for name in roles.values()})), roles, leaves)


def parquet_columns(source: Source, choose: Choice) -> tuple[dict[str, str], dict[str, pa.DataType], int]:
    """What a plain Parquet file calls the columns that ``choose`` finds, their types by role, and its number of rows.

    Raises `DataError` for a damaged file.
    """
    try:
        with pyarrow.parquet.ParquetFile(source.path) as file:
            schema, n_rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise damaged(source, "parquet", error) from None
    leaves = _leaves(schema)
    roles = choose(_names(schema, leaves))
    empty = _by_role(schema.empty_table(), roles, leaves)
    return roles, {role: empty.schema.field(role).type for role in roles}, n_rows


def parquet_blocks(source: Source, roles: dict[str, str], n_rows: int) -> Iterator[pa.Table]:
    """The columns of a plain Parquet file by role, ``n_rows`` at a time. Raises `DataError` if it is damaged."""
    try:
        with pyarrow.parquet.ParquetFile(source.path, buffer_size=_BUFFER_BYTES) as file:
            leaves = _leaves(file.schema_arrow)
            for batch in file.iter_batches(n_rows, columns=list({leaves[name][0]: None for name in roles.values()})):
                yield _by_role(pa.Table.from_batches([batch]), roles, leaves)
    except (pa.ArrowException, OSError) as error:
        raise damaged(source, "parquet", error) from None


def damaged(source: Source, kind: str, error: Exception) -> DataError:
    """What is said of a typed file that cannot be read."""
    reason = " ".join(str(error).split())
    return DataError(f"{source} is a truncated or damaged {kind} file ({reason}); fetch it again")


def _read_arrow(data: pa.NativeFile, choose: Choice) -> tuple[dict[str, str], pa.Table]:
    if bytes(data.read(4)) == b"\xff\xff\xff\xff":
        data.seek(0)
        table = pa.ipc.open_stream(data).read_all()
    else:
        data.seek(0)
        table = pyarrow.feather.read_table(data)
    return columns_by_role(table, choose)


def columns_by_role(table: pa.Table, choose: Choice) -> tuple[dict[str, str], pa.Table]:
    """What a table calls the columns that ``choose`` finds among the names of all, and a column for each."""
    leaves = _leaves(table.schema)
    roles = choose(_names(table.schema, leaves))
    return roles, _by_role(table, roles, leaves)


def _names(schema: pa.Schema, leaves: dict[str, tuple[str, ...]]) -> list[str]:
    """The names of all columns: a name that occurs twice is for `find_columns` to refuse."""
    return list(leaves) if len(set(schema.names)) == len(schema.names) else schema.names


def _read_json(source: Source, sample: bytes, choose: Choice) -> tuple[dict[str, str], pa.Table]:
    whole = sample[: sample.rfind(b"\n") + 1] or sample
    try:
        fields = pyarrow.json.read_json(io.BytesIO(whole), read_options=_json_block(len(whole), threads=False)).schema
    except pa.ArrowInvalid:  # values of several types in one column, or a line that is none
        leaves = _leaves_of(json.loads(next(line for line in whole.splitlines() if line.strip())))
        roles = choose(list(leaves))
        return roles, _read_objects(source, roles, leaves)
    leaves = _leaves(fields)
    roles = choose(list(leaves))
    schema = pa.schema([fields.field(name) for name in {leaves[name][0]: None for name in roles.values()}])
    threads = source.path.stat().st_size > _SMALL_BYTES

    def read(parse: pyarrow.json.ParseOptions) -> pa.Table:
        with source.open() as stream:
            return pyarrow.json.read_json(stream, read_options=_json_block(None, threads=threads), parse_options=parse)

    try:  # of each object only what is wanted, of the types that it begins with
        table = read(pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"))
        return roles, _by_role(table, roles, leaves)
    except pa.ArrowInvalid:
        return roles, _read_objects(source, roles, leaves)


def _read_objects(source: Source, roles: dict[str, str], leaves: dict[str, tuple[str, ...]]) -> pa.Table:
    """Objects whose values are not of one type, of numbers and strings say: these become strings. Slow."""
    columns: dict[str, list[Any]] = {role: [] for role in roles}
    with source.open() as stream, io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape") as text:
        for number, line in enumerate(bounded(source, text), 1):
            if not line.strip():
                continue
            if not line.isascii() and any("\udc80" <= char <= "\udcff" for char in line):
                raise DataError(f"{source}: line {number} is not UTF-8 text; convert the file, {CONVERT}")
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{source}: line {number} is no JSON object ({error}); write one a line") from None
            for role, name in roles.items():
                value = found
                for part in leaves[name]:
                    value = value.get(part) if isinstance(value, dict) else None
                columns[role].append(value)
    return pa.table({role: _of_any(values) for role, values in columns.items()})


def _of_any(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # the last: an integer of more than 64 bits
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def _json_block(n_bytes: int | None, *, threads: bool) -> pyarrow.json.ReadOptions:
    return pyarrow.json.ReadOptions(use_threads=threads, block_size=max(n_bytes or 0, _JSON_BLOCK_BYTES))
