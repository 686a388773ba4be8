from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions, PreparedData
from ncf_ppt.baselines import fit_baseline
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.original_ids import find_ids
from ncf_ppt.recommendation import recommend, score_catalogue
from ncf_ppt.scoring import scorer
from ppt_core.errors import DataError
from tests import reference

HISTORIES = [[0, 2], [5], [0, 1, 2, 3, 4], []]
N_ITEMS = 6
SCORES = np.array(
    [[9, 1, 8, 3, 1, 2], [1, 2, 2, 1, 2, 9], [5, 5, 5, 5, 5, 5], [-1, -np.inf, np.inf, 0, -1, 0]], np.float32
)


def prepared(histories: list[list[int]], n_items: int) -> PreparedData:
    users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    items = np.array([item for history in histories for item in history], np.int64)
    return PreparedData(
        train=Interactions.from_pairs(users, items, n_users=len(histories), n_items=n_items),
        test_items=np.zeros(len(histories), np.int32),
        test_negatives=np.zeros((len(histories), 1), np.int32),
        user_ids=np.arange(len(histories)) * 10 + 7,
        item_ids=np.array([f"item {number}" for number in range(n_items)], object),
        protocol="strict",
        manifest={},
    )


DATA = prepared(HISTORIES, N_ITEMS)
STRINGS = replace(DATA, user_ids=np.array(["a", "7", "b,c", "é"], object), item_ids=np.arange(6) * 2**40)


