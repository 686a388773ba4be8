"""What `prepare` decides, and says: positives, times, splits and whom it leaves out."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cli import main
from data_prep.ratings.any_source import prepare_source
from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.own_split import read_negatives
from data_prep.ratings.remarks import warnings_of
from ppt_core.errors import DataError, DataWarning
from tests.command_line import CommandLine
from tests.ratings_files import HEADER, Rows, base, file, pick, prepared, text


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
