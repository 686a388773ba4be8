"""Ratings that Python holds already: tables of every library, and the ids and dates in them."""

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from data_prep.ratings.any_source import prepare_source
from data_prep.ratings.in_memory import read_object
from data_prep.ratings.readers import read_files
from ppt_core.errors import DataError
from tests.ratings_files import base, frame


@pytest.mark.parametrize("kind", ["pandas", "columns", "arrow", "polars", "numbers and gaps"])
def test_bad_rows_in_memory_are_those_of_files(kind: str) -> None:
    rows = base()
    columns: dict[str, list[Any]] = {
        "user_id": [*(row[0] for row in rows), None, "3", "NA"],
        "item_id": [*(row[1] for row in rows), "4", None, "5"],
        "timestamp": [*(int(row[3]) for row in rows), 1, 2, 3],
    }
    if kind == "numbers and gaps":
        columns["user_id"] = [*(int(row[0]) for row in rows), None, float("nan"), 3]
        columns["timestamp"][-1] = None
    source: Any = columns
    if kind == "pandas":
        source = pd.DataFrame(columns)
    elif kind == "arrow":
        source = pa.table(columns)
    elif kind == "polars":
        source = pytest.importorskip("polars", reason="polars is not installed").DataFrame(columns)
    with pytest.raises(DataError, match=r"row 1501 has no user.*leave such rows out with skip_bad_rows="):
        prepare_source(source, n_negatives=99)
    with pytest.raises(DataError, match=r"3 of 1,503 rows cannot be read, and max_bad_rows is 0\.001"):
        prepare_source(source, n_negatives=99, skip_bad_rows=True, max_bad_rows=0.001)
    data = prepare_source(source, n_negatives=99, skip_bad_rows=True)
    assert data.manifest["reading"]["n_bad_rows"] == 3
    whole = prepare_source({name: values[:1500] for name, values in columns.items()}, n_negatives=99)
    assert data.user_ids.tolist() == whole.user_ids.tolist()
    assert data.test_items.tolist() == whole.test_items.tolist()


def test_tables_of_other_libraries_come_through_arrow() -> None:
    rows = base()
    table = pa.Table.from_pandas(frame(rows)).rename_columns(["uid", "iid", "stars", "ts"])
    by_arrow = prepare_source(table, n_negatives=99)
    by_pandas = prepare_source(frame(rows).astype({"user_id": str}), n_negatives=99, min_rating=1)
    assert by_arrow.user_ids.tolist() == by_pandas.user_ids.tolist()
    assert by_arrow.test_items.tolist() == by_pandas.test_items.tolist()
    assert prepare_source(frame(rows), n_negatives=99, min_rating=3, min_ratings=5).manifest["rows_dropped"][
        "below_min_rating"
    ] == sum(int(row[2]) < 3 for row in rows)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (
            pa.array([b"\x00" * 15 + b"\x07", b"\x01" * 16], pa.binary(16)),
            [str(UUID(int=7)), str(UUID(bytes=b"\x01" * 16))],
        ),
        (pa.array([b"\x00" * 15 + b"\x07", b"\xff" * 16]), [str(UUID(int=7)), str(UUID(bytes=b"\xff" * 16))]),
        (pa.array([b"anna", b"ben"]), ["anna", "ben"]),
        (pa.array([b"\x01\xff", b"ben"]), ["01ff", "62656e"]),
        (pa.array([b"\x01" * 12, b"\xff" * 12], pa.binary(12)), ["01" * 12, "ff" * 12]),
        (pa.array(["7", "8"]).dictionary_encode(), [7, 8]),
        (pa.array(["anna", "ben"]).cast(pa.string_view()).dictionary_encode(), ["anna", "ben"]),
        (pa.array([Decimal(7), Decimal(8)], pa.decimal128(38, 9)), [7, 8]),
        (pa.array([Decimal(2**70), Decimal(8)], pa.decimal256(76, 0)), [str(2**70), "8"]),
        (pa.array([2**63 + 1, 8], pa.uint64()), [str(2**63 + 1), "8"]),
        (pa.array([7.0, 8.0]), [7, 8]),
    ],
    ids=str,
)
def test_ids_of_every_type_that_databases_write(tmp_path: Path, column: Any, expected: list[Any]) -> None:
    table = pa.table({"user_id": column, "item_id": [1, 2], "ts": [1, 2]})
    assert read_object(table).ratings.user_ids.tolist() == expected
    if not pa.types.is_dictionary(column.type) or column.type.value_type == pa.string():
        pq.write_table(table, tmp_path / "r.parquet", store_schema=False)
        assert read_files([tmp_path / "r.parquet"]).ratings.user_ids.tolist() == expected


