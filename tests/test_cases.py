"""Text files as people have them: each is read as it is or refused with the option that decides, never misread."""

import bz2
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cli import main
from data_prep.ratings.columns import ReadOptions
from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.readers import read_files
from ppt_core.errors import DataError
from tests.command_line import CommandLine
from tests.ratings_files import HEADER, Rows, base, dated, file, json_lines, pick, plays, quoted, text

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
