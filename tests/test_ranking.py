import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions, PreparedData, Protocol
from data_prep.ratings.ncf_files import read_ncf_files
from ncf_ppt import ranking
from ncf_ppt.ranking import Ranks, rank_scores, rank_test_items
from ppt_core.errors import DataError
from tests import reference

NAN, INF = math.nan, math.inf


def rank(scores: list[list[float]], negatives: list[list[int]], positives: list[int]) -> Ranks:
    return rank_scores(
        np.array(scores, np.float32), np.array(negatives, np.int32), np.array(positives, np.int32), user_ids=None
    )


def ranks(above: list[int], equal: list[int]) -> Ranks:
    return Ranks(above=np.array(above), equal=np.array(equal))


def prepared(test_items: list[int], negatives: list[list[int]], protocol: Protocol = "mlperf") -> PreparedData:
    n_users, n_items = len(test_items), 1 + max([*test_items, *(item for row in negatives for item in row)])
    return PreparedData(
        train=Interactions(offsets=np.zeros(n_users + 1, np.int64), items=np.zeros(0, np.int32), n_items=n_items),
        test_items=np.array(test_items, np.int32),
        test_negatives=np.array(negatives, np.int32),
        user_ids=np.array([f"u{user}" for user in range(n_users)], object),
        item_ids=np.arange(n_items),
        protocol=protocol,
        manifest={},
    )


# The positive is item 5 throughout; its score comes first, then those of the negatives 1, 2, 3.
@pytest.mark.parametrize(
    ("scores", "above", "equal"),
    [
        ([0.9, 0.1, 0.2, 0.3], 0, 0),
        ([0.25, 0.1, 0.2, 0.3], 1, 0),
        ([0.0, 0.1, 0.2, 0.3], 3, 0),
        ([0.2, 0.1, 0.2, 0.3], 1, 1),
        ([1.0, 1.0, 1.0, 1.0], 0, 3),
        ([0.0, -0.0, 1.0, -1.0], 1, 1),
        ([INF, 1.0, INF, -INF], 0, 1),
        ([-INF, 1.0, INF, -INF], 2, 1),
        ([16_777_217.0, 16_777_216.0, 0.0, 0.0], 0, 1),  # float32 cannot tell these two apart
    ],
)
def test_hand_ranked_lists(scores: list[float], above: int, equal: int) -> None:
    found = rank([scores], [[1, 2, 3]], [5])
    assert (found.above.tolist(), found.equal.tolist()) == ([above], [equal])
    assert found.pessimistic.tolist() == [above + equal]


def test_a_repeated_negative_counts_once_and_the_positive_itself_not_at_all() -> None:
    found = rank(
        [[0.5, 0.9, 0.9, 0.9, 0.5, 0.5, 0.1], [0.5, 0.5, 0.5, 0.5, 0.7, 0.5, 0.5]],
        [[1, 1, 1, 2, 2, 3], [4, 4, 4, 5, 6, 6]],
        [0, 4],
    )
    assert found.above.tolist() == [1, 1]
    assert found.equal.tolist() == [1, 1]


def test_a_row_of_nothing_but_the_positive_is_first() -> None:
    found = rank([[0.0, 0.0, 0.0]], [[3, 3]], [3])
    assert (found.above.tolist(), found.equal.tolist()) == ([0], [0])


def test_metrics_of_known_ranks() -> None:
    found = ranks([0, 1, 9, 10], [0, 0, 0, 0])
    assert found.hit_ratio(10) == 0.75
    assert found.ndcg(10) == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(11)) / 4)
    assert found.expected_hit_ratio(10) == found.hit_ratio(10)
    assert found.expected_ndcg(10) == pytest.approx(found.ndcg(10))
    assert (found.hit_ratio(1), found.ndcg(1)) == (0.25, 0.25)


