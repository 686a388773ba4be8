import gzip
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.ratings import sources
from data_prep.ratings.any_source import prepare_source, sample
from data_prep.ratings.download import KnownDataset
from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.leave_one_out import leave_one_out
from data_prep.ratings.prepare import TIE_RULE, prepare
from data_prep.ratings.raw_ratings import Ratings
from data_prep.ratings.readers import read_ratings
from ncf_ppt.ranking import rank_test_items
from ppt_core.errors import DataError
from ppt_core.runs.files import file_sha256
from tests import reference

# Users b and a, then items x, z, y, w and v, are numbered in this order. b: z comes last by time. a: w and v are tied,
# and v stands later in the file; x occurs twice, and counts at its later time. c has too few ratings, and q is its own.
ROWS = [
    ("b", "x", 10),
    ("a", "x", 5),
    ("b", "z", 30),
    ("a", "w", 40),
    ("c", "q", 99),
    ("a", "y", 20),
    ("b", "y", 20),
    ("a", "x", 25),
    ("a", "v", 40),
]
CSV = "user,item,time\n" + "".join(f"{user},{item},{time}\n" for user, item, time in ROWS)
MAKES: dict[str, Any] = {"min_ratings": 3, "n_negatives": 1}
OPTIONS: dict[str, Any] = {"min_ratings": 3, "n_negatives": 1, "progress": False}


def ratings(rows: Sequence[tuple[Any, Any, float]]) -> Ratings:
    users, items, times = zip(*rows, strict=True)

    def ids(values: tuple[Any, ...]) -> Any:
        return np.array(values, None if isinstance(values[0], int) else object)

    return Ratings.from_ids(ids(users), ids(items), np.array(times))


def split_of(data: PreparedData) -> dict[Any, tuple[set[Any], Any]]:
    return {
        user: (set(data.item_ids[data.train.items_of(row)].tolist()), data.item_ids[data.test_items[row]])
        for row, user in enumerate(data.user_ids.tolist())
    }


def histories_of(data: PreparedData) -> dict[Any, list[Any]]:
    assert data.history is not None
    histories = np.split(data.item_ids[data.history], data.train.offsets[1:-1])
    return {user: items.tolist() for user, items in zip(data.user_ids.tolist(), histories, strict=True)}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def real_data() -> Path:
    folder = os.environ.get("PPT_TEST_DATA")
    if not folder:
        pytest.skip("PPT_TEST_DATA is not set: no real data")
    return Path(folder)


