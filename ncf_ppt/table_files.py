"""Results as files that other programs read: Parquet, csv or JSON lines, as the file's name says."""

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from data_prep.ratings.interactions import id_column
from ppt_core.errors import DataError
from ppt_core.json_text import json_text
from ppt_core.runs.files import refuse_existing, replaced_file

Columns = Mapping[str, NDArray[Any]]
"""Columns by name, of one length: original ids or texts (int64, or str objects), numbers otherwise."""


def check_table_path(path: Path | str) -> None:
    """Raise `DataError` unless `save_table` could write there: before what takes time."""
    _writer(Path(path))
    refuse_existing(Path(path))


def save_table(path: Path | str, columns: Columns) -> None:
    """Write a row for each entry to the new file ``path``.

    ``.parquet`` keeps the types. ``.csv`` has a header line and quotes what holds a comma; ``.jsonl`` and ``.ndjson``
    have an object a line. Both are UTF-8 text and write a float32 so that it is read back as the same.

    Raises `DataError` for a name of another kind, or if ``path`` exists.
    """
    path = Path(path)
    check_table_path(path)
    write = _writer(path)
    with replaced_file(path, new=True) as partial, partial.open("wb") as stream:
        write(stream, columns)


def _writer(path: Path) -> Callable[[BinaryIO, Columns], None]:
    writers = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_json, ".ndjson": _write_json}
    if path.suffix.lower() not in writers:
        raise DataError(f"{path} names no format: end the name in {', '.join(writers)}")
    return writers[path.suffix.lower()]


def _write_parquet(stream: BinaryIO, columns: Columns) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {
        name: id_column(column) if column.dtype.kind == "O" or name.endswith("_id") else column
        for name, column in columns.items()
    }
    pq.write_table(pa.table(table), stream)


def _write_csv(stream: BinaryIO, columns: Columns) -> None:
    text = io.TextIOWrapper(stream, "utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*map(_texts, columns.values()), strict=True))
    text.flush()
    text.detach()


def _write_json(stream: BinaryIO, columns: Columns) -> None:
    names = list(columns)
    for row in zip(*(column.tolist() for column in columns.values()), strict=True):
        stream.write(json_text(dict(zip(names, row, strict=True)), ensure_ascii=False).encode() + b"\n")


def _texts(column: NDArray[Any]) -> list[Any]:
    """Values for csv: the shortest decimals that give the same number back."""
    return [str(value) for value in column] if column.dtype.kind == "f" else column.tolist()
