"""Rank of the held-out item among its candidates, ties counted, and the metrics that follow from it.

A constant scorer must not score: the headline metrics let the positive lose every tie ("must always come last if
there is a tie", the MLPerf rules), and the expected ones average over all orders of the tied items.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import PreparedData
from ncf_ppt import _kernels
from ppt_core.distributed import World
from ppt_core.errors import DataError
from ppt_core.mapped import release_pages

Scorer = Callable[[NDArray[np.int64], NDArray[np.int32]], NDArray[np.float32]]
"""Maps users (n,) and their candidate items (n, m) to scores (n, m); higher is better."""

_PAIRS_PER_BLOCK = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """For each user, how many distinct negatives score above the held-out item, and how many score the same.

    Attributes:
        above: int64 (n_users,).
        equal: int64 (n_users,); all zero if there is no tie.

    Every metric takes the length ``k`` of the list and raises ValueError if it is below 1. A ``k`` beyond the
    number of candidates makes every user a hit.
    """

    above: NDArray[np.int64]
    equal: NDArray[np.int64]

    @property
    def pessimistic(self) -> NDArray[np.int64]:
        """Rank from 0 when the positive loses every tie."""
        return self.above + self.equal

    def hit_ratio(self, k: int = 10) -> float:
        """Share of users whose held-out item is among the first ``k``, losing ties: HR@k."""
        return float(np.mean(self.pessimistic < _checked(k)))

    def ndcg(self, k: int = 10) -> float:
        """Mean of ``ln 2 / ln(rank + 2)``, rank from 0, 0 beyond the first ``k``: NDCG@k with one relevant item."""
        return float(np.mean(_gains(k)[np.minimum(self.pessimistic, k)]))

    def expected_hit_ratio(self, k: int = 10) -> float:
        """HR@k averaged over all orders of the tied items: a constant scorer gets k / (n_negatives + 1)."""
        places = np.clip(_checked(k) - self.above, 0, self.equal + 1)
        return float(np.mean(places / (self.equal + 1)))

    def expected_ndcg(self, k: int = 10) -> float:
        """NDCG@k averaged over all orders of the tied items."""
        totals = np.concatenate([[0.0], np.cumsum(_gains(k)[:k])])
        first, last = np.minimum(self.above, k), np.minimum(self.above + self.equal + 1, k)
        return float(np.mean((totals[last] - totals[first]) / (self.equal + 1)))

    def tie_rate(self) -> float:
        """Share of users whose held-out item ties with at least one negative."""
        return float(np.mean(self.equal > 0))

    def metrics(self, k: int = 10) -> dict[str, Any]:
        """All metrics under the names of the JSON output."""
        return {
            "hit_ratio": self.hit_ratio(k),
            "ndcg": self.ndcg(k),
            "expected_hit_ratio": self.expected_hit_ratio(k),
            "expected_ndcg": self.expected_ndcg(k),
            "tie_rate": self.tie_rate(),
            "k": k,
        }


def _checked(k: int) -> int:
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    return k


def _gains(k: int) -> NDArray[np.float64]:
    """Gain of rank 0 .. k; that of k stands for every rank beyond the first k, and is 0."""
    return np.append(np.log(2) / np.log(np.arange(_checked(k)) + 2), 0.0)


def rank_scores(
    scores: NDArray[np.float32],
    negatives: NDArray[np.int32],
    positives: NDArray[np.int32],
    *,
    user_ids: NDArray[Any] | None = None,
) -> Ranks:
    """Rank each row's positive among its negatives by score.

    Args:
        scores: float32 (n, 1 + m), the positive's score first. Infinities rank as they compare.
        negatives: int32 (n, m), ascending in each row. A repeated item counts once, and the positive itself
            among the negatives does not count.
        positives: int32 (n,).
        user_ids: what an error calls the rows, (n,); by default their numbers.

    Raises:
        DataError: a score is NaN, which has no rank.
        ValueError: the shapes do not fit each other, or a row of negatives does not ascend.
    """
    n, m = negatives.shape
    if scores.shape != (n, 1 + m) or positives.shape != (n,):
        raise ValueError(
            f"scores {scores.shape} and positives {positives.shape} do not fit negatives {negatives.shape}; "
            f"they must be {(n, 1 + m)} and {(n,)}"
        )
    if (negatives[:, 1:] < negatives[:, :-1]).any():
        raise ValueError("negatives must ascend in each row, or repeated items would count twice; sort them")
    is_nan = np.isnan(scores).any(axis=1)
    if is_nan.any():
        row = int(is_nan.argmax())
        name = f"row {row}" if user_ids is None else f"user {user_ids[row]}"
        raise DataError(
            f"the scores of {name} hold NaN, so the held-out item has no rank; the model has diverged: train it again "
            "with a lower learning rate"
        )
    above, equal = np.empty(n, np.int64), np.empty(n, np.int64)
    _kernels.count_above_and_equal(scores, negatives, positives, above, equal)
    return Ranks(above=above, equal=equal)


def rank_test_items(
    score: Scorer,
    data: PreparedData,
    *,
    world: World = World(),  # noqa: B008 (frozen)
    finish: Callable[[], None] = lambda: None,
) -> Ranks:
    """Rank every user's held-out item among that user's frozen test negatives.

    ``score`` sees blocks of about 260,000 pairs, so memory stays bounded whatever the number of users. Each process of
    ``world`` ranks its share of the users, calls ``finish``, and all return the ranks of all.
    Raises `DataError`, naming the user, if a score is NaN.
    """
    users_per_block = max(1, _PAIRS_PER_BLOCK // (1 + data.n_negatives))
    own = world.share(data.n_tested)
    above, equal = (np.empty(own.stop - own.start, np.int64) for _ in range(2))
    for start in range(own.start, own.stop, users_per_block):
        stop = min(start + users_per_block, own.stop)
        positives, negatives = data.test_items[start:stop], data.test_negatives[start:stop]
        candidates = np.concatenate([positives[:, None], negatives], axis=1)
        scores = np.ascontiguousarray(score(np.arange(start, stop), candidates), np.float32)
        block = rank_scores(scores, negatives, positives, user_ids=data.user_ids[start:stop])
        above[start - own.start : stop - own.start] = block.above
        equal[start - own.start : stop - own.start] = block.equal
        release_pages(data.test_negatives)
    finish()
    return Ranks(above=world.join(above), equal=world.join(equal))
