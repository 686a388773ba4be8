import gzip
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import pytest

from data_prep.ratings import text_tables
from data_prep.ratings.raw_ratings import Ratings, number_ids
from data_prep.ratings.readers import read_ratings
from ppt_core.errors import DataError

HEADER = "userId,movieId,rating,timestamp\n"
CSV = HEADER + "30,500,3.5,12\n10,400,4,11\n30,400,1,13\n"
TAB = "30\t500\t3\t1000000012\n10\t400\t4\t1000000011\n30\t400\t1\t1000000013\n"
COLONS = TAB.replace("\t", "::")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "ratings"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def write_zip(path: Path, members: Mapping[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def parquet_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def assert_is_the_sample(ratings: Ratings) -> None:
    assert ratings.users.tolist() == [0, 1, 0]
    assert ratings.items.tolist() == [0, 1, 1]
    assert (ratings.times % 1_000_000_000).tolist() == [12, 11, 13]
    assert ratings.user_ids.tolist() == [30, 10]
    assert ratings.item_ids.tolist() == [500, 400]
    codes_and_times = (ratings.users, ratings.items, ratings.times)
    assert [array.dtype.name for array in codes_and_times] == ["int32", "int32", "int64"]
    assert [ids.dtype.name for ids in (ratings.user_ids, ratings.item_ids)] == ["int64", "int64"]


SAMPLES = {
    "csv": CSV.encode(),
    "tab": TAB.encode(),
    "colons": COLONS.encode(),
    "colons with header": b"UserID::MovieID::Rating::Timestamp\n" + COLONS.encode(),
    "parquet": parquet_bytes(pa.table({"user": [30, 10, 30], "item": [500, 400, 400], "time": [12, 11, 13]})),
    "no rating": b"user_id,item_id,timestamp\n30,500,12\n10,400,11\n30,400,13\n",
    "recbole": b"timestamp:float\tuser_id:token\titem_id:token\n12\t30\t500\n11\t10\t400\n13\t30\t400\n",
    "recommenders": b"userID,itemID,rating,timestamp\n" + CSV.split("\n", 1)[1].encode(),
    "upper case": b"UserId,ItemId,Rating,Timestamp\n" + CSV.split("\n", 1)[1].encode(),
    "short names": b"user,item,label,time\n" + CSV.split("\n", 1)[1].encode(),
    "crlf, bom, blank lines and spaces": b"\xef\xbb\xbf\r\n"
    + CSV.replace("\n", "\r\n\r\n").replace(",400", ", 400 ").encode(),
    "quotes": b'"userId","title","movieId","timestamp"\n"30","a, ""b""\nc",500,12\n10,x,400,11\n30,,400,13',
}


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("packing", ["plain", "gzip", "zip", "gzip in zip"])
def test_reads_every_format_whatever_its_name(
    write: Callable[..., Path], tmp_path: Path, sample: str, packing: str
) -> None:
    content = SAMPLES[sample]
    if packing.startswith("gzip"):
        content = gzip.compress(content)
    if packing.endswith("zip") and packing != "gzip":
        path = write_zip(tmp_path / "ratings", {"data": content})
    else:
        path = write(content)
    assert_is_the_sample(read_ratings(path))


@pytest.mark.parametrize("name", ["ratings.csv", "ratings.dat", "u.data"])
def test_finds_the_movielens_member_of_a_zip(tmp_path: Path, name: str) -> None:
    members = {
        f"ml/{name}": CSV,
        "ml/README.txt": "read me",
        "ml/movies.csv": "movieId\n",
        "__MACOSX/ml/._ratings.csv": "x",
    }
    assert_is_the_sample(read_ratings(write_zip(tmp_path / "ml.zip", members)))


def test_what_macos_adds_to_a_zip_is_no_candidate(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.csv": CSV, "__MACOSX/._a.csv": "x", ".hidden.csv": "x", "d/": ""})
    assert_is_the_sample(read_ratings(path))


def test_quoted_line_breaks_may_cross_blocks(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_tables, "_BLOCK_BYTES", 2000)
    text = "two\nlines\n" * 20
    path = write("user,item,note,time\n" + f'1,2,"{text}",3\n' * 100)
    assert len(read_ratings(path)) == 100


def test_large_integers_are_kept(write: Callable[..., Path]) -> None:
    ratings = read_ratings(write("user,item,time\n9223372036854775807,-5000000000,1\n"))
    assert ratings.user_ids.tolist() == [2**63 - 1]
    assert ratings.item_ids.tolist() == [-5_000_000_000]
    assert ratings.user_ids.dtype == np.int64


@pytest.mark.parametrize("ids", [["9223372036854775808", "1"], ["007", "7"], ["u1", "2"], ["1.0", "1.5"], ["é", "e"]])
def test_ids_that_are_not_all_integers_stay_strings(write: Callable[..., Path], ids: list[str]) -> None:
    ratings = read_ratings(write(f"user,item,time\n{ids[0]},1,1\n{ids[1]},1,1\n"))
    assert ratings.user_ids.tolist() == ids
    assert ratings.user_ids.dtype == object
    assert all(type(value) is str for value in ratings.user_ids)
    assert ratings.item_ids.dtype == np.int64


def test_times_may_be_decimal_after_many_integers(write: Callable[..., Path]) -> None:
    ratings = read_ratings(write("1\t1\t1\t1000000005\n" * 1000 + "1\t1\t1\t1000000005.5\n2\t1\t1\t1e9\n"))
    assert ratings.times.dtype == np.float64
    assert ratings.times[-3:].tolist() == [1_000_000_005, 1_000_000_005.5, 1e9]


def test_codes_follow_first_appearance_across_blocks(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_tables, "_BLOCK_BYTES", 2000)
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 300, 5000), rng.integers(0, 2**40, 5000)
    lines = [f"{user},{item},{time}" for time, (user, item) in enumerate(zip(users, items, strict=True))]
    ratings = read_ratings(write("user,item,time\n" + "\n".join(lines)))
    expected = Ratings.from_ids(users, items, np.arange(5000))
    for name in ("users", "items", "times", "user_ids", "item_ids"):
        np.testing.assert_array_equal(getattr(ratings, name), getattr(expected, name))


@pytest.mark.parametrize(
    ("users", "expected"),
    [
        (pa.array(["b", "a"]).dictionary_encode(), ["b", "a"]),
        (pa.DictionaryArray.from_arrays(pa.array([1, 0]), pa.array(["x", "y"])), ["y", "x"]),
        (pa.array(["2", "1"], pa.large_string()), [2, 1]),
        (pa.array([2.0, 1.0]), [2, 1]),
        (pa.array([2, 1], pa.uint8()), [2, 1]),
        (pa.array([2**63, 1], pa.uint64()), [str(2**63), "1"]),
    ],
)
def test_parquet_ids(write: Callable[..., Path], users: Any, expected: list[Any]) -> None:
    ratings = read_ratings(write(parquet_bytes(pa.table({"userId": users, "item": [1, 1], "time": [1, 2]}))))
    assert ratings.users.tolist() == [0, 1]
    assert ratings.user_ids.tolist() == expected


@pytest.mark.parametrize(
    "times",
    [
        pa.array(pd.to_datetime(["1970-01-02", "1970-01-05"])),
        pa.array([1, 4], pa.date32()),
        pa.array([1.5, 6.0]),
        pa.array([1, 4], pa.decimal128(5, 1)),
    ],
)
def test_parquet_times(write: Callable[..., Path], times: Any) -> None:
    ratings = read_ratings(write(parquet_bytes(pa.table({"user": [1, 1], "item": [1, 1], "time": times}))))
    assert ratings.times[1] == 4 * ratings.times[0]
    assert ratings.times.dtype in (np.int64, np.float64)


TEXT_ERRORS: dict[str, tuple[str | bytes, str]] = {
    "empty": (b"", "is empty"),
    "blank": (b"\n\n", "is empty"),
    "empty gzip": (gzip.compress(b""), "is empty"),
    "header only": (HEADER, "has a header line and no ratings"),
    "short line": (CSV + "1,2,3\n", "line 5 has 3 values where 4 are needed"),
    "long line": (TAB + "1\t2\t3\t4\t5\n", "line 4 has 5 values where 4 are needed"),
    "short colon line": (COLONS + "1::2::3\n", "line 4 has 3 values where 4 are needed"),
    "something between the colons": (COLONS + "1:x:2::3::4\n", "line 4 has 3 values where 4 are needed"),
    "text for a time": (CSV + "1,2,3,soon\n", "line 5 has 'soon' where the time should be a finite number"),
    "a date among numbers": (
        CSV + "1,2,3,2015-01-01\n",
        "line 5 has '2015-01-01' where the time .*since 1970",
    ),
    "nan": (CSV + "1,2,3,nan\n", "line 5 has no time \\(found 'nan'\\)"),
    "infinite": (CSV + "1,2,3,inf\n", "line 5 has 'inf' where the time should be a finite number"),
    "overflow": (CSV + "1,2,3,1e999\n", "line 5 has '1e999' where the time should be a finite number"),
    "no time": (CSV + "\n1,2,3,\n", "line 6 has no time \\(found ''\\)"),
    "no user": (CSV + " ,2,3,4\n", "line 5 has no user \\(found ''\\)"),
    "null item": (CSV + "1,NULL,3,4\n", "line 5 has no item \\(found 'NULL'\\)"),
    "missing column": (
        "userId,rating,timestamp\n1,2,3\n",
        "no item column .*'userId, rating, timestamp'.*item_column=, or number it from 1",
    ),
    "two user columns": (
        "user,user_id,item,time\n1,1,1,1\n",
        "more than one user column \\(user and user_id\\)",
    ),
    "csv without header": ("1,2,3,4\n", "first line names no user and item column \\('1,2,3,4'\\)"),
    "three tab values": ("1\t2\t3\n", "four values user, item, rating, timestamp"),
    "latin-1": (CSV.encode() + b"Jos\xe9,2,3,4\n", "line 5 is not UTF-8 text"),
    "latin-1 header": (b"user,item,time,\xe9t\xe9\n1,1,1,1\n", "line 1 is not UTF-8 text"),
    "utf-16": (CSV.encode("utf-16"), "UTF-16 text, not UTF-8"),
    "json array": ('[{"user": 1, "item": 2}]', "is one JSON array; write an object a line"),
    "json": ('{"user": 1, "item": \n', "in no known format: it begins with .*user.*accepted: tab-separated"),
    "web page": ("<!DOCTYPE html>\n", "is a web page; fetch the file itself"),
    "binary": (bytes(range(100)), "in no known format"),
    "words": ("hello world\n", "in no known format"),
    "truncated gzip": (gzip.compress(os.urandom(5000))[:-2000], "truncated or damaged"),
    "truncated gzip csv": (gzip.compress((CSV * 9999).encode(), 0)[:-100_000], "truncated or damaged"),
    "changed gzip": (gzip.compress(CSV.encode(), 0).replace(b"500", b"501"), "truncated or damaged .*CRC"),
    "truncated parquet": (SAMPLES["parquet"][:-20], "truncated or damaged parquet file"),
    "truncated zip": (b"PK\x03\x04" + bytes(50), "truncated or damaged zip archive"),
    "a value without end": (
        "user,item,time\n" + "1" * 200_000 + ",1\n",
        "line 2 cannot be split into values",
    ),
    "zip without files": (b"PK\x05\x06" + bytes(18), "zip archive without files"),
}


@pytest.mark.parametrize("case", TEXT_ERRORS)
def test_bad_files_are_refused_in_one_line(write: Callable[..., Path], case: str) -> None:
    content, message = TEXT_ERRORS[case]
    path = write(content)
    with pytest.raises(DataError, match=message) as caught:
        read_ratings(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


PARQUET_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "null": ({"user": [1, None, None]}, "row 2 has no user, like 1 more"),
    "nan time": ({"time": [1.0, 2.0, float("nan")]}, "row 3 has no time"),
    "text time": ({"time": ["noon", "1", "2"]}, "time column holds string \\(first value 'noon' that is no date"),
    "huge time": ({"time": pa.array([2**64 - 1, 1, 1], pa.uint64())}, "a time is too large"),
    "empty id": ({"item": ["a", " ", "b"]}, "row 2 has no item"),
    "text of a missing id": ({"user": ["a", "nan", "None"]}, "row 2 has no user .*, like 1 more"),
    "ids in lists": ({"item": [["a"], ["b"], []]}, "the item column holds list<.*>; ids must be integers or strings"),
    "fractional id": ({"item": [1.0, 1.5, 2.0]}, "the item ids are numbers, and not all are integers"),
    "truth ids": ({"user": [True, False, True]}, "the user column holds bool"),
    "other names": ({"user": None, "item": None, "time": None, "a": [1]}, "its columns: 'a'"),
    "no rows": ({"user": pa.array([], pa.int64()), "item": [], "time": []}, "columns and no ratings"),
}


@pytest.mark.parametrize("case", PARQUET_ERRORS)
def test_bad_parquet_is_refused_in_one_line(write: Callable[..., Path], case: str) -> None:
    changes, message = PARQUET_ERRORS[case]
    columns = {"user": [1, 2, 3], "item": [1, 2, 3], "time": [1, 2, 3]} | changes
    table = pa.table({name: column for name, column in columns.items() if column is not None})
    with pytest.raises(DataError, match=message) as caught:
        read_ratings(write(parquet_bytes(table)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/tmp/ratings.csv", "ml/../../ratings.csv", "C:\\ratings.csv", "..\\ratings.csv"])
def test_a_zip_with_an_unsafe_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="unsafe name"):
        read_ratings(write_zip(tmp_path / "ml.zip", {"ratings.csv": CSV, name: CSV}))


def test_an_ambiguous_zip_names_the_candidates(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.csv": CSV, "b.tsv.gz": CSV, "readme.txt": "", "c.png": ""})
    with pytest.raises(DataError, match=r"2 files that could be the ratings \(a\.csv, b\.tsv\.gz\)"):
        read_ratings(path)


def test_a_damaged_zip_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ml.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ratings.csv", CSV)
    path.write_bytes(path.read_bytes().replace(b"30,500", b"30,501"))
    with pytest.raises(DataError, match=r"truncated or damaged .*CRC"):
        read_ratings(path)


def test_paths_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_ratings(tmp_path / "nothing")
    with pytest.raises(DataError, match="is a folder"):
        read_ratings(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        read_ratings(tmp_path / "pipe")


def test_ratings_refuses_what_it_cannot_be() -> None:
    one = np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="equally long"):
        Ratings(users=one, items=one, times=np.zeros(2), user_ids=one, item_ids=one)
    with pytest.raises(ValueError, match="finite"):
        Ratings.from_ids(one, one, np.array([np.nan]))


def test_number_ids_counts_first_appearances() -> None:
    codes, ids = number_ids(np.array(["b", "a", "b"]))
    assert codes.tolist() == [0, 1, 0]
    assert ids.tolist() == ["b", "a"]
    assert [codes.dtype.name, ids.dtype.name] == ["int32", "object"]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("ml-100k/u.data.gz", (100_000, 943, 1_682)),
        ("ml-1m/ratings.dat.gz", (1_000_209, 6_040, 3_706)),
    ],
)
def test_movielens_counts(name: str, counts: tuple[int, int, int]) -> None:
    folder = os.environ.get("PPT_TEST_DATA")
    if not folder:
        pytest.skip("PPT_TEST_DATA is not set: no real data")
    ratings = read_ratings(Path(folder) / name)
    assert (len(ratings), len(ratings.user_ids), len(ratings.item_ids)) == counts


@pytest.mark.parametrize("name", ["csv", "tab", "colons", "csv.gz", "json lines"])
def test_no_thread_of_arrows_holds_a_small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Such a thread may outlive a failed command, let go of Python's stream while the interpreter ends, and abort."""
    seen: list[tuple[bool, bool]] = []

    def watched(read: Callable[..., pa.Table]) -> Callable[..., pa.Table]:
        def recorded(stream: Any, *args: Any, **options: Any) -> pa.Table:
            seen.append((isinstance(stream, pa.OSFile), options["read_options"].use_threads))
            return read(stream, *args, **options)

        return recorded

    monkeypatch.setattr(pyarrow.csv, "read_csv", watched(pyarrow.csv.read_csv))
    monkeypatch.setattr(pyarrow.json, "read_json", watched(pyarrow.json.read_json))
    lines: dict[str, str | bytes] = {"csv": CSV, "tab": TAB, "colons": COLONS, "csv.gz": gzip.compress(CSV.encode())}
    content = lines.get(name, '{"user_id": 3, "item_id": 5, "timestamp": 1000000012}\n')
    path = tmp_path / "ratings"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    read_ratings(path)
    assert seen
    assert not any(threads for _, threads in seen)
    if name in ("csv", "tab", "colons"):
        assert all(is_arrows_own for is_arrows_own, _ in seen)


@pytest.mark.slow
def test_a_command_that_fails_on_a_tiny_file_ends_by_itself(tmp_path: Path) -> None:
    """With Python's stream in a thread of Arrow's, 2 of 100 such commands on one core ended by SIGABRT."""
    path = tmp_path / "one.csv"
    path.write_text(CSV)
    cores = sorted(os.sched_getaffinity(0))[:1]
    command = [sys.executable, "-c", "from cli import main; main()", "prepare", str(path), "--min-ratings", "1"]
    for _ in range(60):
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "out")],
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr


def test_what_a_file_may_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / "long.csv.gz"
    with gzip.open(long, "wb", compresslevel=1) as stream:
        stream.write(CSV.encode() + b"7," + b"x" * (1 << 24) + b",1,1\n")
    with pytest.raises(DataError, match=r"line 5 has more than 8,388,608 characters; this is no table"):
        read_ratings(long)
    table = pa.table({"user_id": [1, 1, 2], "item_id": [2, 3, 2]})
    packed = tmp_path / "r.parquet.gz"
    packed.write_bytes(gzip.compress(parquet_bytes(table)))
    assert len(read_ratings(packed)) == 3
    monkeypatch.setattr("data_prep.ratings.archives._UNPACKED_BYTES", 100)
    packed.write_bytes(gzip.compress(parquet_bytes(table) + bytes(1 << 20)))
    with pytest.raises(DataError, match=r"unpacks to more than \S+ bytes and more than 100 times its size; unpack it"):
        read_ratings(packed)