class TestLeaveOneOut:
    def test_a_small_table(self) -> None:
        data = prepare(ratings(ROWS), **MAKES, source={"name": "rows"})
        assert data.user_ids.tolist() == ["b", "a"]
        assert data.item_ids.tolist() == ["x", "z", "w", "y", "v"]
        assert split_of(data) == {"b": ({"x", "y"}, "z"), "a": ({"x", "w", "y"}, "v")}
        assert data.train.offsets.tolist() == [0, 2, 5]
        assert data.train.items.tolist() == [0, 3, 0, 2, 3]
        assert histories_of(data) == {"b": ["x", "y"], "a": ["y", "x", "w"]}
        assert data.test_items.tolist() == [1, 4]
        assert data.test_negatives[0, 0] in (2, 4)
        assert data.test_negatives.tolist()[1] == [1]
        assert data.protocol == "strict"
        assert data.manifest == {
            "source": {"name": "rows", "n_rows": 9},
            "min_ratings": 3,
            "seed": 0,
            "tie_rule": TIE_RULE,
            "n_tied_users": 1,
            "users_dropped": {"below_min_ratings": 1, "one_item_only": 0},
            "rows_dropped": {"below_min_ratings": 1, "one_item_only": 0, "duplicates": 1},
            "n_items_dropped": 1,
            "n_unseen_held_out": 2,
        }

    @pytest.mark.parametrize(
        ("rows", "train", "held_out", "n_tied"),
        [
            ([("p", 3), ("q", 2), ("r", 1)], {"q", "r"}, "p", 0),
            ([("p", 1), ("q", 1), ("r", 1)], {"p", "q"}, "r", 1),
            ([("p", 1), ("q", 2), ("p", 2)], {"q"}, "p", 1),  # the later row of p is the last of two tied ones
            ([("p", 2), ("q", 2), ("p", 1)], {"p"}, "q", 1),  # and here it is the earlier one
            ([("p", 5), ("q", 2), ("p", 5)], {"q"}, "p", 0),  # tied with itself alone
            ([("p", -0.5), ("q", -0.25), ("r", -1e300)], {"p", "r"}, "q", 0),
            ([("p", 2**62), ("q", 2**62 + 1), ("r", 0)], {"p", "r"}, "q", 0),  # float64 could not tell them apart
        ],
    )
    def test_time_then_file_order(
        self, rows: list[tuple[str, float]], train: set[str], held_out: str, n_tied: int
    ) -> None:
        others = [("other", item, 0) for item in ("s", "t", "u")]
        data = prepare(ratings([*(("me", *row) for row in rows), *others]), **MAKES, source={})
        assert split_of(data)["me"] == (train, held_out)
        assert data.manifest["n_tied_users"] == n_tied + 1  # the other user's three rows have one time

    def test_users_below_min_ratings_take_their_items_with_them(self) -> None:
        rows = [("few", "gone", 1), ("few", "x", 1), ("me", "x", 1), ("me", "y", 2), ("me", "z", 3)]
        rows += [("you", "w", 1), ("you", "w", 2), ("you", "v", 3), ("one", "x", 1), ("one", "x", 2), ("one", "x", 3)]
        data = prepare(ratings(rows), **MAKES, source={})
        assert data.user_ids.tolist() == ["me", "you"]  # repetitions count towards the least number of ratings
        assert data.item_ids.tolist() == ["x", "y", "z", "w", "v"]
        assert data.manifest["users_dropped"] == {"below_min_ratings": 1, "one_item_only": 1}
        assert data.manifest["rows_dropped"] == {"below_min_ratings": 2, "one_item_only": 3, "duplicates": 1}
        assert data.manifest["n_items_dropped"] == 1

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 3)), max_size=40),
        st.integers(1, 4),
        st.sampled_from(["strict", "mlperf"]),
    )
    def test_against_pandas(self, rows: list[tuple[int, int, int]], min_ratings: int, protocol: Any) -> None:
        # Two users that are always kept, and leave everybody an item that is free.
        rows = [(9, 90 + n, 0) for n in range(4)] + rows + [(8, 80 + n, 3 - n) for n in range(4)]
        table = pd.DataFrame(rows, columns=["user", "item", "time"])
        expected = reference.leave_one_out(table, min_ratings)
        data = prepare(ratings(rows), min_ratings=min_ratings, n_negatives=4, protocol=protocol, source={})
        assert split_of(data) == {user: (set(train), last) for user, (train, last, _) in expected.items()}
        assert histories_of(data) == {user: train for user, (train, *_) in expected.items()}
        if min(len(train) for train, *_ in expected.values()) > 1:
            shorter = prepare(
                ratings(rows), min_ratings=min_ratings, n_negatives=4, protocol=protocol, validation=True, source={}
            )
            assert histories_of(shorter) == {user: train[:-1] for user, (train, *_) in expected.items()}
        kept = table[table["user"].isin(list(expected))]
        assert data.user_ids.tolist() == kept["user"].unique().tolist()
        assert data.item_ids.tolist() == kept["item"].unique().tolist()
        manifest = data.manifest
        assert manifest["n_tied_users"] == sum(tied for *_, tied in expected.values())
        counts = table["user"].value_counts()
        dropped = counts.drop(list(expected))
        assert manifest["users_dropped"]["below_min_ratings"] == (dropped < min_ratings).sum()
        assert manifest["rows_dropped"]["below_min_ratings"] == dropped[dropped < min_ratings].sum()
        assert sum(manifest["users_dropped"].values()) == len(dropped)
        assert sum(manifest["rows_dropped"].values()) + len(data.train) + data.n_users == len(rows)
        assert manifest["n_items_dropped"] == table["item"].nunique() - data.n_items

    def test_seed_and_protocol_decide_the_negatives_alone(self) -> None:
        rows = [(user, (user + n) % 40, n) for user in range(20) for n in range(5)]
        arguments: dict[str, Any] = {"min_ratings": 1, "n_negatives": 15, "source": {}}
        base, other, mlperf = (
            prepare(ratings(rows), **arguments, **changes) for changes in ({}, {"seed": 1}, {"protocol": "mlperf"})
        )
        assert split_of(base) == split_of(other) == split_of(mlperf)
        assert base.test_negatives.tolist() != other.test_negatives.tolist()
        assert mlperf.protocol_label == "leave-one-out, 15 negatives, mlperf"

    def test_ids_beyond_32_bits(self) -> None:
        rows = [(2**40 + user, 2**50 + user + n, n) for user in range(2) for n in range(3)]
        data = prepare(ratings(rows), **MAKES, source={})
        assert split_of(data) == {2**40 + user: ({2**50 + user, 2**50 + user + 1}, 2**50 + user + 2) for user in (0, 1)}

    @pytest.mark.parametrize(
        ("rows", "arguments", "message"),
        [
            (
                ROWS,
                {"min_ratings": 6},
                r"at least 6 ratings \(the most is 5\); set min_ratings to at most 5",
            ),
            ([(1, 1, 1), (2, 1, 1)], {}, "no user has at least 20 ratings .* prepare data with more ratings a user"),
            ([(1, 1, 1), (1, 1, 2)], {"min_ratings": 2}, "rated one item only, so there is nothing to hold out"),
            (
                ROWS,
                {"min_ratings": 3, "n_negatives": 2},
                "user a has 1 of 5 items left .* n_negatives to at most 1",
            ),
            (ROWS, {"min_ratings": 5, "n_negatives": 1}, r"user a rated all 4 items, .* such users \(1 here\) out"),
            (ROWS, {"min_ratings": 5, "n_negatives": 1, "protocol": "mlperf"}, "user a rated all 4 items"),
            (ROWS, {"min_ratings": 0}, "min_ratings is 0; it must be at least 1"),
            (ROWS, {"min_ratings": 3, "n_negatives": 0}, "n_negatives is 0; it must be at least 1"),
            (ROWS, {"min_ratings": 3, "seed": -1, "n_negatives": 1}, "seed is -1; it must be between"),
            (ROWS, {"min_ratings": 3, "protocol": "published", "n_negatives": 1}, "protocol is 'published'"),
        ],
    )
    def test_what_cannot_be_prepared_is_refused_in_one_line(
        self, rows: list[tuple[Any, Any, float]], arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            prepare(ratings(rows), **arguments, source={})
        assert "\n" not in str(caught.value)


class TestSources:
    @pytest.mark.parametrize("name", ["r.csv", "r.csv.gz", "r.tsv", "u.data", "r.dat", "r.parquet"])
    def test_ratings_files(self, tmp_path: Path, name: str) -> None:
        file = tmp_path / name
        if name == "r.parquet":
            columns = dict(zip(("user", "item", "time"), map(list, zip(*ROWS, strict=True)), strict=True))
            pq.write_table(pa.table(columns), file)
        else:
            body = CSV
            if name in ("u.data", "r.dat"):
                lines = [f"{user},{item},5,{10**9 + time}" for user, item, time in ROWS]
                body = "\n".join(lines).replace(",", "::" if name == "r.dat" else "\t")
            elif name == "r.tsv":
                body = CSV.replace(",", "\t")
            file.write_bytes(gzip.compress(body.encode()) if name.endswith(".gz") else body.encode())
        data = prepare_source(str(file), tmp_path / "out", **OPTIONS)
        loaded = PreparedData.load(tmp_path / "out")
        assert split_of(loaded) == split_of(data) == split_of(prepare(ratings(ROWS), **MAKES, source={}))
        expected = {"name": name, "file": name, "sha256": file_sha256(file), "n_rows": 9}
        assert loaded.manifest["source"] == expected
        assert loaded.manifest["n_negatives"] == 1
        assert loaded.manifest["protocol"] == "strict"
        assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()

    def test_synthetic(self, tmp_path: Path) -> None:
        prepare_source(
            "synthetic",
            tmp_path / "out",
            n_users=30,
            n_items=90,
            n_interactions=800,
            in_order=0.5,
            n_negatives=9,
            seed=4,
            protocol="mlperf",
        )
        data = PreparedData.load(tmp_path / "out")
        assert (data.n_users, data.n_items, len(data.train)) == (30, 90, 770)
        assert data.manifest["source"] == {
            "name": "synthetic",
            "n_users": 30,
            "n_items": 90,
            "n_interactions": 800,
            "in_order": 0.5,
            "seed": 4,
            "n_rows": 800,
        }
        assert (data.protocol, data.manifest["seed"]) == ("mlperf", 4)

    def test_the_built_in_sample_is_what_synthetic_prepares_by_default(self, tmp_path: Path) -> None:
        data = prepare_source("synthetic", tmp_path / "out")
        built_in = sample()
        assert (data.n_users, data.n_items, len(data.train)) == (1_000, 2_000, 79_000)
        assert data.protocol_label == "leave-one-out, 999 negatives, strict"
        np.testing.assert_array_equal(data.train.items, built_in.train.items)
        np.testing.assert_array_equal(data.test_negatives, built_in.test_negatives)
        popularity = np.bincount(data.train.items, minlength=data.n_items).astype(np.float32)
        hit_ratio = rank_test_items(lambda users, candidates: popularity[candidates], data).hit_ratio()
        assert reference.above_chance(hit_ratio * 1_000, 1_000, reference.guessed_hit_ratio(999))

    @pytest.mark.filterwarnings("ignore:copy.csv holds")
    def test_a_copy_of_a_known_data_set(self, tmp_path: Path) -> None:
        copy = tmp_path / "copy.csv"
        copy.write_text(CSV)
        prepare_source("ml-1m", tmp_path / "out", source_file=copy, **OPTIONS)
        manifest = PreparedData.load(tmp_path / "out").manifest
        expected = {"name": "ml-1m", "file": "copy.csv", "sha256": file_sha256(copy), "is_official": False, "n_rows": 9}
        assert manifest["source"] == expected

    def test_a_known_data_set_in_the_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "ml-1m.zip").write_text(CSV)
        digest = file_sha256(tmp_path / "ml-1m.zip")
        known = {"ml-1m": KnownDataset(name="ml-1m", sha256=digest, urls=())}
        monkeypatch.setattr(sources, "KNOWN_DATASETS", known)
        data = prepare_source("ml-1m", tmp_path / "out", cache=tmp_path, **OPTIONS)
        assert data.manifest["source"]["is_official"] is True
        assert data.n_users == 2

    def test_the_ncf_authors_files(self, tmp_path: Path) -> None:
        (tmp_path / "x.train.rating").write_text("0\t1\t1\t1\n1\t0\t1\t1\n")
        (tmp_path / "x.test.rating").write_text("0\t3\t5\t20\n1\t4\t5\t21\n")
        (tmp_path / "x.test.negative").write_text("(0,3)\t6\t0\n(1,4)\t5\t4\n")
        prepare_source(str(tmp_path / "x.train.rating"), tmp_path / "out")
        data = PreparedData.load(tmp_path / "out")
        assert split_of(data) == {0: ({1}, 3), 1: ({0}, 4)}
        assert data.test_negatives.tolist() == [[0, 6], [4, 5]]
        assert data.protocol_label == "leave-one-out, 2 negatives, published"
        options: list[dict[str, Any]] = [{"n_negatives": 99}, {"protocol": "mlperf"}, {"min_ratings": 1}, {"seed": 1}]
        for option in options:
            with pytest.raises(DataError, match="comes with its own split and negatives; leave out min_ratings"):
                prepare_source(str(tmp_path / "x.train.rating"), tmp_path / "other", **option)

    @pytest.mark.parametrize(
        ("source", "options", "message"),
        [
            ("ml-2m", {}, r"'ml-2m' is neither a file nor a known data set; known: ml-100k, .*, synthetic$"),
            ("{tmp}/none", {}, "is a folder that holds no file of ratings"),
            ("{tmp}/r.csv", {"n_users": 3}, "n_users, n_items, n_interactions, in_order are for `synthetic` only"),
            ("{tmp}/r.csv", {"source_file": Path("copy")}, "source_file is for a copy of a known data set .*, not of "),
            ("ml-1m", {"source_file": Path("copy")}, "^copy does not exist"),
            ("synthetic", {"n_users": 3, "n_items": 3, "n_interactions": 2}, "2 interactions cannot cover 3 users"),
            ("{tmp}/r.csv", {"n_negatives": 0}, "n_negatives is 0; it must be at least 1"),
            ("{tmp}/r.csv", {"min_ratings": 0}, "min_ratings is 0; it must be at least 1"),
            ("{tmp}/r.csv", {"seed": 2**63}, "seed is 9223372036854775808; it must be between 0 and"),
            ("{tmp}/r.csv", {"protocol": "published"}, "protocol is 'published'; it must be strict or mlperf"),
            ("{tmp}/nan.csv", {}, "line 3 has no time"),
            ("{tmp}/inf.csv", {}, "line 3 has 'inf' where the time should be a finite number"),
            ("{tmp}/r.csv", {}, r"no user has at least 20 ratings \(the most is 5\)"),
            ("{tmp}/r.csv", {"min_ratings": 3}, "set n_negatives to at most 1"),
        ],
    )
    def test_errors_leave_nothing_behind(
        self, tmp_path: Path, source: str, options: dict[str, Any], message: str
    ) -> None:
        (tmp_path / "none").mkdir()
        (tmp_path / "r.csv").write_text(CSV)
        (tmp_path / "nan.csv").write_text("user,item,time\n1,1,1\n1,2,nan\n")
        (tmp_path / "inf.csv").write_text("user,item,time\n1,1,1\n1,2,inf\n")
        with pytest.raises(ValueError, match=message) as caught:
            prepare_source(source.format(tmp=tmp_path), tmp_path / "out", **options)
        assert "\n" not in str(caught.value)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["inf.csv", "nan.csv", "none", "r.csv"]

    def test_an_existing_output_is_refused_before_anything_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        with pytest.raises(DataError, match="out already exists"):
            prepare_source("no such source", tmp_path / "out")

    def test_the_same_arguments_give_the_same_bytes(self, tmp_path: Path, one_and_two_threads: Iterable[int]) -> None:
        sizes: dict[str, Any] = {"n_users": 40, "n_items": 300, "n_interactions": 1_000, "n_negatives": 50}
        for n_threads in one_and_two_threads:
            for protocol in ("strict", "mlperf"):
                prepare_source("synthetic", tmp_path / f"{protocol}-{n_threads}", protocol=protocol, **sizes)
        for protocol in ("strict", "mlperf"):
            assert contents(tmp_path / f"{protocol}-1") == contents(tmp_path / f"{protocol}-2")


