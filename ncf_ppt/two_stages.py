"""Two stages as one recommender: vectors of a network itself find candidates, and the network scores them.

How many candidates is chosen for the share of the network's own best items that they must hold, over a sample of users,
and that share is then measured over other users. Where candidates cost as much as the whole catalogue, all is scored.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions, PreparedData
from ncf_ppt.candidates import Reranker, Search, open_vectors
from ncf_ppt.networks import Network
from ncf_ppt.original_ids import Ids
from ncf_ppt.packed.network import COST_OF_GATHERING, PackedNCF
from ncf_ppt.packed.tower import PackedNetwork
from ncf_ppt.ranking import Scorer
from ncf_ppt.recommendation import AllowedItems, choose_items, score_catalogue, top_items
from ncf_ppt.searches import Way, searches_of

RECALL = 0.99
N_CANDIDATES = 100  # that a folder's vectors find
_N_USERS = 200  # to choose by, and as many to measure with
_USERS = 64  # at a time
_STEP = 16  # numbers of candidates are its multiples
_WORTH_IT = 0.8  # of the cost of all items: a search must cost less
_NAMES = {"product": "product of vectors", "similarity": "similarity of vectors", "codes": "1-bit codes of vectors"}

_SEARCH_COSTS: dict[Way, float] = {"product": 0.12, "similarity": 0.12, "codes": 0.02}
"""Of an item, in items that the packed network scores. `benchmarks.two_stage` measures both: on two EPYCs a search by
product took .10 to .12, and one by codes .007 to .011, of which we take the double, since others have no popcount."""


@dataclass(frozen=True, kw_only=True, repr=False)
class FirstStage:
    """How candidates are found, and what of the network's exact lists is among them.

    Attributes:
        by: what finds them: ``product`` or ``similarity`` of vectors, see `ncf_ppt.candidates.open_vectors`, or
            ``codes``, the products of the vectors' signs; None if all items are scored.
        n_candidates: that the network scores for each user.
        n_items: in the catalogue.
        k: length of the exact lists.
        recall: share of the network's exact best ``k`` items, seen ones left out, that are candidates: measured over
            ``n_users`` users, evenly spread, by whom nothing was chosen (unless there are too few).
        n_users: see ``recall``.
        reason: why all items are scored, if they are.
    """

    by: Way | None
    n_candidates: int
    n_items: int
    k: int
    recall: float
    n_users: int
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return asdict(self)

    def __repr__(self) -> str:
        if self.by is None:
            return f"candidates: all {self.n_items:,} items are scored, since {self.reason}"
        return (
            f"candidates: {self.n_candidates:,} of {self.n_items:,} items, by {_NAMES[self.by]}; they hold "
            f"{self.recall:.1%} of the exact top {self.k} of {self.n_users:,} users"
        )


@dataclass(frozen=True)
class Candidates:
    """What a network is to score.

    Attributes:
        source: ``auto``: what its own vectors find, see `in_two_stages`; a folder of
            `ncf_ppt.export.embeddings.export_embeddings` whose vectors do; or None: all items.
        n_candidates: how many for each user; None is 100 of a folder's, or as many as lists are long if that is more,
            and chosen by ``recall`` with ``auto``.
        recall: see `in_two_stages`; None is 0.99.
    """

    source: Path | str | None
    n_candidates: int | None = None
    recall: float | None = None

    def __post_init__(self) -> None:
        if self.source is None:
            for name in ("n_candidates", "recall"):
                value = getattr(self, name)
                if value is not None:
                    raise ValueError(f"{name} is {value} without candidates=; say what finds them: auto, or a folder")
        elif self.source != "auto" and self.recall is not None:
            raise ValueError(f"recall is {self.recall}, which is for candidates= auto; leave it out")

    def before(
        self,
        model: Network | PackedNetwork,
        score: Scorer,
        data: PreparedData,
        *,
        k: int,
        items: Ids | None = None,
        exclude: Ids | None = None,
        include_seen: bool = False,
    ) -> tuple[Scorer, FirstStage | None]:
        """Put the search for them in front of a network's scorer ``score``.

        ``items``, ``exclude`` and ``include_seen`` are those of `ncf_ppt.recommendation.recommend`. Raises ValueError
        for fewer candidates than ``k``, and what `in_two_stages` and `open_vectors` raise.
        """
        if self.source is None:
            return score, None
        n = self.n_candidates
        if n is not None and n < k:
            raise ValueError(f"n_candidates is {n}; it must be at least the length of the lists, {k}")
        seen = Interactions.none(n_users=data.n_users, n_items=data.n_items) if include_seen else data.known()
        among: dict[str, Any] = {"seen": seen, "allowed": choose_items(data, items, exclude)}
        if self.source == "auto":
            recall = RECALL if self.recall is None else self.recall
            return in_two_stages(model, score, data, k=k, recall=recall, n_candidates=n, **among)
        search = open_vectors(Path(self.source), data)
        n = max(N_CANDIDATES, k) if n is None else n
        return Reranker(search=search, score=score, n_candidates=n, **among), None


class LastStages:
    """`Candidates.before`, which keeps what it gave last: choosing their number takes a while."""

    def __init__(self) -> None:
        self._asked: tuple[Any, ...] = ()
        self._found: tuple[Scorer, FirstStage | None]

    def of(
        self,
        candidates: Candidates,
        model: Network | PackedNetwork,
        score: Scorer,
        data: PreparedData,
        *,
        k: int,
        items: Ids | None = None,
        exclude: Ids | None = None,
        include_seen: bool = False,
    ) -> tuple[Scorer, FirstStage | None]:
        """See `Candidates.before`; ``model`` and ``data`` must not change."""
        asked = (candidates, id(model), id(data), k, include_seen) if items is None and exclude is None else ()
        if not asked or asked != self._asked:
            among: dict[str, Any] = {"items": items, "exclude": exclude, "include_seen": include_seen}
            self._found, self._asked = candidates.before(model, score, data, k=k, **among), asked
        return self._found


def in_two_stages(
    model: Network | PackedNetwork,
    score: Scorer,
    data: PreparedData,
    *,
    seen: Interactions,
    allowed: AllowedItems = AllowedItems(),  # noqa: B008 (frozen)
    k: int = 10,
    recall: float = RECALL,
    n_candidates: int | None = None,
) -> tuple[Scorer, FirstStage]:
    """Put a search by the model's own vectors in front of it, if that is worth it.

    Of the ways to search that the model has (`searches_of`) the one is taken that costs least with the candidates that
    it needs.

    Args:
        model: whose vectors find candidates.
        score: scores by it.
        data: what the model was trained on.
        seen: what is no candidate of each user.
        allowed: what may be one.
        k: length of the lists that are wanted.
        recall: share of the exact lists that candidates must hold.
        n_candidates: their number, chosen by ``recall`` if None.

    Returns:
        A `ncf_ppt.candidates.Reranker`, or ``score`` itself where all items are scored; and what was found out.

    Raises ValueError if ``recall`` is not above 0 and at most 1.
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall is {recall}; it must be above 0, and 1 at most")
    k = min(k, data.n_items)
    searches = searches_of(model, data)
    everything = {"by": None, "n_candidates": data.n_items, "n_items": data.n_items, "k": k, "recall": 1.0}
    if not searches:
        reason = "the network's scores are themselves products of vectors, which need no second stage"
        return score, FirstStage(**everything, n_users=0, reason=reason)  # type: ignore[arg-type]
    users = np.unique(np.linspace(0, data.n_users - 1, min(2 * _N_USERS, data.n_users)).astype(np.int64))
    exact = _exact_lists(score, users, k, seen, allowed)
    places = {by: _places(search, users, exact, seen, allowed) for by, search in searches.items()}
    chosen_by, measured = (users[::2], slice(1, None, 2)) if len(users) > 1 else (users, slice(None))
    needed = {by: _needed(found[: 2 * len(chosen_by) : 2], recall, k) for by, found in places.items()}
    by = min(needed, key=lambda way: _cost(score, way, needed[way], data.n_items))
    n = min(needed[by] if n_candidates is None else n_candidates, data.n_items)
    if n_candidates is None and _cost(score, by, n, data.n_items) > _WORTH_IT * data.n_items:
        share = f"{recall:.0%} of the exact top {k}"
        reason = f"a search by {_NAMES[by]} needs {n:,} of them for {share}, which costs as much"
        return score, FirstStage(**everything, n_users=0, reason=reason)  # type: ignore[arg-type]
    there = places[by][measured]
    found = FirstStage(
        by=by,
        n_candidates=n,
        n_items=data.n_items,
        k=k,
        recall=float(((there >= 0) & (there < n)).sum() / max((there >= 0).sum(), 1)) if there.size else 1.0,
        n_users=len(there),
    )
    return Reranker(search=searches[by], score=score, seen=seen, n_candidates=n, allowed=allowed), found