def test_bytes_of_a_dictionary_are_taken_alike_in_every_chunk() -> None:
    chunks = [pa.array(values, pa.binary()).dictionary_encode() for values in ([b"anna", b"ben"], [b"anna", b"\xff"])]
    table = pa.table({"user_id": pa.chunked_array(chunks), "item_id": [1, 2, 3, 4], "ts": [1, 2, 3, 4]})
    ratings = read_object(table).ratings
    assert ratings.user_ids[ratings.users].tolist() == ["616e6e61", "62656e", "616e6e61", "ff"]


def test_objects_that_are_only_addresses_are_refused() -> None:
    table = pa.table({"user_id": pa.array([b"12345678"] * 2, pa.binary(8)), "item_id": [1, 2]})
    with pytest.raises(DataError, match="holds objects, or 8 bytes each; make the ids integers or strings"):
        read_object(table)


def test_the_ids_and_dates_that_python_has() -> None:
    people = [UUID(int=7), UUID(int=8)]
    assert read_object([(each, 1) for each in people]).ratings.user_ids.tolist() == list(map(str, people))
    assert read_object([(each.bytes, 1) for each in people]).ratings.user_ids.tolist() == list(map(str, people))
    assert read_object([(Decimal(7), 1)]).ratings.user_ids.tolist() == [7]
    days = pd.DataFrame({"item": [1, 2], "time": [datetime.date(2020, 1, 2), datetime.date(2020, 1, 1)]})
    days.index = pd.Index([4, 5], name="user_id")
    found = read_object(days).ratings
    assert found.user_ids.tolist() == [4, 5]
    assert np.diff(found.times).tolist() == [-86_400_000_000]
    east = datetime.timezone(datetime.timedelta(hours=2))
    moments = [datetime.datetime(2020, 1, 1, 12, tzinfo=zone) for zone in (datetime.timezone.utc, east, None)]
    zones = read_object([(1, item, moment) for item, moment in enumerate(moments)]).ratings
    assert np.diff(zones.times).tolist() == [-7_200_000_000, 7_200_000_000]
    with pytest.raises(DataError, match=r"the user ids are numbers too large for a table .* make them strings"):
        read_object([(Decimal(10) ** 80, 1)])


def test_tables_of_polars() -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    frame = polars.DataFrame({"user_id": ["a", "b", "a"], "item_id": [1, 2, 3], "ts": [3, 2, 1]})
    enum = polars.Enum(["a", "b"])
    for kind in (polars.String, polars.Categorical, enum, polars.Binary):
        found = read_object(frame.with_columns(polars.col("user_id").cast(kind))).ratings
        assert found.user_ids.tolist() == ["a", "b"]
    dated = frame.with_columns(polars.from_epoch("ts", time_unit="s").dt.replace_time_zone("Europe/Paris"))
    assert np.diff(read_object(dated).ratings.times).tolist() == [-1_000_000] * 2
    with pytest.raises(DataError, match="a lazy table must be collected first"):
        read_object(frame.lazy())


def test_tables_of_duckdb(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    rows = "(values (1, 7, timestamp '2020-01-01 12:00:00'), (2, 8, timestamp '2020-01-02')) r(user_id, item_id, ts)"
    kinds = ("bigint", "hugeint", "decimal(18, 0)", "uuid", "varchar", "double")
    for kind in kinds:
        user = "md5(user_id::varchar)::uuid" if kind == "uuid" else f"user_id::{kind}"
        query = f"select {user} as user_id, item_id, ts from {rows}"
        duckdb.sql(f"copy ({query}) to '{tmp_path}/{kind[:3]}.parquet'")
        from_file = read_files([tmp_path / f"{kind[:3]}.parquet"]).ratings
        from_memory = read_object(duckdb.sql(query)).ratings
        assert from_file.user_ids.tolist() == from_memory.user_ids.tolist()
        assert kind == "uuid" or from_file.user_ids.tolist() == [1, 2]
        assert from_file.times.tolist() == from_memory.times.tolist() == [1577880000000000, 1577923200000000]
