"""Rank of the held-out item in the whole catalogue, and the metrics that follow from it.

Metrics of sampled negatives rank models inconsistently (Krichene and Rendle 2020); these do not depend on a sample.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import PreparedData
from ncf_ppt import _kernels
from ncf_ppt.ranking import Ranks, Scorer
from ncf_ppt.recommendation import score_catalogue, top_items
from ppt_core.distributed import World
from ppt_core.errors import DataError


@dataclass(frozen=True, kw_only=True)
class CatalogueRanks(Ranks):
    """For each user, how many of the items that are no train positives score above the held-out one, and the same.

    Attributes:
        lists: int32 (n_users, k): the best such items of each user, best first, equal scores in the order of item
            numbers; -1 where fewer than k are left.
        n_items: number of items in the catalogue.
    """

    lists: NDArray[np.int32]
    n_items: int

    def mrr(self) -> float:
        """Mean of ``1 / (rank + 1)``, rank from 0, over all users, the held-out item losing ties: MRR."""
        return float(np.mean(1 / (self.pessimistic + 1)))

    def expected_mrr(self) -> float:
        """MRR averaged over all orders of the tied items."""
        sums = np.append(0.0, np.cumsum(1 / np.arange(1, self.pessimistic.max() + 2)))
        return float(np.mean((sums[self.pessimistic + 1] - sums[self.above]) / (self.equal + 1)))

    def coverage(self, k: int = 10) -> float:
        """Share of the catalogue that is among the best ``k`` of at least one user.

        Raises ValueError if k is below 1 or beyond the length of ``lists``, unless those hold whole catalogues.
        """
        length = self.lists.shape[1]
        if k < 1 or length < min(k, self.n_items):
            raise ValueError(f"k is {k}, but lists of {length} items were kept; rank the catalogue with this k")
        recommended = np.unique(self.lists[:, :k])
        return int((recommended >= 0).sum()) / self.n_items

    def metrics(self, k: int = 10) -> dict[str, Any]:
        """All metrics under the names of the JSON output."""
        more = {"mrr": self.mrr(), "expected_mrr": self.expected_mrr(), "coverage": self.coverage(k)}
        return {**super().metrics(k), **more}


def rank_catalogue(
    score: Scorer,
    data: PreparedData,
    *,
    k: int = 10,
    memory: int = 1 << 26,
    world: World = World(),  # noqa: B008 (frozen)
) -> CatalogueRanks:
    """Rank every user's held-out item among all items, the user's train positives and validation item left out.

    Args:
        score: scores pairs; one that is also a `ncf_ppt.recommendation.CatalogueScorer` scores whole rows. A held-out
            item of score minus infinity, which nobody has scored, ranks behind all others, equal to none.
        data: whose held-out items are ranked.
        k: length of the lists that coverage is counted in.
        memory: bytes of catalogue scores held at a time, one user's at least.
        world: each of its processes ranks its share of the users, and all return the ranks of all.

    Raises:
        DataError: a score is NaN, which has no rank; the user is named.
        ValueError: ``k`` is below 1, or the scorer has another number of items.
    """
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    own = world.share(data.n_tested)
    n_users = own.stop - own.start
    above, equal = np.empty(n_users, np.int64), np.empty(n_users, np.int64)
    lists = np.empty((n_users, min(k, data.n_items)), np.int32)
    known = data.known()
    n_rows = max(1, memory // (4 * data.n_items))
    for start in range(own.start, own.stop, n_rows):
        users = np.arange(start, min(start + n_rows, own.stop))
        rows = slice(start - own.start, start - own.start + len(users))
        test_items = data.test_items[users]
        scores = np.ascontiguousarray(score_catalogue(score, users, data.n_items), np.float32)
        if scores.shape != (len(users), data.n_items):
            raise ValueError(f"scores have shape {scores.shape}; {(len(users), data.n_items)} fits these data")
        seen = known.items, known.offsets[users], known.offsets[users + 1]
        is_nan = np.empty(len(users), np.bool_)
        _kernels.count_above_and_equal_in_catalogue(scores, *seen, test_items, above[rows], equal[rows], is_nan)
        if is_nan.any():
            user_id = data.user_ids[users[is_nan.argmax()]]
            raise DataError(
                f"the scores of user {user_id} hold NaN, so the held-out item has no rank; the model has diverged: "
                "train it again with a lower learning rate"
            )
        is_missed = scores[np.arange(len(users)), test_items] == -np.inf  # behind whatever has a score
        above[rows] += np.where(is_missed, equal[rows], 0)
        equal[rows] = np.where(is_missed, 0, equal[rows])
        items, _, lengths = top_items(scores, lists.shape[1], known, users)
        lists[rows] = np.where(np.arange(lists.shape[1]) < lengths[:, np.newaxis], items, -1)
    return CatalogueRanks(
        above=world.join(above), equal=world.join(equal), lists=world.join(lists), n_items=data.n_items
    )
