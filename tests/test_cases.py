"""Files as people have them: each is read as it is or refused with the option that decides, never misread."""

import bz2
import csv
import datetime
import io
import json
import lzma
import random
import tarfile
import zipfile
from collections.abc import Callable
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

from cli import main
from data_prep.ratings.any_source import prepare_source
from data_prep.ratings.columns import ReadOptions
from data_prep.ratings.in_memory import read_object
from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.own_split import read_negatives
from data_prep.ratings.readers import read_files
from data_prep.ratings.remarks import warnings_of
from ppt_core.errors import DataError, DataWarning
from tests.command_line import CommandLine

Rows = list[list[str]]
HEADER = ["user_id", "item_id", "rating", "timestamp"]


def base() -> Rows:
    """60 users with 25 of 300 items each, at distinct times."""
    r = random.Random(1)
    rows = [
        [u, i, r.randint(1, 5), 1_600_000_000 + u * 1000 + n * 7]
        for u in range(1, 61)
        for n, i in enumerate(r.sample(range(1, 301), 25))
    ]
    r.shuffle(rows)
    return [list(map(str, row)) for row in rows]


def text(rows: Rows, *, separator: str = ",", header: list[str] | None = HEADER) -> str:
    lines = ([header] if header else []) + rows
    return "".join(separator.join(row) + "\n" for row in lines)


def file(folder: Path, content: str | bytes, name: str = "ratings") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def plays(rows: Rows) -> Rows:
    return [[f"u{int(u):05}", f"mbid-{int(i):04}", f"Artist {i}", str(int(t) % 997 + 1)] for u, i, _, t in rows]


def dated(rows: Rows, form: str) -> Rows:
    return [
        [*row[:3], datetime.datetime.fromtimestamp(int(row[3]), datetime.timezone.utc).strftime(form)] for row in rows
    ]


def pick(rows: Rows, *places: int) -> Rows:
    return [[row[place] for place in places] for row in rows]


def json_lines(rows: Rows) -> str:
    return "".join(
        json.dumps({"reviewerID": "U" + u, "text": "x, y", "asin": "B" + i, "unixReviewTime": int(t)}) + "\n"
        for u, i, _, t in rows
    )


def quoted(rows: Rows) -> str:
    return "".join(" ".join(f'"{cell}"' for cell in row) + "\n" for row in [HEADER, *rows])


READ: dict[str, tuple[Callable[[Rows], str], dict[str, Any]]] = {
    "shop names": (lambda rows: text(rows, header=["customer_id", "product_id", "quantity", "created_at"]), {}),
    "short names": (lambda rows: text(rows, header=["uid", "iid", "rating", "ts"]), {}),
    "names with spaces": (lambda rows: text(rows, header=["User ID", "Item ID", "Rating", "Time Stamp"]), {}),
    "names with hyphens": (lambda rows: text(rows, header=["User-ID", "ISBN", "Book-Rating", "Date"]), {}),
    "sessions": (lambda rows: text(pick(rows, 0, 1, 3, 2), header=["session", "aid", "ts", "type"]), {}),
    "retail rocket": (
        lambda rows: text(pick(rows, 3, 0, 2, 1), header=["timestamp", "visitorid", "event", "itemid"]),
        {"events": ("1", "2", "3", "4", "5")},
    ),
    "amazon 2023": (lambda rows: text(rows, header=["user_id", "parent_asin", "rating", "timestamp"]), {}),
    "chinese": (lambda rows: text(rows, header=["用户", "商品", "评分", "时间"]), {}),
    "plural": (lambda rows: text(rows, header=["Users", "Items", "Ratings", "Timestamps"]), {}),
    "own names": (
        lambda rows: text(rows, header=["who", "what", "mark", "when"]),
        {"user_column": "who", "item_column": "what", "time_column": "when"},
    ),
    "no header": (lambda rows: text(rows, header=None), {"user_column": 1, "item_column": "2", "time_column": 4}),
    "unknown header, numbered": (
        lambda rows: text(rows, header=["a", "b", "c", "d"]),
        {"user_column": 1, "item_column": 2, "time_column": 4},
    ),
    "rating last": (
        lambda rows: text(pick(rows, 0, 1, 3, 2), separator="\t", header=None),
        {"user_column": 1, "item_column": 2, "time_column": 3, "rating_column": 4},
    ),
    "semicolons": (lambda rows: text(rows, separator=";"), {}),
    "pipes": (lambda rows: text(rows, separator="|"), {}),
    "spaces": (
        lambda rows: text(rows, separator=" ", header=None),
        {"separator": "space", "user_column": 1, "item_column": 2, "time_column": 4},
    ),
    "quotes and row names, as R writes": (
        lambda rows: (
            '"user_id" "item_id" "rating" "timestamp"\n'
            + "".join(f'"{n}" {" ".join(row)}\n' for n, row in enumerate(rows))
        ),
        {},
    ),
    "quotes": (quoted, {}),
    "an index, as pandas writes": (
        lambda rows: text([[str(n), *row] for n, row in enumerate(rows)], header=["", *HEADER]),
        {},
    ),
    "comments": (lambda rows: "% bip weighted\n# 1500 60 300\n" + text(rows) + "# the end\n", {}),
    "a header that is a comment": (lambda rows: "# " + text(rows, separator="\t"), {}),
    "iso dates": (lambda rows: text(dated(rows, "%Y-%m-%d %H:%M:%S")), {}),
    "iso with a zone": (lambda rows: text(dated(rows, "%Y-%m-%dT%H:%M:%SZ")), {}),
    "utc in words": (lambda rows: text(dated(rows, "%Y-%m-%d %H:%M:%S UTC")), {}),
    "american dates": (lambda rows: text(dated(rows, "%m/%d/%Y %H:%M:%S")), {}),
    "a format of its own": (
        lambda rows: text(dated(rows, "%H.%M.%S %Y/%d/%m")),
        {"time_format": "%H.%M.%S %Y/%d/%m"},
    ),
    "names of days": (lambda rows: text(dated(rows, "%a %b %d %H:%M:%S +0000 %Y")), {}),
    "ids as floats": (lambda rows: text([[u + ".0", i, r, t] for u, i, r, t in rows]), {}),
    "bad rows": (
        lambda rows: text(rows) + "1,2\n3,4,5,soon\n,1,1,1600000000\n",
        {"skip_bad_rows": True},
    ),
}