def test_ties_lose_and_are_averaged_over_all_orders() -> None:
    found = ranks([1], [2])  # the positive comes second, third or fourth
    assert [found.hit_ratio(k) for k in (1, 2, 3, 4)] == [0, 0, 0, 1]
    assert [found.expected_hit_ratio(k) for k in (1, 2, 3, 4)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    gains = [1 / math.log2(3), 1 / 2, 1 / math.log2(5)]
    assert found.expected_ndcg(3) == pytest.approx(sum(gains[:2]) / 3)
    assert found.expected_ndcg(10) == pytest.approx(sum(gains) / 3)
    assert found.tie_rate() == 1


@pytest.mark.parametrize("n_negatives", [99, 999])
def test_a_constant_scorer_scores_nothing_and_expects_chance(n_negatives: int) -> None:
    data = prepared([0] * 7, [list(range(1, n_negatives + 1))] * 7)
    metrics = rank_test_items(lambda users, candidates: np.full(candidates.shape, 0.5, np.float32), data).metrics()
    assert (metrics["hit_ratio"], metrics["ndcg"], metrics["tie_rate"]) == (0, 0, 1)
    assert metrics["expected_hit_ratio"] == pytest.approx(10 / (n_negatives + 1))
    dcg = sum(1 / math.log2(place + 2) for place in range(10))
    assert metrics["expected_ndcg"] == pytest.approx(dcg / (n_negatives + 1))
    assert metrics["k"] == 10


def test_a_list_longer_than_the_candidates_makes_everyone_a_hit() -> None:
    found = ranks([2, 0], [1, 0])
    assert found.hit_ratio(100) == found.expected_hit_ratio(100) == 1
    assert found.ndcg(100) == pytest.approx((1 / math.log2(5) + 1) / 2)


@given(
    st.lists(st.tuples(st.integers(0, 15), st.lists(st.integers(0, 4), max_size=6)), min_size=1, max_size=6),
    st.integers(1, 8),
)
@settings(deadline=None, max_examples=50)
def test_metrics_against_all_orders_of_the_ties(rows: list[tuple[int, list[int]]], k: int) -> None:
    # Few scores, so that many tie; each row is a positive's score and those of up to six distinct negatives.
    orders = [reference.ranks_in_all_orders(positive % 5, negatives) for positive, negatives in rows]
    found = ranks([min(order) for order in orders], [max(order) - min(order) for order in orders])

    def mean(gains: list[list[float]]) -> float:
        return float(np.mean([np.mean(row) for row in gains]))

    def ndcg(place: int) -> float:
        return math.log(2) / math.log(place + 2) if place < k else 0.0

    assert found.hit_ratio(k) == pytest.approx(np.mean([max(order) < k for order in orders]))
    assert found.ndcg(k) == pytest.approx(np.mean([ndcg(max(order)) for order in orders]))
    assert found.expected_hit_ratio(k) == pytest.approx(mean([[place < k for place in order] for order in orders]))
    assert found.expected_ndcg(k) == pytest.approx(mean([[ndcg(place) for place in order] for order in orders]))


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_counts_against_a_set_of_negatives(data: st.DataObject) -> None:
    n_users, n_negatives = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    items = st.lists(st.integers(0, 7), min_size=n_negatives, max_size=n_negatives).map(sorted)
    negatives = data.draw(st.lists(items, min_size=n_users, max_size=n_users))
    positives = data.draw(st.lists(st.integers(0, 7), min_size=n_users, max_size=n_users))
    values = data.draw(st.lists(st.sampled_from([-INF, -1.0, 0.0, 2.0, INF]), min_size=8, max_size=8))
    scores = [
        [values[positive], *(values[item] for item in row)] for positive, row in zip(positives, negatives, strict=True)
    ]
    found = rank(scores, negatives, positives)
    for user, positive in enumerate(positives):
        others = set(negatives[user]) - {positive}
        order = reference.ranks_in_all_orders(values[positive], [values[item] for item in others])
        assert (found.above[user], found.pessimistic[user]) == (min(order), max(order))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(0, 20, (23, 50)).astype(np.float32)  # many ties
    data = prepared(rng.integers(0, 50, 23).tolist(), np.sort(rng.integers(0, 50, (23, 9)), axis=1).tolist())
    seen: list[int] = []

    def score(users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        assert candidates.shape == (len(users), 10)
        np.testing.assert_array_equal(candidates[:, 0], data.test_items[users])
        seen.extend(users.tolist())
        scores: NDArray[np.float32] = table[users[:, None], candidates]
        return scores

    whole = rank_test_items(score, data)
    assert seen == list(range(23))
    for pairs in (1, 10, 39, 70, 229, 230):
        monkeypatch.setattr(ranking, "_PAIRS_PER_BLOCK", pairs)
        seen.clear()
        blocks = rank_test_items(score, data)
        assert seen == list(range(23))
        assert (blocks.above.tolist(), blocks.equal.tolist()) == (whole.above.tolist(), whole.equal.tolist())


@pytest.mark.parametrize("place", [0, 2])
def test_nan_is_an_error_that_names_the_user(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    monkeypatch.setattr(ranking, "_PAIRS_PER_BLOCK", 3)  # one user at a time

    def score(users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        scores = candidates.astype(np.float32)
        scores[users == 2, place] = NAN
        return scores

    data = prepared([0, 0, 0, 0], [[1, 2]] * 4)
    with pytest.raises(DataError, match=r"^the scores of user u2 hold NaN, .* lower learning rate") as caught:
        rank_test_items(score, data)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="the scores of row 1 hold NaN"):
        rank([[1, 2], [NAN, 2]], [[1], [1]], [0, 0])


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scores \(1, 2\) .* do not fit negatives \(1, 2\)"):
        rank([[1, 2]], [[1, 2]], [0])
    with pytest.raises(ValueError, match=r"positives \(2,\) do not fit"):
        rank([[1, 2, 3]], [[1, 2]], [0, 0])
    with pytest.raises(ValueError, match="negatives must ascend in each row"):
        rank([[1, 2, 3, 4]], [[1, 2, 1]], [0])
    with pytest.raises(ValueError, match=r"scores \(2, 2\)"):
        rank_test_items(lambda users, candidates: np.zeros((len(users), 2), np.float32), prepared([0, 0], [[1, 2]] * 2))
    for metric in ("hit_ratio", "ndcg", "expected_hit_ratio", "expected_ndcg", "metrics"):
        with pytest.raises(ValueError, match="k is 0; it must be at least 1"):
            getattr(ranks([0], [0]), metric)(0)


@pytest.fixture(scope="module")
def published() -> PreparedData:
    folder = os.environ.get("PPT_TEST_DATA")
    if not folder:
        pytest.skip("PPT_TEST_DATA is not set: no real data")
    return read_ncf_files(Path(folder) / "ml-1m-ncf" / "ml-1m.train.rating.gz")


def test_popularity_scores_what_was_published(published: PreparedData) -> None:
    # HR@10 .4535 and NDCG@10 .2543 on this split (Rendle et al. 2020, after Ferrari Dacrema et al. 2019).
    popularity = np.bincount(published.train.items, minlength=published.n_items).astype(np.float32)
    metrics = rank_test_items(lambda users, candidates: popularity[candidates], published).metrics()
    assert round(metrics["expected_hit_ratio"], 4) == 0.4535
    assert round(metrics["expected_ndcg"], 4) == 0.2543
    # Popularity ties 7% of the users, and a positive that loses them cannot gain.
    assert metrics["hit_ratio"] == pytest.approx(0.45315, abs=5e-6)
    assert metrics["tie_rate"] == pytest.approx(0.0677, abs=5e-5)


def test_a_random_scorer_scores_chance(published: PreparedData) -> None:
    rng = np.random.default_rng(1)
    found = rank_test_items(lambda users, candidates: rng.random(candidates.shape, np.float32), published)
    deviation = math.sqrt(0.1 * 0.9 / published.n_users)
    assert abs(found.hit_ratio() - 0.1) < 4 * deviation