class TestRealData:
    @pytest.mark.parametrize(
        ("name", "sizes", "n_tied", "n_held_out_drawn"),
        [
            ("ml-100k/u.data.gz", (943, 1_682, 99_057), 415, 451),
            ("ml-1m/ratings.dat.gz", (6_040, 3_706, 994_169), 2_229, 1_485),
        ],
    )
    def test_movielens_in_both_presets(
        self, real_data: Path, name: str, sizes: tuple[int, int, int], n_tied: int, n_held_out_drawn: int
    ) -> None:
        rows = read_ratings(real_data / name)
        strict = prepare(rows, n_negatives=99, source={})
        mlperf = prepare(rows, protocol="mlperf", source={})
        table = pd.DataFrame({"user": rows.user_ids[rows.users], "item": rows.item_ids[rows.items], "time": rows.times})
        last = table.sort_values("time", kind="stable").groupby("user")["item"].last()
        for data in (strict, mlperf):
            assert (data.n_users, data.n_items, len(data.train)) == sizes
            assert data.manifest["n_tied_users"] == n_tied
            assert set(data.manifest["users_dropped"].values()) | set(data.manifest["rows_dropped"].values()) == {0}
            np.testing.assert_array_equal(data.item_ids[data.test_items], last.loc[data.user_ids])
        assert (strict.test_negatives.shape, mlperf.test_negatives.shape) == ((sizes[0], 99), (sizes[0], 999))
        assert (strict.test_negatives != strict.test_items[:, None]).all()
        assert (np.diff(strict.test_negatives, axis=1) > 0).all()
        assert (mlperf.test_negatives == mlperf.test_items[:, None]).any(axis=1).sum() == n_held_out_drawn
        codes = np.repeat(np.arange(sizes[0]), strict.train.degrees) * sizes[1] + strict.train.items
        for data in (strict, mlperf):
            drawn = np.arange(sizes[0])[:, None] * sizes[1] + data.test_negatives
            assert not np.isin(drawn, codes, kind="table").any()

    def test_movielens_100k_has_too_few_items_for_999_strict_negatives(self, real_data: Path) -> None:
        with pytest.raises(DataError, match=r"user 405 has 945 of 1682 items left .* set n_negatives to at most 945"):
            prepare(read_ratings(real_data / "ml-100k" / "u.data.gz"), heavy_users="fail", source={})

    def test_the_ncf_authors_split_is_kept_to_the_letter(self, real_data: Path, tmp_path: Path) -> None:
        folder = real_data / "ml-1m-ncf"
        prepare_source(str(folder / "ml-1m.train.rating.gz"), tmp_path / "out")
        data = PreparedData.load(tmp_path / "out")
        lines = pd.read_csv(folder / "ml-1m.test.negative.gz", sep="\t", header=None)
        assert lines[0].tolist() == [f"({user},{item})" for user, item in enumerate(data.test_items.tolist())]
        np.testing.assert_array_equal(data.test_negatives, np.sort(lines.drop(columns=0), axis=1))
        columns = ["user", "item", "rating", "time"]
        positives = pd.read_csv(folder / "ml-1m.train.rating.gz", sep="\t", names=columns)
        expected = positives.sort_values(["user", "item"])[["user", "item"]]
        np.testing.assert_array_equal(np.column_stack([data.train.users(), data.train.items]), expected)
        sources = json.loads((tmp_path / "out" / "manifest.json").read_text())["source"]["files"]
        assert sources["negatives"]["sha256"] == file_sha256(folder / "ml-1m.test.negative.gz")


@pytest.mark.parametrize("has_ties", [False, True])
@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_rows_are_split_as_one_user_after_the_other_is(dtype: Any, has_ties: bool) -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        users = random.permutation(np.concatenate([np.repeat(np.arange(9), 2), random.integers(0, 9, 120)])).astype(
            np.int32
        )
        items = random.integers(0, 12, len(users), np.int32)
        for user in range(9):  # two items at least
            items[np.flatnonzero(users == user)[:2]] = 3, 4
        times = (random.integers(0, 6, len(users)) - 3).astype(dtype)
        ties = random.integers(0, 3, len(users)) if has_ties else None
        found = leave_one_out(users, items, times, n_users=9, tie_order=ties)
        ascending, histories, last = reference.split_rows(users, items, times, ties)
        assert found.items.tolist() == [item for own in ascending for item in own]
        assert found.history.tolist() == [item for own in histories for item in own]
        assert found.test_items.tolist() == last
        assert found.n_duplicates == len(users) - len(found.items) - 9
        assert np.diff(found.offsets).tolist() == list(map(len, histories))
