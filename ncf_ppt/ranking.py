"""Rank of the held-out item among its candidates, ties counted, and the metrics that follow from it.

A constant scorer must not score: the headline metrics let the positive lose every tie ("must always come last if
there is a tie", the MLPerf rules), and the expected ones average over all orders of the tied items.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncf_ppt import _kernels
from ncf_ppt.interactions import PreparedData
from ppt_core.errors import DataError

Scorer = Callable[[NDArray[np.int64], NDArray[np.int32]], NDArray[np.float32]]
"""Maps users (n,) and their candidate items (n, m) to scores (n, m); higher is better."""

_PAIRS_PER_BLOCK = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """For each user, how many distinct negatives score above the held-out item, and how many score the same.

    Attributes:
        above: int64 (n_users,).
        equal: int64 (n_users,); all zero if there is no tie.
    """

    above: NDArray[np.int64]
    equal: NDArray[np.int64]

    @property
    def pessimistic(self) -> NDArray[np.int64]:
        """Rank from 0 when the positive loses every tie."""
        return self.above + self.equal

    def hit_ratio(self, k: int = 10) -> float:
        """Share of users whose held-out item is among the first ``k``, losing ties: HR@k."""
        return float(np.mean(self.pessimistic < k))

    def ndcg(self, k: int = 10) -> float:
        """Mean of ``ln 2 / ln(rank + 2)``, rank from 0, 0 beyond the first ``k``: NDCG@k with one relevant item."""
        return float(np.mean(_gains(k)[np.minimum(self.pessimistic, k)]))

    def expected_hit_ratio(self, k: int = 10) -> float:
        """HR@k averaged over all orders of the tied items: a constant scorer gets k / (n_negatives + 1)."""
        places = np.clip(k - self.above, 0, self.equal + 1)
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


def _gains(k: int) -> NDArray[np.float64]:
    """Gain of rank 0 .. k; that of k stands for every rank beyond the first k, and is 0."""
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    return np.append(np.log(2) / np.log(np.arange(k) + 2), 0.0)


def rank_scores(scores: NDArray[np.float32], negatives: NDArray[np.int32], positives: NDArray[np.int32]) -> Ranks:
    """Rank each row's positive among its negatives by score.

    Args:
        scores: float32 (n, 1 + m), the positive's score first.
        negatives: int32 (n, m), ascending in each row. A repeated item counts once, and the positive itself
            among the negatives does not count.
        positives: int32 (n,).

    Raises `DataError` if any score is NaN: a diverged model has no rank.
    """
    if np.isnan(scores).any():
        row = int(np.isnan(scores).any(axis=1).argmax())
        raise DataError(f"the scores of row {row} hold NaN, so it has no rank; the model has diverged")
    above, equal = np.empty(len(scores), np.int64), np.empty(len(scores), np.int64)
    _kernels.count_above_and_equal(scores, negatives, positives, above, equal)
    return Ranks(above=above, equal=equal)


def rank_test_items(score: Scorer, data: PreparedData) -> Ranks:
    """Rank every user's held-out item among that user's frozen test negatives.

    ``score`` sees blocks of about 260,000 pairs, so memory stays bounded whatever the number of users.
    """
    users_per_block = max(1, _PAIRS_PER_BLOCK // (1 + data.n_negatives))
    blocks = []
    for start in range(0, data.n_users, users_per_block):
        stop = min(start + users_per_block, data.n_users)
        positives, negatives = data.test_items[start:stop], data.test_negatives[start:stop]
        candidates = np.concatenate([positives[:, None], negatives], axis=1)
        scores = np.ascontiguousarray(score(np.arange(start, stop), candidates), np.float32)
        blocks.append(rank_scores(scores, negatives, positives))
    return Ranks(
        above=np.concatenate([block.above for block in blocks]),
        equal=np.concatenate([block.equal for block in blocks]),
    )
