from dataclasses import replace

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions, PreparedData
from ncf_ppt.baselines import BASELINES, BPRConfig, fit_baseline
from ncf_ppt.catalogue import CatalogueRanks, rank_catalogue
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.packed.packing import pack
from ncf_ppt.ranking import Scorer
from ncf_ppt.scoring import scorer
from ppt_core.errors import DataError
from ppt_core.layers import set_precision
from ppt_core.plan import convert
from tests import reference


def prepared(histories: list[list[int]], test_items: list[int], n_items: int) -> PreparedData:
    users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    items = np.array([item for history in histories for item in history], np.int64)
    return PreparedData(
        train=Interactions.from_pairs(users, items, n_users=len(histories), n_items=n_items),
        test_items=np.array(test_items, np.int32),
        test_negatives=np.zeros((len(histories), 1), np.int32),
        user_ids=np.arange(len(histories)) * 10 + 7,
        item_ids=np.arange(n_items),
        protocol="strict",
        manifest={},
    )


class Table:
    """Scores looked up in a table (n_users, n_items)."""

    def __init__(self, scores: NDArray[np.float32]) -> None:
        self.scores = scores
        self.largest = 0

    def __call__(self, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        return np.take_along_axis(self.scores[users], candidates.astype(np.int64), axis=1)

    def score_catalogue(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        self.largest = max(self.largest, len(users))
        return self.scores[users]


def random_case(seed: int, n_users: int, n_items: int) -> tuple[PreparedData, Table]:
    """Few distinct scores, so that many tie; histories of all lengths."""
    rng = np.random.default_rng(seed)
    test_items = rng.integers(0, n_items, n_users)
    is_taken = rng.random((n_users, n_items)) < np.linspace(0, 1, n_users)[:, None]
    is_taken[np.arange(n_users), test_items] = False
    scores = rng.integers(0, max(2, n_items // 3), (n_users, n_items)).astype(np.float32)
    histories = [np.flatnonzero(row).tolist() for row in is_taken]
    return prepared(histories, test_items.tolist(), n_items), Table(scores)


def test_hand_ranked() -> None:
    data = prepared([[0, 2], [], [1, 2, 3, 4]], [3, 1, 0], 5)
    scores = np.array([[9, 4, 9, 3, 3], [1, 5, 2, 5, 5], [0, 9, 9, 9, 9]], np.float32)
    found = rank_catalogue(Table(scores), data, k=2)
    assert found.above.tolist() == [1, 0, 0]
    assert found.equal.tolist() == [1, 2, 0]
    assert found.lists.tolist() == [[1, 3], [1, 3], [0, -1]]
    metrics = found.metrics(2)
    assert metrics["hit_ratio"] == pytest.approx(1 / 3)
    assert metrics["mrr"] == pytest.approx((1 / 3 + 1 / 3 + 1) / 3)
    assert metrics["expected_mrr"] == pytest.approx(((1 / 2 + 1 / 3) / 2 + (1 + 1 / 2 + 1 / 3) / 3 + 1) / 3)
    assert metrics["coverage"] == pytest.approx(3 / 5)
    assert metrics["k"] == 2
    assert found.coverage(1) == pytest.approx(2 / 5)


def test_a_held_out_item_among_the_train_positives_is_ranked_all_the_same() -> None:
    found = rank_catalogue(Table(np.array([[3, 2, 2, 1]], np.float32)), prepared([[0, 1]], [1], 4))
    assert (found.above.tolist(), found.equal.tolist()) == ([0], [1])
    assert found.lists.tolist() == [[2, 3, -1, -1]]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 12), st.integers(1, 14))
def test_against_sorting(seed: int, n_users: int, n_items: int, k: int) -> None:
    data, table = random_case(seed, n_users, n_items)
    found = rank_catalogue(table, data, k=k)
    in_all_orders = []
    for user in range(n_users):
        seen, positive = set(data.train.items_of(user).tolist()), int(data.test_items[user])
        free = [item for item in range(n_items) if item not in seen]
        order = sorted(free, key=lambda item, row=table.scores[user]: (-row[item], item))  # type: ignore[misc]
        assert [item for item in found.lists[user].tolist() if item >= 0] == order[:k]
        others = [float(table.scores[user, item]) for item in free if item != positive]
        if len(others) < 7:
            ranks = reference.ranks_in_all_orders(float(table.scores[user, positive]), others)
            in_all_orders.append(np.mean([1 / (rank + 1) for rank in ranks]))
        assert found.above[user] == sum(other > table.scores[user, positive] for other in others)
        assert found.equal[user] == sum(other == table.scores[user, positive] for other in others)
    if len(in_all_orders) == n_users:
        assert found.expected_mrr() == pytest.approx(np.mean(in_all_orders))


def test_blocks_and_threads_change_nothing() -> None:
    data, table = random_case(0, 40, 300)
    expected = rank_catalogue(table, data, k=20)
    assert table.largest == 40
    n_threads = numba.get_num_threads()
    try:
        for memory, n_rows in ((1, 1), (4 * 300 * 7, 7)):
            for n in (1, n_threads):
                numba.set_num_threads(n)
                table.largest = 0
                found = rank_catalogue(table, data, k=20, memory=memory)
                assert table.largest == n_rows
                for name in ("above", "equal", "lists"):
                    np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    finally:
        numba.set_num_threads(n_threads)


def test_a_scorer_of_pairs_will_do() -> None:
    data, table = random_case(1, 10, 50)
    by_rows, by_pairs = rank_catalogue(table, data), rank_catalogue(table.__call__, data)
    for name in ("above", "equal", "lists"):
        np.testing.assert_array_equal(getattr(by_rows, name), getattr(by_pairs, name))


def test_a_constant_scorer_does_not_score() -> None:
    data, table = random_case(2, 30, 100)
    data = replace(
        data, train=Interactions.from_pairs(np.empty(0, np.int64), np.empty(0, np.int64), n_users=30, n_items=100)
    )
    table.scores[:] = 1
    found = rank_catalogue(table, data)
    assert found.hit_ratio(10) == 0
    assert found.mrr() == pytest.approx(1 / 100)
    assert found.expected_hit_ratio(10) == pytest.approx(10 / 100)
    assert found.coverage(10) == pytest.approx(10 / 100)  # the first ten, for everybody


def test_infinite_scores_rank_as_they_compare() -> None:
    data = prepared([[]], [1], 4)
    found = rank_catalogue(Table(np.array([[np.inf, 0, -np.inf, np.inf]], np.float32)), data, k=4)
    assert (found.above.tolist(), found.equal.tolist()) == ([2], [0])
    assert found.lists.tolist() == [[0, 3, 1, -1]]  # nobody scored item 2


def test_nan_is_an_error_that_names_the_user() -> None:
    data, table = random_case(3, 9, 20)
    for item in (int(data.test_items[4]), int(data.test_items[4]) - 1):
        scores = table.scores.copy()
        scores[4, item] = np.nan
        with pytest.raises(DataError, match=r"^the scores of user 47 hold NaN, .* lower learning rate$"):
            rank_catalogue(Table(scores), data, memory=1)


def test_wrong_settings_are_refused() -> None:
    data, table = random_case(4, 3, 20)
    with pytest.raises(ValueError, match=r"^k is 0; it must be at least 1$"):
        rank_catalogue(table, data, k=0)
    with pytest.raises(ValueError, match=r"^scores have shape \(3, 19\); \(3, 20\) fits these data$"):
        rank_catalogue(Table(table.scores[:, 1:]), data)
    found = rank_catalogue(table, data, k=5)
    for k in (0, 6):
        with pytest.raises(ValueError, match=f"^k is {k}, but lists of 5 items were kept; rank the catalogue"):
            found.coverage(k)
    assert rank_catalogue(table, data, k=100).coverage(50) <= 1


@pytest.mark.parametrize("name", [*BASELINES, "torch", "packed"])
def test_every_model_is_ranked(name: str) -> None:
    data, _ = random_case(5, 40, 60)
    data = replace(data, history=data.train.items)  # what baselines need that see the order in time
    score: Scorer
    if name in BASELINES:
        score = fit_baseline(BPRConfig(factors=4) if name == "bpr" else name, data)
    else:
        model = NCF(40, 60, NCFConfig(factors=4, layers=(8, 16, 16, 4)), seed=0)
        convert(model)
        set_precision(model, "low")
        packed = pack(model, user_ids=data.user_ids, item_ids=data.item_ids, protocol=data.protocol_label)
        score = packed if name == "packed" else scorer(model)
    found = rank_catalogue(score, data, k=10)
    assert isinstance(found, CatalogueRanks)
    scores = score(np.arange(40), np.tile(np.arange(60, dtype=np.int32), (40, 1)))
    for user in range(40):
        is_other = np.ones(60, bool)
        is_other[[*data.train.items_of(user), data.test_items[user]]] = False
        positive = scores[user, data.test_items[user]]
        assert found.above[user] == (scores[user, is_other] > positive).sum()
        assert found.equal[user] == (scores[user, is_other] == positive).sum()