@pytest.mark.parametrize("case", READ)
def test_read_as_it_is(tmp_path: Path, case: str) -> None:
    rows = base()
    make, options = READ[case]
    ratings = read_files([file(tmp_path, make(rows))], ReadOptions(**options)).ratings
    users, items = ratings.user_ids[ratings.users], ratings.item_ids[ratings.items]
    assert list(zip(users.tolist(), items.tolist(), strict=True)) == [(int(u), int(i)) for u, i, *_ in rows]
    unit = 1_000_000 if ratings.times.max() > 10**12 else 1
    assert (ratings.times // unit).tolist() == [int(row[3]) for row in rows]


REFUSED: dict[str, tuple[Callable[[Rows], str | bytes], str]] = {
    "plays in the fourth place": (
        lambda rows: text(plays(rows), separator="\t", header=None),
        r"its fourth \(.* \.\.\.\) is hardly a time; number the columns .* user_column=, item_column=",
    ),
    "rating last": (
        lambda rows: text(pick(rows, 0, 1, 3, 2), separator="\t", header=None),
        "hardly a time, and its third looks like one",
    ),
    "csv without a header": (lambda rows: text(rows, header=None), "no user and item column .* user_column= and"),
    "three tab columns": (lambda rows: text(pick(rows, 0, 1, 3), separator="\t", header=None), "user_column= and"),
    "two times": (
        lambda rows: text([[*row, row[3]] for row in rows], header=[*HEADER, "time"]),
        r"more than one time column \(timestamp and time\); say which one with time_column=",
    ),
    "05/06/2020": (
        lambda rows: text([[*row[:3], f"0{n % 9 + 1}/05/2020"] for n, row in enumerate(rows)]),
        "can be read in two ways; say which with time_format='%m/%d/%Y' or '%d/%m/%Y'",
    ),
    "bad rows": (
        lambda rows: text(rows) + "1,2\n3,4,5,soon\n,1,1,1600000000\n",
        "line 1502 has 2 values where 4 are needed, and 2 more of 1,503 rows cannot be read; .* skip_bad_rows=",
    ),
    "7z": (lambda _: b"7z\xbc\xaf\x27\x1c" + bytes(60), "is a 7z archive; unpack it"),
    "old excel": (lambda _: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(60), "old Excel workbook .* save the sheet"),
    "pickle": (lambda _: b"\x80\x04\x95" + bytes(60), "is a pickle, which could run any program .* DataFrame"),
    "sqlite": (lambda _: b"SQLite format 3\0" + bytes(60), "is an SQLite database; export the table"),
    "npy": (lambda _: b"\x93NUMPY\x01\0" + bytes(60), "is an array of NumPy"),
    "hdf5": (lambda _: b"\x89HDF\r\n\x1a\n" + bytes(60), "is an HDF5 file"),
    "json array": (lambda _: '[{"user": 1}]', "is one JSON array; write an object a line"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_way_out(tmp_path: Path, case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(DataError, match=message) as caught:
        read_files([file(tmp_path, make(base()))])
    assert "\n" not in str(caught.value)


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


def frame(rows: Rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=pd.Index(HEADER)).astype(int)


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


def prepared(path: Path, **options: Any) -> PreparedData:
    return prepare_source(str(path), n_negatives=99, **options)


def test_no_time_means_a_random_item(tmp_path: Path) -> None:
    path = file(tmp_path, text(pick(base(), 0, 1, 2), header=HEADER[:3]))
    data = prepared(path)
    assert data.protocol_label == "leave-one-out, random item, 99 negatives, strict"
    assert data.history is None
    in_order = prepared(path, order="file")
    assert in_order.protocol_label == "leave-one-out, last row of the file, 99 negatives, strict"
    assert in_order.history is not None
    last = {row[0]: row[1] for row in base()}
    held_out = in_order.item_ids[in_order.test_items].tolist()
    assert held_out == [int(last[str(user)]) for user in in_order.user_ids]
    assert held_out != data.item_ids[data.test_items].tolist()


def test_a_constant_time_is_none_and_days_without_hours_are_a_loud_warning(tmp_path: Path) -> None:
    constant = file(tmp_path, text([[*row[:3], "0"] for row in base()]), "constant")
    with pytest.warns(DataWarning, match="all times are the same, so the held-out item is drawn"):
        data = prepared(constant)
    assert data.split_label == "leave-one-out, random item"
    assert prepared(constant, order="file").split_label == "leave-one-out, last row of the file"
    days = file(tmp_path, text([[*row[:3], str(int(row[3]) // 86_400 * 86_400)] for row in base()]), "days")
    with pytest.warns(
        DataWarning, match=r"order of the file alone decides which item of \d+ of 60 users .* order='random'"
    ):
        tied = prepared(days)
    assert tied.split_label == "leave-one-out"
    assert prepared(days, order="file").test_items.tolist() == tied.test_items.tolist()
    drawn, other = (prepared(days, order="random", seed=seed) for seed in (0, 1))
    assert drawn.split_label == "leave-one-out, equal times drawn"
    assert drawn.test_items.tolist() != other.test_items.tolist()
    assert drawn.manifest["n_tied_users"] == tied.manifest["n_tied_users"]


def test_seconds_and_milliseconds_in_one_column_are_said(tmp_path: Path) -> None:
    rows = [[*row[:3], row[3] + "000" * (n % 2)] for n, row in enumerate(base())]
    with pytest.warns(DataWarning, match=r"different units \(750 in s, 750 in ms\)"):
        prepared(file(tmp_path, text(rows)))


@pytest.mark.filterwarnings("ignore:.*held-out items are in no train row")
def test_what_counts_as_a_positive(tmp_path: Path) -> None:
    rows = [[u, i, str(int(n % 4 == 0)), t] for n, (u, i, _, t) in enumerate(base())]
    path = file(tmp_path, text(rows, header=["user_id", "item_id", "label", "timestamp"]))
    with pytest.warns(DataWarning, match=r"1,125 of 1,500 rows have a rating of 0 or less, .* min_rating="):
        prepared(path)
    data = prepared(path, min_rating=1, min_ratings=2)
    assert data.manifest["rows_dropped"]["below_min_rating"] == 1125
    positives = {(int(u), int(i)) for u, i, r, _ in rows if r == "1"}
    assert set(
        zip(data.user_ids[data.train.users()].tolist(), data.item_ids[data.train.items].tolist(), strict=True)
    ) < (positives)
    with pytest.raises(DataError, match="no row has a rating of 2"):
        prepared(path, min_rating=2)
    with pytest.raises(DataError, match=r"has no rating column by a known name .* rating_column="):
        prepared(file(tmp_path, text(pick(rows, 0, 1), header=HEADER[:2]), "bare"), min_rating=2)


@pytest.mark.filterwarnings("ignore:.*held-out items are in no train row")
def test_events(tmp_path: Path) -> None:
    names = ["view", "cart", "purchase"]
    rows = [[u, i, names[n % 3], t] for n, (u, i, _, t) in enumerate(base())]
    path = file(tmp_path, text(rows, header=["user_id", "item_id", "event_type", "timestamp"]))
    with pytest.warns(DataWarning, match="whatever its event_type is; say events="):
        prepared(path)
    data = prepared(path, events=("cart", "purchase"), min_ratings=2)
    assert data.manifest["rows_dropped"]["other_events"] == 500
    with pytest.raises(DataError, match="has no event 'buy'; its events are view, cart, purchase"):
        prepared(path, events=("buy",))


def test_one_account_with_the_whole_catalogue_stops_nobody(tmp_path: Path) -> None:
    rows = base() + [["777", str(item), "5", str(1_600_000_000 + item)] for item in range(1, 291)]
    path = file(tmp_path, text(rows))
    with pytest.warns(DataWarning, match="1 users with nearly all items were dropped"):
        data = prepared(path)
    assert 777 not in data.user_ids
    assert data.manifest["users_dropped"]["without_negatives"] == 1
    assert data.manifest["rows_dropped"]["without_negatives"] == 290
    with pytest.raises(
        DataError, match=r"user 777 has 10 of 300 items left .* no other user is so: set n_negatives to"
    ):
        prepared(path, heavy_users="fail")


def test_both_limits_hold_for_all_that_is_left(tmp_path: Path) -> None:
    path = file(tmp_path, text(base()))
    data = prepared(path, min_ratings=15, min_item_ratings=4)
    degrees = data.train.degrees + 1
    items = [*data.train.items.tolist(), *data.test_items.tolist()]
    assert degrees.min() >= 15
    assert min(items.count(item) for item in range(data.n_items)) >= 4
    dropped = data.manifest["rows_dropped"]
    assert dropped["below_min_item_ratings"] > 0
    assert sum(dropped.values()) + len(items) == 1500
    assert data.n_users + sum(data.manifest["users_dropped"].values()) == 60
    with pytest.raises(DataError, match="lower min_item_ratings or min_ratings"):
        prepared(path, min_item_ratings=25)


def test_what_prepare_says(tmp_path: Path) -> None:
    rows = [row for row in base() if int(row[0]) < 20 or int(row[1]) < 150]
    path = file(tmp_path, text(rows))
    done = CommandLine(main).call("prepare", path, "--out", tmp_path / "out", "--negatives", 99)
    assert done.exit_code == 0, done.output
    assert "read as text: user: user_id (" in done.stdout
    assert "time: timestamp (2020-09-13 to 2020-09-14), rating: rating (1 to 5)" in done.stdout
    assert "users kept: 19 of 60 (dropped: 41 below min ratings)" in done.stdout
    assert "held-out items that no train row has: " in done.stdout
    assert (
        "warning: only 19 of 60 users are kept (41 below min ratings); lower --min-ratings to keep more" in done.stderr
    )
    manifest = PreparedData.load(tmp_path / "out").manifest
    assert manifest["reading"]["columns"]["time"]["low"] == "2020-09-13"
    assert manifest["reading"]["n_rows"] == len(rows)
    assert len(manifest["warnings"]) == done.stderr.count("warning: ")
    copy = CommandLine(main).call("prepare", "ml-100k", "--source", path, "--out", tmp_path / "copy", "--negatives", 99)
    assert "and the published ml-100k has 100,000 ratings of 943 users and 1,682 items, so this is not" in copy.stderr
    fewer = CommandLine(main).call(
        "prepare", "ml-100k", "--source", path, "--out", tmp_path / "few", "--negatives", 99, "--min-rating", 2
    )
    assert "so this is not" not in fewer.stderr
    parts = tmp_path / "parts"
    parts.mkdir()
    file(parts, text(rows[:700]), "a.csv")
    file(parts, text(rows[700:]), "b.csv")
    whole = CommandLine(main).succeed(
        "prepare", "ml-100k", "--source", parts, "--out", tmp_path / "whole", "--negatives", 99
    )
    assert [each["name"] for each in whole["manifest"]["source"]["files"]] == ["a.csv", "b.csv"]
    days = file(tmp_path, text([[*row[:3], "1600000000" if int(row[0]) % 2 else row[3]] for row in base()]), "days")
    tied = CommandLine(main).call("prepare", days, "--out", tmp_path / "days-out", "--negatives", 99)
    assert "30 of 60 users is held out" in tied.stderr
    assert "say --order random to draw among equal times, or --order file if" in tied.stderr
    failed = CommandLine(main).fail("prepare", file(tmp_path, text(rows, header=None)), "--out", tmp_path / "x")
    assert "name them with --user-column and --item-column" in failed


def test_bad_rows_are_counted_up_to_a_limit(tmp_path: Path) -> None:
    path = file(tmp_path, text(base()) + "1,2\n3,4,5,soon\n,1,1,1600000000\n")
    assert prepared(path, skip_bad_rows=True).manifest["reading"]["n_bad_rows"] == 3
    with pytest.raises(DataError, match=r"3 of 1,503 rows cannot be read, and max_bad_rows is 0\.001"):
        prepared(path, skip_bad_rows=True, max_bad_rows=0.001)


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


def test_a_split_of_ones_own(tmp_path: Path) -> None:
    rows = base()
    by_user: dict[str, Rows] = {}
    for row in sorted(rows, key=lambda row: int(row[3])):
        by_user.setdefault("u" + row[0], []).append(["u" + row[0], *row[1:]])
    last = {user: own[-1] for user, own in by_user.items() if user != "u7"}
    train = file(
        tmp_path, text([row for user, own in by_user.items() for row in (own[:-1] if user in last else own)]), "a"
    )
    test = file(tmp_path, text([*last.values(), ["nobody", "1", "1", "1600000000"]]), "b")
    data = prepared(train, test=str(test))
    assert data.protocol_label == "own split, 99 negatives, strict"
    assert (data.n_users, data.n_tested, data.user_ids[-1]) == (60, 59, "u7")
    held_out = dict(zip(data.user_ids.tolist(), data.item_ids[data.test_items].tolist(), strict=False))
    assert held_out == {user: int(row[1]) for user, row in last.items()}
    assert len(data.train) == 1500 - 59
    row = data.user_ids.tolist().index("u7")
    assert data.history is not None
    history = data.item_ids[data.history[data.train.offsets[row] : data.train.offsets[row + 1]]].tolist()
    assert history == [int(each[1]) for each in by_user["u7"]]
    assert data.manifest["users_dropped"] == {"without_train_rows": 1}
    loaded = PreparedData.load(data.save(tmp_path / "out").path or "")
    assert loaded.n_tested == 59

    own = {user: [str(item) for item in range(301, 304)] for user in last}
    lines = "".join(f"({user},{last[user][1]})\t" + "\t".join(items) + "\n" for user, items in own.items())
    names: dict[str, Any] = {"test": str(test), "test_negatives": str(file(tmp_path, lines, "negatives"))}
    given = prepare_source(str(train), **names)
    for drawn in ({"n_negatives": 99}, {"protocol": "mlperf"}):
        with pytest.raises(DataError, match="holds the negatives, so none are drawn; leave out n_negatives and proto"):
            prepare_source(str(train), **names, **drawn)
    assert given.protocol_label == "own split, 3 negatives, published"
    assert given.item_ids[given.test_negatives].tolist() == [[301, 302, 303]] * 59
    with pytest.raises(
        DataError, match=r"user u\d+ has \d+ of \d+ items left to draw negatives from, and 299 are needed"
    ):
        prepare_source(str(train), test=str(test), n_negatives=299)
    with pytest.raises(DataError, match=r"has no line for user 'u\d+' \(58 lack one\)"):
        prepare_source(str(train), test=str(test), test_negatives=str(file(tmp_path, lines.splitlines()[0], "short")))
    with pytest.raises(DataError, match=r"leave out .* min_ratings"):
        prepared(train, test=str(test), min_ratings=3)


def test_one_moment_for_all(tmp_path: Path) -> None:
    rows = [[u, i, r, str(1_600_000_000 + n * 60)] for n, (u, i, r, _) in enumerate(base())]
    limit = 1_600_000_000 + 1200 * 60
    path = file(tmp_path, text(rows))
    moment = datetime.datetime.fromtimestamp(limit, datetime.timezone.utc)
    data, same = prepared(path, split_time=limit), prepared(path, split_time=moment.strftime("%Y-%m-%d %H:%M:%S"))
    assert data.test_items.tolist() == same.test_items.tolist()
    assert data.protocol_label == f"split at {limit}, next item, 99 negatives, strict"
    assert len(data.train) == sum(int(row[3]) < limit for row in rows)
    later: dict[int, int] = {}
    for user, item, _, time in rows:
        if int(time) >= limit:
            later.setdefault(int(user), int(item))
    held_out = dict(zip(data.user_ids.tolist(), data.item_ids[data.test_items].tolist(), strict=False))
    assert held_out == later
    with pytest.raises(DataError, match="all rows are before it"):
        prepared(path, split_time="2030-01-01")


def test_what_a_split_leaves_out_is_told(tmp_path: Path) -> None:
    rows = [[u, i, r, str(1_600_000_000 + n * 60)] for n, (u, i, r, _) in enumerate(base())]
    limit = 1_600_000_000 + 1200 * 60
    path = file(tmp_path, text([*rows, ["999", "1", "5", "1600000000"]]))
    n_low = sum(int(row[2]) < 3 for row in rows)
    data = prepared(path, split_time=limit, min_rating=3, min_ratings=2)
    assert data.manifest["users_dropped"]["below_min_ratings"] == 1
    assert data.manifest["rows_dropped"]["below_min_rating"] == n_low
    assert data.manifest["rows_dropped"]["below_min_ratings"] == 1
    assert any("1 below min ratings" in line for line in data.summary)
    train, test = file(tmp_path, text(rows[:1200]), "a"), file(tmp_path, text(rows[1200:]), "b")
    own = prepared(train, test=str(test), min_rating=3)
    assert own.manifest["rows_dropped"]["below_min_rating"] == n_low


def test_a_moment_is_read_in_one_way(tmp_path: Path) -> None:
    rows = [[u, i, r, f"{1 + n // 120:02}/06/2020"] for n, (u, i, r, _) in enumerate(base())]
    path = file(tmp_path, text(rows))
    data = prepared(path, split_time="12/06/2020", time_format="%d/%m/%Y", min_ratings=1)
    same = prepared(path, split_time="2020-06-12", time_format="%d/%m/%Y", min_ratings=1)
    assert len(data.train) == len(same.train) == 1320
    with pytest.raises(DataError, match=r"split_time: a date such as '12/06/2020' can be read in two ways; say which"):
        prepared(path, split_time="12/06/2020", min_ratings=1)
    with pytest.raises(DataError, match="split_time is '5 June'; give a date as 2015-08-01"):
        prepared(path, split_time="5 June", time_format="%d/%m/%Y", min_ratings=1)


@pytest.mark.parametrize(
    ("line", "user", "items"),
    [
        ("(1,5),3,4", "1", ["3", "4"]),
        ("( 1 , 5 )\t3\t4", "1", ["3", "4"]),
        ("01,+3,004", "1", ["3", "4"]),
        ("1\t3\t12345678901234567890", "1", ["3", "12345678901234567890"]),
        ("1,3,²", "1", ["3", "²"]),
        ("1,3,-7", "1", ["3", "-7"]),
    ],
)
def test_negatives_of_every_way_to_write_them(tmp_path: Path, line: str, user: str, items: list[str]) -> None:
    path = file(tmp_path, line + "\n")
    ids, table = read_negatives(path, np.array([int(user)]), np.array([3, 4, 7]))
    assert sorted(str(ids[code]) for code in table[0]) == sorted(items)
    assert (ids.dtype.kind == "i") == all(item.lstrip("-").isascii() and len(item) < 19 for item in items)


def test_what_is_unseen_is_a_share_of_those_who_are_tested() -> None:
    manifest = {"n_unseen_held_out": 15, "n_tested_users": 30}
    (warning,) = warnings_of(manifest, n_users=1000)
    assert warning.startswith("50% of the held-out items are in no train row")
    assert list(warnings_of(manifest | {"n_tested_users": 200}, n_users=200)) == []


def test_users_without_a_test_row_are_trained_and_not_ranked(tmp_path: Path) -> None:
    rows = base()
    train = file(tmp_path, text([row for row in rows if int(row[1]) > 20 or int(row[0]) > 50]), "train.csv")
    test = file(tmp_path, text([row for row in rows if int(row[1]) <= 20 and int(row[0]) <= 50]), "test.csv")
    ncf, shape = CommandLine(main), ("--factors", 4, "--layers", "8,8,8,4", "--epochs", 1)
    ncf.succeed("prepare", train, "--test", test, "--out", tmp_path / "data", "--negatives", 50)
    n_tested = PreparedData.load(tmp_path / "data").n_tested
    assert 0 < n_tested < 60
    ncf.succeed("train", "--data", tmp_path / "data", "--out", tmp_path / "run", *shape)
    for ranking in ("sampled", "full"):
        found = ncf.succeed("evaluate", tmp_path / "run", "--ranking", ranking, "--per-user", tmp_path / ranking)
        assert found["n_users"] == n_tested
        assert len(pd.read_parquet(tmp_path / ranking)) == n_tested
    ncf.succeed("pack", tmp_path / "run", "--out", tmp_path / "packed")
    assert ncf.succeed("recommend", tmp_path / "run", "--user", 60)["recommendations"][0]["item_ids"]
    ncf.succeed("baseline", "popular", "--data", tmp_path / "data")


REAL: dict[str, tuple[list[str], int]] = {
    "user_artists.dat.gz": (
        ["--separator", "tab", "--user-column", "1", "--item-column", "2", "--rating-column", "3", "--skip-bad-rows"],
        92_834,
    ),
    "BX-Book-Ratings.csv.gz": (["--min-rating", "1", "--min-ratings", "10"], 100_726),
    "Video.txt.gz": (["--separator", "space", "--user-column", "1", "--item-column", "2", "--order", "file"], 287_107),
    "sample_train-item-views.csv.gz": (["--user-column", "session_id", "--min-ratings", "5"], 12_391),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_files_by_one_command(real_data: Path, tmp_path: Path, name: str) -> None:
    """Every step of a person with such a file, and at each of them the ids of the file."""
    options, n_rows = REAL[name]
    path, ncf = real_data / "more" / name, CommandLine(main)
    document = ncf.succeed("prepare", path, "--out", tmp_path / "data", "--negatives", 99, *options)
    assert document["manifest"]["reading"]["n_rows"] == n_rows
    data = PreparedData.load(tmp_path / "data")

    is_sessions = name.startswith("sample")
    separators = {".dat": "\t", ".csv": ";" if is_sessions else ",", ".txt": " "}
    opened = pd.read_csv(path, sep=separators[Path(path.stem).suffix], dtype=str, header=None, names=list("abcde"))
    pairs = set(zip(opened["a"], opened["c" if is_sessions else "b"], strict=True))
    users, items = {user for user, _ in pairs}, {item for _, item in pairs}
    user_ids, item_ids = data.user_ids.astype(str), data.item_ids.astype(str)
    trained = set(zip(user_ids[data.train.users()], item_ids[data.train.items], strict=True))
    held_out = set(zip(user_ids, item_ids[data.test_items], strict=True))
    assert trained | held_out <= pairs
    assert not trained & held_out
    for user, negatives in zip(user_ids, item_ids[data.test_negatives], strict=True):
        assert not {(user, item) for item in negatives} & (trained | held_out)

    shape = ("--factors", 4, "--layers", "8,8,8,4", "--epochs", 1)
    ncf.succeed("train", "--data", tmp_path / "data", "--out", tmp_path / "run", *shape)
    found = ncf.succeed("evaluate", tmp_path / "run", "--per-user", tmp_path / "ranks.parquet")
    assert found["n_users"] == data.n_users
    assert 0 < found["hit_ratio"] <= 1
    assert pd.read_parquet(tmp_path / "ranks.parquet")["user_id"].astype(str).tolist() == user_ids.tolist()

    user = str(data.user_ids[0])
    lists = ncf.succeed("recommend", tmp_path / "run", "--user", user)["recommendations"]
    recommended = [str(item) for item in lists[0]["item_ids"]]
    assert (str(lists[0]["user_id"]), len(recommended)) == (user, 10)
    assert set(recommended) <= items
    assert not {(user, item) for item in recommended} & trained

    ncf.succeed("export-embeddings", tmp_path / "run", "--out", tmp_path / "vectors")
    ncf.succeed("pack", tmp_path / "run", "--out", tmp_path / "packed")
    exported = {kind: pd.read_parquet(tmp_path / "vectors" / f"gmf_{kind}.parquet") for kind in ("users", "items")}
    assert set(exported["users"].iloc[:, 0].astype(str)) == set(user_ids) <= users
    assert set(exported["items"].iloc[:, 0].astype(str)) == set(item_ids) <= items
    again = ncf.succeed("recommend", tmp_path / "packed", "--data", tmp_path / "data", "--user", user)
    assert [str(item) for item in again["recommendations"][0]["item_ids"]] == recommended


def test_csv_is_what_the_module_writes(tmp_path: Path) -> None:
    with (tmp_path / "r.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
        writer.writerows([HEADER, *base()])
    assert len(read_files([tmp_path / "r.csv"]).ratings) == 1500


ESCAPED = "".join(f'{u},"a \\"quoted\\" text, {i}",{r},{t},{i}\n' for u, i, r, t in base())
NESTED = [{"user": {"id": int(u)}, "item": {"id": int(i), "name": "x"}, "ts": int(t)} for u, i, _, t in base()]
MONGO = [{"user_id": {"$numberLong": u}, "item_id": int(i), "created_at": int(t)} for u, i, _, t in base()]
OF_TWO_TYPES = [
    {"user_id": u if n % 2 else int(u), "item_id": i, "ts": int(t)} for n, (u, i, _, t) in enumerate(base())
]
FOREIGN: dict[str, str] = {
    "decimal commas, as spreadsheets write them": text([[u, i, f"{r},5", t] for u, i, r, t in base()], separator=";"),
    "a first line for Excel": "sep=;\r\n" + text(base(), separator=";"),
    "titles above the header": "Ratings of the shop\nwritten on 2020-09-30\n\n" + text(base()),
    "backslashes as escapes, as Spark writes them": "user_id,name,rating,timestamp,item_id\n" + ESCAPED,
    "a separator behind each row": text(base()).replace("\n", ",\n").replace("timestamp,\n", "timestamp\n"),
    "blank lines at the end": text(base()) + "\n  \n\t\n",
    "the end of a file of DOS": text(base()) + "\x1a",
    "years of two digits": text(dated(base(), "%m/%d/%y %H:%M:%S")),
    "zones": text(dated(base(), "%Y-%m-%dT%H:%M:%S+00:00")),
    "microseconds": text([[*row[:3], row[3] + "000000"] for row in base()]),
    "objects in JSON": "".join(json.dumps(each) + "\n" for each in NESTED),
    "what MongoDB exports": "".join(json.dumps(each) + "\n" for each in MONGO),
    "numbers and strings for ids": "".join(json.dumps(each) + "\n" for each in OF_TWO_TYPES),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_files_are_read_as_they_are(tmp_path: Path, case: str) -> None:
    ratings = read_files([file(tmp_path, FOREIGN[case])]).ratings
    users, items = ratings.user_ids[ratings.users], ratings.item_ids[ratings.items]
    assert list(zip(users.tolist(), items.tolist(), strict=True)) == [(int(u), int(i)) for u, i, *_ in base()]
    unit = 1_000_000 if ratings.times.max() > 10**12 else 1
    assert (ratings.times // unit).astype(int).tolist() == [int(row[3]) for row in base()]


def test_decimal_commas_are_compared(tmp_path: Path) -> None:
    path = file(tmp_path, FOREIGN["decimal commas, as spreadsheets write them"])
    found = read_files([path], ReadOptions(min_rating=3.5))
    assert len(found.ratings) == sum(int(row[2]) >= 3 for row in base())
    bad = file(tmp_path, FOREIGN["decimal commas, as spreadsheets write them"] + "1;2;3,5;soon\n", "bad")
    assert len(read_files([bad], ReadOptions(min_rating=3.5, skip_bad_rows=True)).ratings) == len(found.ratings)


WAYS_OUT: dict[str, tuple[Callable[[Rows], str | bytes], str]] = {
    "one bad row": (
        lambda rows: text(rows) + "1,,3,1600000000\n",
        "line 1502 has no item .* leave it out with skip_bad",
    ),
    "a null of MySQL": (
        lambda rows: text([["\\N" if u == "3" else u, *r] for u, *r in rows]),
        "leave them out with skip",
    ),
    "a null of Excel": (
        lambda rows: text([["#N/A" if u == "3" else u, *r] for u, *r in rows]),
        "leave them out with skip",
    ),
    "hours alone": (
        lambda rows: text(dated(rows, "%H:%M:%S"), header=["user_id", "item_id", "date", "time"]),
        "name another column with time_column=, or say with time_format=",
    ),
    "several spaces": (
        lambda rows: text([[f"{u:>7}", f"{i:>7}", r, t] for u, i, r, t in rows], separator=" "),
        "several spaces between values; make them one, as `tr -s ' '` does",
    ),
    "packed twice": (lambda rows: bz2.compress(bz2.compress(text(rows).encode())), "is packed twice; unpack it once"),
    "UTF-16": (lambda rows: text(rows).encode("utf-16"), "save it as UTF-8, or `iconv -f utf-16 -t utf-8` it"),
    "Latin-1": (
        lambda rows: text([["é" + row[0], *row[1:]] for row in rows]).encode("latin-1"),
        "convert the file, as `iconv -f latin1 -t utf-8` does",
    ),
    "Latin-1 in JSON of mixed types": (
        lambda _: b'{"user_id": 7, "item_id": 1, "ts": 1}\n{"user_id": "a\xe9", "item_id": 2, "ts": 2}\n' * 9,
        "line 2 is not UTF-8 text; convert the file, as `iconv -f latin1",
    ),
    "ARFF": (lambda _: "@RELATION ratings\n@ATTRIBUTE user NUMERIC\n", "is an ARFF file; save the sheet or table"),
    "objects in objects": (lambda _: '{"a": ' * 60_000 + "\n", "in no known format"),
    "an object of lists": (lambda _: json.dumps({"a": 1}, indent=1), "over several lines; write an object a line"),
    "a script of SQL": (lambda _: "INSERT INTO r VALUES (1,2);\n", "script of SQL; load it into its database"),
    "Matrix Market": (lambda _: "%%MatrixMarket matrix\n3 3 1\n1 1 1\n", "is a Matrix Market file; read it with scipy"),
    "a gap in JSON": (
        lambda rows: json_lines(rows) + '{"reviewerID": null, "asin": "B1", "unixReviewTime": 3}\n',
        "row 1501 has no user; correct the rows, or leave such rows out with skip_bad_rows=",
    ),
    "a broken line of JSON": (
        lambda rows: json_lines(rows) + '{"reviewerID": "U1", "as\n',
        "line 1501 is no JSON object",
    ),
}


@pytest.mark.parametrize("case", WAYS_OUT)
def test_a_refusal_names_the_way_out(tmp_path: Path, case: str) -> None:
    make, message = WAYS_OUT[case]
    with pytest.raises(DataError, match=message) as caught:
        read_files([file(tmp_path, make(base()))])
    assert "\n" not in str(caught.value)


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
