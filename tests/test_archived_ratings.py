"""Ratings in archives, compressed, in parts and in the formats of libraries: read as a plain text of them is."""

import bz2
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from data_prep.ratings.any_source import prepare_source
from data_prep.ratings.columns import ReadOptions
from data_prep.ratings.readers import read_files
from ppt_core.errors import DataError
from tests.ratings_files import base, file, frame, json_lines, text


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["[Content_Types].xml", "xl/workbook.xml"], "is an Excel workbook .* save the sheet or table as csv"),
        (["users.npy", "items.npy"], r"is an archive of NumPy arrays \(\.npz\)"),
        (["x/data.pkl", "x/version"], "is a file of PyTorch"),
    ],
)
def test_archives_of_other_programs(tmp_path: Path, members: list[str], message: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for member in members:
            archive.writestr(member, "x")
    with pytest.raises(DataError, match=message):
        read_files([tmp_path / "x.zip"])


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue().to_pybytes())


def tar(content: bytes, mode: Any) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as archive:
        for name, data in (("x/readme.txt", b"read me"), ("x/ratings.csv", content)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def arrow(table: pa.Table, *, stream: bool) -> bytes:
    sink = io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


PACKED: dict[str, Callable[[bytes, pa.Table], bytes]] = {
    "bz2": lambda content, _: bz2.compress(content),
    "xz": lambda content, _: lzma.compress(content),
    "zst": lambda content, _: zstd(content),
    "tar": lambda content, _: tar(content, "w"),
    "tar.gz": lambda content, _: tar(content, "w:gz"),
    "tar.xz": lambda content, _: tar(content, "w:xz"),
    "arrow": lambda _, table: arrow(table, stream=False),
    "arrow stream": lambda _, table: arrow(table, stream=True),
}


@pytest.mark.parametrize("packing", PACKED)
def test_packed_in_every_way(tmp_path: Path, packing: str) -> None:
    rows = base()
    packed = PACKED[packing](text(rows).encode(), pa.Table.from_pandas(frame(rows)))
    found = read_files([file(tmp_path, packed)]).ratings
    assert found.user_ids[found.users].tolist() == [int(row[0]) for row in rows]
    assert found.times.tolist() == [int(row[3]) for row in rows]
    if not packing.startswith("arrow"):
        with pytest.raises(DataError):
            read_files([file(tmp_path, packed[: len(packed) // 2], "cut")])


def test_one_id_is_one_id_whatever_it_was_read_from(tmp_path: Path) -> None:
    rows = base()[:200]
    table = pa.Table.from_pandas(frame(rows))
    kinds: dict[str, Any] = {"int32": pa.int32(), "string": pa.string(), "double": pa.float64()}
    kinds |= {"decimal": pa.decimal128(38, 0), "large": pa.large_string(), "uint64": pa.uint64()}
    expected = read_files([file(tmp_path, text(rows))]).ratings
    for name, kind in kinds.items():
        column = table.column("user_id").cast(kind)
        pq.write_table(table.set_column(0, "user_id", column), tmp_path / name)
        found = read_files([tmp_path / name]).ratings
        assert found.user_ids.tolist() == expected.user_ids.tolist(), name
        assert found.user_ids.dtype == expected.user_ids.dtype
    mixed = read_files([tmp_path / "int32", tmp_path / "string", tmp_path / "ratings"]).ratings
    assert mixed.user_ids.tolist() == expected.user_ids.tolist()
    assert len(mixed) == 3 * len(expected)


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M:%S", "%s", "timestamp", "timestamp with a zone"])
def test_times_of_parquet(tmp_path: Path, form: str) -> None:
    rows = base()
    table = frame(rows)
    moments = pd.to_datetime(table["timestamp"], unit="s")
    if form.startswith("timestamp"):
        table["timestamp"] = moments.dt.tz_localize("UTC") if "zone" in form else moments
    else:
        table["timestamp"] = table["timestamp"].astype(str) if form == "%s" else moments.dt.strftime(form)
    table.to_parquet(tmp_path / "r.parquet")
    times = read_files([tmp_path / "r.parquet"]).ratings.times
    unit = 1 if form == "%s" else 1_000_000
    assert (times // unit).tolist() == [int(row[3]) for row in rows]


def test_json_lines(tmp_path: Path) -> None:
    rows = base()
    path = file(tmp_path, json_lines(rows))
    read = read_files([path])
    assert read.ratings.user_ids[read.ratings.users].tolist() == ["U" + row[0] for row in rows]
    assert read.ratings.times.tolist() == [int(row[3]) for row in rows]
    assert str(read.reading).startswith("user: reviewerID (U5 ...), item: asin (B106 ...), time: unixReviewTime (2020-")


def test_parts_of_one_table(tmp_path: Path) -> None:
    rows = base()
    whole = read_files([file(tmp_path, text(rows))]).ratings
    (tmp_path / "parts").mkdir()
    pq.write_table(pa.Table.from_pandas(frame(rows[:700])), tmp_path / "parts" / "part-0.parquet")
    pq.write_table(pa.Table.from_pandas(frame(rows[700:])), tmp_path / "parts" / "part-1.parquet")
    file(tmp_path / "parts", "", "_SUCCESS")
    two = [file(tmp_path, text(rows[:700]), "a.csv"), file(tmp_path, text(rows[700:]), "b.csv")]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in two:
            archive.write(path, path.name)
    for paths, options in (
        ([tmp_path / "parts"], ReadOptions()),
        (two, ReadOptions()),
        ([tmp_path / "x.zip"], ReadOptions(members=("*.csv",))),
    ):
        found = read_files(paths, options).ratings
        assert found.users.tolist() == whole.users.tolist()
        assert found.user_ids.tolist() == whole.user_ids.tolist()
        assert found.times.tolist() == whole.times.tolist()
    with pytest.raises(DataError, match=r"2 files that could be the ratings \(a\.csv, b\.csv\); .* members="):
        read_files([tmp_path / "x.zip"])
    assert len(read_files([tmp_path / "x.zip"], ReadOptions(members=("b.csv",))).ratings) == 800
    with pytest.raises(DataError, match=r"has no member 'c\.csv'; it holds a\.csv, b\.csv"):
        read_files([tmp_path / "x.zip"], ReadOptions(members=("c.csv",)))
    data = prepare_source([str(path) for path in two], n_negatives=99)
    assert [each["name"] for each in data.manifest["source"]["files"]] == ["a.csv", "b.csv"]