def _exact_lists(
    score: Scorer, users: NDArray[np.int64], k: int, seen: Interactions, allowed: AllowedItems
) -> NDArray[np.int32]:
    """The best ``k`` items of users (n,), -1 behind the end of a list: (n, k)."""
    lists = np.empty((len(users), k), np.int32)
    for start in range(0, len(users), _USERS):
        rows = slice(start, start + _USERS)
        scores = allowed.of(score_catalogue(score, users[rows], seen.n_items))
        items, _, lengths = top_items(scores, k, seen, users[rows])
        lists[rows] = np.where(np.arange(k) < lengths[:, np.newaxis], items, -1)
    return lists


def _places(
    search: Search, users: NDArray[np.int64], lists: NDArray[np.int32], seen: Interactions, allowed: AllowedItems
) -> NDArray[np.int64]:
    """Where a search has each item of lists (n, k) in its order of all items not seen, from 0: int64 (n, k).

    -1 behind the end of a list.
    """
    places = np.full(lists.shape, -1, np.int64)
    for start in range(0, len(users), _USERS):
        block = users[start : start + _USERS]
        for number, scores in enumerate(allowed.of(search.score_catalogue(block)), start):
            scores[seen.items_of(int(users[number]))] = -np.inf
            for place, item in enumerate(lists[number].tolist()):
                if item >= 0:
                    before = (scores > scores[item]).sum() + (scores[:item] == scores[item]).sum()
                    places[number, place] = before
    return places


def _needed(places: NDArray[np.int64], recall: float, k: int) -> int:
    """How many candidates hold ``recall`` of what is at these places, a multiple of 16 and at least ``k``."""
    found = np.sort(places[places >= 0])
    most = int(found[max(0, math.ceil(recall * len(found)) - 1)]) + 1 if len(found) else 1
    return -(-max(most, k) // _STEP) * _STEP


def _cost(score: Scorer, by: Way, n_candidates: int, n_items: int) -> float:
    """What candidates and the search for them cost for a user, in items that ``score`` scores in a whole catalogue."""
    if isinstance(score, PackedNCF):
        return _SEARCH_COSTS[by] * n_items + COST_OF_GATHERING * n_candidates
    return n_candidates  # beside which a search is nothing
