"""Lists of ids, pairs and titles in the files that people have."""

import bz2
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ncf_ppt.side_files import Entries, read_ids, read_pairs, read_titles
from ppt_core.errors import DataError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("3\n\n 1 \n3\n", ["3", "1"]),
        ("\ufeffa,b\nc\r\n", ["a,b", "c"]),  # one id a line, commas and all
        ("user_id\n7\n8\n", ["7", "8"]),
        ("age,User ID\n30,7\n31,8\n", ["7", "8"]),
        ('userId,country\n"a,b",x\n', ["a,b"]),
        ("rank\tuser_id:token\n1\tx\n", ["x"]),
        ('{"user_id": 7, "rank": 1}\n{"user_id": 9}\n', [7, 9]),
        ('{"user": {"id": "b"}}\n{"user": {"id": "a"}}\n', ["b", "a"]),
        ("{00-7}\n{00-8}\n", ["{00-7}", "{00-8}"]),  # as Microsoft writes a UUID
        (bz2.compress(b"user_id\n7\n"), ["7"]),
    ],
)
def test_a_list_of_users(tmp_path: Path, content: str | bytes, expected: list[object]) -> None:
    entries = read_ids(write(tmp_path, "users.txt", content), "user")
    assert list(entries.values) == expected


def test_parquet_of_any_integers_and_strings(tmp_path: Path) -> None:
    table = pa.table({"item_id": pa.array([4, 2, 4], pa.int32()), "score": [0.1, 0.2, 0.3]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_ids(tmp_path / "a.parquet", "item").values == (4, 2)
    pq.write_table(pa.table({"movieId": pa.array([4.0, 2.0])}), tmp_path / "b.parquet")
    assert read_ids(tmp_path / "b.parquet", "item").values == (4, 2)
    pq.write_table(pa.table({"item": pa.array(["x", "y"]).dictionary_encode()}), tmp_path / "c.parquet")
    assert read_ids(tmp_path / "c.parquet", "item").values == ("x", "y")
    people = pa.array([b"\x00" * 15 + b"\x07"], pa.binary(16))  # an id is what `prepare` makes of it
    pq.write_table(pa.table({"user_id": people}), tmp_path / "d.parquet")
    assert read_ids(tmp_path / "d.parquet", "user").values == ("00000000-0000-0000-0000-000000000007",)


def test_places_are_named(tmp_path: Path) -> None:
    entries = read_ids(write(tmp_path, "users.csv", "user\n\n5\n5\n6\n"), "user")
    assert entries.values == ("5", "6")
    assert entries.where(1) == f" ({tmp_path / 'users.csv'}, line 5)"
    assert Entries(values=(1,)).where(0) == ""


@pytest.mark.parametrize(
    "content",
    [
        "user_id,item_id\n1,5\n2,6\n",
        "item,rating,user\n5,1,1\n6,1,2\n",
        "1\t5\n2\t6\n",
        "1::5::3\n2::6::3\n",
        "1 5\n2  6\n",
        '{"user_id": "1", "item_id": "5"}\n{"item_id": "6", "user_id": "2"}',
    ],
)
def test_pairs(tmp_path: Path, content: str) -> None:
    users, items = read_pairs(write(tmp_path, "pairs.txt", content))
    assert (users.values, items.values) == (("1", "2"), ("5", "6"))


@pytest.mark.parametrize(
    "content",
    [
        "1|Toy Story (1995)|01-Jan-1995||http://x|0\n2|Les Misérables|x||y|1\n".encode("latin-1"),
        "1::Toy Story (1995)::Animation|Comedy\n2::Les Misérables::Drama\n".encode("latin-1"),
        "movieId,title,genres\n1,Toy Story (1995),Animation\n2,Les Misérables,Drama\n".encode(),
        "1\tToy Story (1995)\n2\tLes Misérables\n".encode(),
    ],
)
def test_titles(tmp_path: Path, content: bytes) -> None:
    titles = read_titles(write(tmp_path, "u.item", content))
    assert titles == {"1": "Toy Story (1995)", "2": "Les Misérables"}
    assert read_titles(write(tmp_path, "u.item.gz", gzip.compress(content))) == titles
    assert read_titles({1: "a"}) == {"1": "a"}


def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    cases: list[tuple[str | bytes, str]] = [
        ("", "is empty"),
        ("\n \n", "holds no user; give one a line, or a column user_id"),
        (b"caf\xe9\n", "is not UTF-8 text; convert the file"),
        ("user,user_id\n1,2\n", "more than one column for the user"),
        ("age,user\n3\n", r"line 2 has no user \('3'\)"),
        ('{"user_id": 3}\n{nothing}\n', "line 2 is no JSON object"),
        (json.dumps({"id": 3}), "no column for the user"),
        (b"PAR1junk", "damaged parquet"),
        (gzip.compress(b"1")[:-4], "is truncated or damaged"),
    ]
    for content, message in cases:
        with pytest.raises(DataError, match=message) as caught:
            read_ids(write(tmp_path, "x", content), "user")
        assert "\n" not in str(caught.value)
    pq.write_table(pa.table({"id": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"no column for the user \(its columns: 'id'\)"):
        read_ids(tmp_path / "x.parquet", "user")
    with pytest.raises(DataError, match=r"line 2 has no user and item \('3'\)"):
        read_pairs(write(tmp_path, "p", "1,2\n3\n"))
    with pytest.raises(DataError, match="does not exist"):
        read_titles(tmp_path / "none")


def test_an_id_beyond_64_bits_is_text(tmp_path: Path) -> None:
    """As it is in text files: among numbers that Arrow holds, it makes strings of all."""
    lines = [*(f'{{"user": {user}, "item": 1}}' for user in range(12)), f'{{"user": 3, "item": {10**33}}}']
    users, items = read_pairs(write(tmp_path, "pairs.jsonl", "\n".join(lines)))
    assert users.values[-1] == 3
    assert items.values[-2:] == ("1", str(10**33))