def table_score(users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
    return np.take_along_axis(SCORES[users], candidates.astype(np.int64), axis=1)


def lists(*args: Any, **keywords: Any) -> list[list[int]]:
    found = recommend(table_score, DATA, *args, **keywords)
    return [[int(item.split()[1]) for item in entry["item_ids"]] for entry in found.to_dicts()]


def test_hand_ranked_lists() -> None:
    # Train positives and what has minus infinity are left out, the lower number comes first among equals, lists may be
    # shorter than k.
    assert lists(k=3) == [[3, 5, 1], [1, 2, 4], [5], [2, 3, 5]]
    assert lists(k=100) == [[3, 5, 1, 4], [1, 2, 4, 0, 3], [5], [2, 3, 5, 0, 4]]
    assert lists(k=2, include_seen=True) == [[0, 2], [5, 1], [0, 1], [2, 3]]
    found = recommend(table_score, DATA, k=3)
    assert found.offsets.tolist() == [0, 3, 6, 7, 10]
    assert found.scores.dtype == np.float32
    assert found.scores.tolist() == [3, 2, 1, 2, 2, 2, 5, np.inf, 0, 0]
    assert not found.is_new.any()


def test_a_user_who_has_everything_gets_an_empty_list() -> None:
    found = recommend(table_score, prepared([[0, 1], [0]], 2), k=5)
    assert [entry["item_ids"] for entry in found.to_dicts()] == [[], ["item 1"]]


def test_the_held_out_item_is_recommended() -> None:
    data = replace(DATA, test_items=np.array([3, 1, 5, 2], np.int32))
    found = recommend(table_score, data, k=1)
    assert found.item_ids.tolist() == ["item 3", "item 1", "item 5", "item 2"]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_against_sorting(draw: st.DataObject) -> None:
    n_users, n_items = draw.draw(st.integers(1, 5)), draw.draw(st.integers(1, 12))
    histories = draw.draw(
        st.lists(st.lists(st.integers(0, n_items - 1), unique=True), min_size=n_users, max_size=n_users)
    )
    some_scores = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 0.5, 2.0])
    rows = draw.draw(
        st.lists(st.lists(some_scores, min_size=n_items, max_size=n_items), min_size=n_users, max_size=n_users)
    )
    table = np.array(rows, np.float32)
    k = draw.draw(st.integers(1, 14))
    memory = draw.draw(st.sampled_from([0, 4 * n_items * 2, 1 << 20]))

    def score(users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        return np.take_along_axis(table[users], candidates.astype(np.int64), axis=1)

    found = recommend(score, prepared(histories, n_items), k=k, memory=memory)
    expected = [reference.recommended_items(row, seen, k) for row, seen in zip(rows, histories, strict=True)]
    assert [entry["item_ids"] for entry in found.to_dicts()] == [[f"item {i}" for i in row] for row in expected]
    assert found.scores.tolist() == [row[i] for row, items in zip(rows, expected, strict=True) for i in items]


def test_users_by_original_ids_in_any_order() -> None:
    found = recommend(table_score, DATA, ["27", 7, DATA.user_ids[3], "27"], k=1)
    assert found.user_ids.dtype == np.int64
    assert found.user_ids.tolist() == [27, 7, 37, 27]
    assert found.item_ids.tolist() == ["item 5", "item 3", "item 2", "item 5"]
    assert len(recommend(table_score, DATA, [], k=1)) == 0
    assert recommend(table_score, DATA, DATA.user_ids[2:], k=1).user_ids.tolist() == [27, 37]


def test_string_ids() -> None:
    found = recommend(table_score, STRINGS, ["b,c", 7, "é"], k=1)
    assert found.user_ids.tolist() == ["b,c", "7", "é"]
    assert found.item_ids.tolist() == [5 * 2**40, 2**40, 2 * 2**40]
    ids, numbers = find_ids(STRINGS.user_ids, "user", ["é", "e", 7])
    assert ids.dtype == object
    assert numbers.tolist() == [3, -1, 1]


@pytest.mark.parametrize(
    ("users", "message"),
    [
        (
            ["8"],
            r"user 8 is unknown: the training data hold 4 users with ids such as 7, 17, 27; correct the id, or let",
        ),
        ([7, 8, 9, "-1"], r"user 8 is unknown \(and 2 more are\)"),
        (["7.0"], r"user '7\.0' cannot be an id of these data, whose user ids are integers of 64 bits"),
        ([""], "user '' cannot be an id"),
        ([True], "user True cannot be an id"),
        (["1_0"], "user '1_0' cannot be an id"),
        (["٧"], "user '٧' cannot be an id"),  # a digit of another script
        ([2**63], "user 9223372036854775808 cannot be an id"),
    ],
)
def test_refuses_unknown_users_in_one_line(users: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        recommend(table_score, DATA, users)
    assert "\n" not in str(caught.value)


def test_refuses_an_unknown_string() -> None:
    with pytest.raises(DataError, match=r"user 'A' is unknown: .* ids such as 'a', '7', 'b,c'; correct the id"):
        recommend(table_score, STRINGS, ["A"])


def test_new_users_get_what_is_most_popular() -> None:
    # Items 0 and 2 have two train positives, 1, 3, 4 and 5 one each: nothing is left out for a new user.
    found = recommend(table_score, DATA, [8, 7, "9"], k=4, new_users="popular")
    assert found.is_new.tolist() == [True, False, True]
    assert found.n_new_users == 2
    assert found.user_ids.tolist() == [8, 7, 9]
    popular = ["item 0", "item 2", "item 1", "item 3"]
    entries = found.to_dicts()
    assert entries[0] == {"user_id": 8, "is_new": True, "item_ids": popular, "scores": [2, 2, 1, 1]}
    assert entries[1]["item_ids"] == ["item 3", "item 5", "item 1", "item 4"]
    assert entries[2]["item_ids"] == popular
    with pytest.raises(DataError, match="user 'x' cannot be an id"):
        recommend(table_score, DATA, ["x"], new_users="popular")


def test_only_among_some_items_and_without_others(tmp_path: Path) -> None:
    assert lists(k=2, items=["item 5", "item 2", "item 9"]) == [[5], [2], [5], [2, 5]]
    assert lists(k=2, exclude=["item 5", "item 1"]) == [[3, 4], [2, 4], [], [2, 3]]
    assert lists(k=2, items=["item 5", "item 2"], exclude=["item 2"], include_seen=True) == [[5], [5], [5], [5]]
    found = recommend(table_score, DATA, [8], k=2, items=["item 2", "item 5", "x", "y"], new_users="popular")
    assert found.item_ids.tolist() == ["item 2", "item 5"]
    assert found.n_unknown_items == 2
    # The scores are those of the whole catalogue, whatever is left out.
    whole = recommend(table_score, DATA, k=6, include_seen=True)
    some = recommend(table_score, DATA, k=6, include_seen=True, exclude=["item 0"])
    assert some.scores.tolist() == whole.scores[whole.item_ids != "item 0"].tolist()
    (tmp_path / "stock.csv").write_text("price,item_id\n3,5497558138880\n")
    assert recommend(table_score, STRINGS, k=1, items=tmp_path / "stock.csv").item_ids.tolist() == [5 * 2**40] * 3
    with pytest.raises(DataError, match=r"none of the 6 items .* \(2 ids that were named are unknown\); its ids are"):
        recommend(table_score, DATA, items=["x", "y"])
    with pytest.raises(DataError, match="none of the 6 items"):
        recommend(table_score, DATA, items=["item 1"], exclude=["item 1"])
    with pytest.raises(DataError, match="item 'x' cannot be an id of these data, whose item ids are integers"):
        recommend(table_score, STRINGS, items=["x"])


def test_users_of_a_file_and_the_line_at_fault(tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    path.write_text("user_id,country\n27,x\n7,y\n27,z\n")
    assert recommend(table_score, DATA, path, k=1).user_ids.tolist() == [27, 7]
    path.write_text("who\n7\n")
    with pytest.raises(DataError, match=r"user 'who' \(.*users.csv, line 1\) cannot be an id of these data"):
        recommend(table_score, DATA, str(path))
    path.write_text("7\n\n8\n")
    with pytest.raises(DataError, match=r"user 8 is unknown \(.*users.csv, line 3\): the training data"):
        recommend(table_score, DATA, path)


def test_what_recommend_writes_names_users_and_items(tmp_path: Path) -> None:
    found = recommend(table_score, STRINGS, k=2)
    for name in ("lists.parquet", "lists.csv", "lists.jsonl"):
        path = tmp_path / name
        found.save(path) if name != "lists.jsonl" else recommend(table_score, STRINGS, ["a", "b,c"], k=2).save(path)
        users, items = ["a", "7", "b,c", "é"], [3, 5, 1, 2] if name != "lists.jsonl" else [3, 5]
        expected = users if name != "lists.jsonl" else ["a", "b,c"]
        assert recommend(table_score, STRINGS, path, k=1).user_ids.tolist() == expected
        among = recommend(table_score, STRINGS, k=6, items=path, include_seen=True)
        assert set(among.item_ids.tolist()) == {number * 2**40 for number in items}


def test_an_unknown_user_may_have_been_dropped() -> None:
    data = replace(DATA, manifest={"min_ratings": 20, "users_dropped": {"below_min_ratings": 2375, "one_item_only": 0}})
    message = r"as 7, 17, 27, and 2,375 more were dropped by `prepare --min-ratings 20`; correct the id, or let"
    with pytest.raises(DataError, match=message):
        recommend(table_score, data, [8])


def test_ids_with_commas_stay_apart_in_text() -> None:
    found = recommend(table_score, replace(STRINGS, item_ids=np.array(["a", "b, c", 'd"', "e", "f", "g:"], object)))
    assert list(found.lines()) == [
        'a: e, "g:", "b, c", f',
        '7: "b, c", "d\\"", f, a, e',
        '"b,c": "g:"',
        'é: "d\\"", e, "g:", a, f',
    ]
    assert '"b,c": "g:"' in repr(found)


def test_refuses_settings_and_scores_out_of_range() -> None:
    with pytest.raises(ValueError, match="k is 0; it must be at least 1"):
        recommend(table_score, DATA, k=0)
    with pytest.raises(ValueError, match="new_users is 'ignore'; it must be error or popular"):
        recommend(table_score, DATA, new_users="ignore")  # type: ignore[arg-type]

    def diverged(users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        return np.where((users[:, np.newaxis] == 2) & (candidates == 1), np.nan, table_score(users, candidates))

    assert len(recommend(diverged, DATA, [7, 17])) == 2
    with pytest.raises(DataError, match="the scores of user 27 hold NaN"):
        recommend(diverged, DATA, [17, 27])


def test_memory_and_the_size_of_calls_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def score(users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        shapes.append(candidates.shape)
        return table_score(users, candidates)

    whole = recommend(score, DATA, k=3)
    assert set(shapes) == {(1, 6)}
    shapes.clear()
    monkeypatch.setattr("ncf_ppt.recommendation._ITEMS_PER_CALL", 4)
    tiled = recommend(score, DATA, k=3, memory=2 * 6 * 4)
    assert set(shapes) == {(1, 4), (1, 2)}
    assert tiled.item_ids.tolist() == whole.item_ids.tolist()
    assert tiled.scores.tobytes() == whole.scores.tobytes()


def test_tiles_keep_to_the_memory() -> None:
    tiles: list[int] = []

    class Rows:
        def __call__(self, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
            raise AssertionError("rows are to be scored at once")

        def score_catalogue(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
            tiles.append(len(users))
            return SCORES[users]

    found = recommend(Rows(), DATA, [7, 8, 17, 27, 37], k=3, memory=2 * 6 * 4 + 1, new_users="popular")
    assert tiles == [2, 2]
    known = recommend(table_score, DATA, k=3)
    assert np.delete(found.item_ids, [3, 4, 5]).tolist() == known.item_ids.tolist()
    recommend(Rows(), DATA, k=3, memory=0)
    assert tiles == [2, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("model", ["gmf", "mlp", "neumf"])
def test_a_list_of_a_network_does_not_depend_on_the_other_users(model: Any) -> None:
    # So few items that one user's matrix products are rounded otherwise than those of many users together.
    data = prepared([[u % 5] for u in range(12)], 5)
    network = NCF(12, 5, NCFConfig(model=model, factors=24, layers=(64, 64, 32)), seed=0)
    together = score_catalogue(scorer(network), np.arange(12), 5)
    for user in (0, 7, 11):
        assert score_catalogue(scorer(network), np.array([user]), 5).tobytes() == together[user].tobytes()
    candidates = np.tile(np.arange(5, dtype=np.int32), (12, 1))
    np.testing.assert_allclose(scorer(network)(np.arange(12), candidates), together, rtol=0, atol=1e-6)
    found = recommend(scorer(network), data, k=4)
    alone = recommend(scorer(network), data, [data.user_ids[7]], k=4)
    assert found.item_ids[28:32].tolist() == alone.item_ids.tolist()
    assert found.scores[28:32].tobytes() == alone.scores.tobytes()


def test_a_baseline_recommends_from_a_set_on_disk(tmp_path: Path) -> None:
    DATA.save(tmp_path / "data")
    data = PreparedData.load(tmp_path / "data")
    popular = fit_baseline("popular", data)
    found = recommend(popular, data, [7], k=2)
    assert found.item_ids.tolist() == ["item 1", "item 3"]
    assert found.scores.tolist() == [1, 1]


@pytest.mark.parametrize("data", [DATA, STRINGS], ids=["integers", "strings"])
def test_parquet(tmp_path: Path, data: PreparedData) -> None:
    path = tmp_path / "lists.parquet"
    found = recommend(table_score, data, k=2)
    found.save(path)
    table = pq.read_table(path)
    ids = [pa.int64(), pa.string()] if data is DATA else [pa.string(), pa.int64()]
    assert table.schema == pa.schema({"user_id": ids[0], "item_id": ids[1], "rank": pa.int32(), "score": pa.float32()})
    users = np.repeat(data.user_ids, [2, 2, 1, 2]).tolist()
    assert table["user_id"].to_pylist() == users
    assert table["item_id"].to_pylist() == data.item_ids[[3, 5, 1, 2, 5, 2, 3]].tolist()
    assert table["rank"].to_pylist() == [1, 2, 1, 2, 1, 1, 2]
    assert table["score"].to_pylist() == [3, 2, 2, 2, 5, np.inf, 0]
    before = path.read_bytes()
    with pytest.raises(DataError, match="already exists"):
        found.save(path)
    again = tmp_path / "again.parquet"
    found.save(again)
    assert again.read_bytes() == path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_csv_and_json_lines(tmp_path: Path) -> None:
    found = recommend(table_score, STRINGS, ["b,c", "7"], k=1)
    found.save(tmp_path / "lists.csv")
    assert (tmp_path / "lists.csv").read_text() == (
        'user_id,item_id,rank,score\n"b,c",5497558138880,1,5.0\n7,1099511627776,1,2.0\n'
    )
    found.save(tmp_path / "lists.jsonl")
    assert (tmp_path / "lists.jsonl").read_text().splitlines()[0] == (
        '{"user_id": "b,c", "item_id": 5497558138880, "rank": 1, "score": 5.0}'
    )
    with pytest.raises(DataError, match=r"lists names no format: end the name in .parquet, .csv, .jsonl, .ndjson"):
        found.save(tmp_path / "lists")
    assert len(list(tmp_path.iterdir())) == 2


def test_parquet_of_no_lists(tmp_path: Path) -> None:
    recommend(table_score, DATA, [], k=2).save(tmp_path / "lists.parquet")
    assert pq.read_table(tmp_path / "lists.parquet").num_rows == 0
