"""The best items of the whole catalogue for each of some users."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions, PreparedData
from ncf_ppt import _kernels
from ncf_ppt.item_lists import Recommendations
from ncf_ppt.original_ids import Ids, find_ids, known_numbers
from ncf_ppt.ranking import Scorer
from ppt_core.errors import DataError

NewUsers = Literal["error", "popular"]

_ITEMS_PER_CALL = 1 << 18


def recommend(
    score: Scorer,
    data: PreparedData,
    users: Ids | None = None,
    *,
    k: int = 10,
    items: Ids | None = None,
    exclude: Ids | None = None,
    include_seen: bool = False,
    new_users: NewUsers = "error",
    memory: int = 1 << 26,
) -> Recommendations:
    """Recommend the best ``k`` items of the catalogue to each user.

    A list is a function of the model and the user: it does not depend on who else is asked for.

    Args:
        score: scores pairs; one that is also a `CatalogueScorer` scores whole rows. An item of score minus infinity
            is in no list.
        data: what the model was trained on.
        users: original ids in any order, or a file of them, as `ncf_ppt.original_ids.find_ids` takes them; None is
            every user of ``data``.
        k: items in a list; a list is shorter where fewer are left.
        items: recommend only among these, by original ids or a file of them; None is the whole catalogue. One that
            the catalogue lacks is counted.
        exclude: never recommend these, likewise.
        include_seen: recommend what the user has, too: the train positives, and the validation item. The held-out
            item is never left out: training did not see it, and to recommend it is what the metrics ask for.
        new_users: what a user unknown to ``data`` gets: an error, or the items with the most train positives.
        memory: bytes of catalogue scores held at a time, one user's at least.

    Raises:
        DataError: a user's id is unknown, an id cannot be one, none of ``items`` is in the catalogue, or a score is
            NaN.
        ValueError: ``k`` is below 1, or ``new_users`` is neither of the two.
    """
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    if new_users not in ("error", "popular"):
        raise ValueError(f"new_users is {new_users!r}; it must be error or popular")
    if users is None:
        user_ids, numbers = data.user_ids, np.arange(data.n_users)
    else:
        user_ids, numbers = find_ids(data.user_ids, "user", users)
    is_new = numbers < 0
    if users is not None and is_new.any() and new_users == "error":
        more = ", or let new users have what is most popular (new_users popular)"
        known_numbers(data.user_ids, "user", users, manifest=data.manifest, more=more)
    allowed = choose_items(data, items, exclude)

    k = min(k, data.n_items)
    best, scores = np.empty((len(numbers), k), np.int32), np.empty((len(numbers), k), np.float32)
    lengths = np.empty(len(numbers), np.int64)
    rows_per_tile = max(1, memory // (4 * data.n_items))
    known = np.flatnonzero(~is_new)
    nothing = Interactions.none(n_users=data.n_users, n_items=data.n_items)
    seen = nothing if include_seen else data.known()
    for start in range(0, len(known), rows_per_tile):
        rows = known[start : start + rows_per_tile]
        found, found_scores, lengths[rows], is_nan = _top(score, numbers[rows], k, seen, allowed)
        if is_nan.any():
            raise DataError(
                f"the scores of user {user_ids[rows[is_nan.argmax()]]} hold NaN, so nothing can be recommended; the "
                "model has diverged: train it again with a lower learning rate"
            )
        width = found.shape[1]
        best[rows, :width], scores[rows, :width] = found, found_scores
    if is_new.any():
        popularity = np.bincount(data.train.items, minlength=data.n_items).astype(np.float32)[np.newaxis]
        popular = top_items(allowed.of(popularity), k, nothing, np.zeros(1, np.int64))
        best[is_new], scores[is_new], lengths[is_new] = popular
    is_entry = np.arange(k) < lengths[:, np.newaxis]
    return Recommendations(
        user_ids=user_ids,
        is_new=is_new,
        offsets=np.append(0, np.cumsum(lengths)),
        item_ids=data.item_ids[best[is_entry]],
        scores=scores[is_entry],
        n_unknown_items=allowed.n_unknown,
    )


@runtime_checkable
class CatalogueScorer(Protocol):
    """A model that scores whole rows faster than pair by pair."""

    def score_catalogue(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score every item for users (n,): float32 (n, n_items); higher is better."""


TopItems = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]
"""Items, scores and lengths of lists as `top_items` gives them, and whether a score of the user is NaN, bool (n,)."""


@runtime_checkable
class ListScorer(Protocol):
    """A model that finds the best items without scoring all, and knows what to leave out."""

    def top(self, users: NDArray[np.int64], k: int) -> TopItems:
        """Take the best ``k`` items of users (n,), equal scores in the order of item numbers."""


def score_catalogue(score: Scorer, users: NDArray[np.int64], n_items: int) -> NDArray[np.float32]:
    """Score all items for users (n,): float32 (n, n_items).

    A scorer of pairs is called for one user and at most 262,144 items at a time. Matrix products round by the
    number of their rows (measured for NeuMF: differences to 1.2e-7 between blocks of a few and of thousands of
    pairs, none between larger ones), so this is what makes a user's scores independent of the other users.
    """
    if isinstance(score, CatalogueScorer):
        return score.score_catalogue(users)
    catalogue = np.arange(n_items, dtype=np.int32)[np.newaxis]
    scores = np.empty((len(users), n_items), np.float32)
    for row in range(len(users)):
        for start in range(0, n_items, _ITEMS_PER_CALL):
            items = slice(start, start + _ITEMS_PER_CALL)
            scores[row : row + 1, items] = score(users[row : row + 1], catalogue[:, items])
    return scores


@dataclass(frozen=True, kw_only=True, eq=False)
class AllowedItems:
    """Which items of a catalogue may be recommended.

    Attributes:
        is_left_out: bool (n_items,); None leaves out nothing.
        n_unknown: items that were named and are not in the catalogue.
    """

    is_left_out: NDArray[np.bool_] | None = None
    n_unknown: int = 0

    def of(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scores (n, n_items) of what is allowed, minus infinity for the rest."""
        return scores if self.is_left_out is None else np.where(self.is_left_out, np.float32(-np.inf), scores)


def choose_items(data: PreparedData, items: Ids | None, exclude: Ids | None) -> AllowedItems:
    """Return what is among ``items``, None being all, and not among ``exclude``; original ids or files of them.

    Raises `DataError` for what cannot be an id, and if no item is left.
    """
    if items is None and exclude is None:
        return AllowedItems()
    n_unknown, is_left_out = 0, np.zeros(data.n_items, np.bool_) if items is None else np.ones(data.n_items, np.bool_)
    for named, value in ((items, False), (exclude, True)):
        if named is not None:
            numbers = find_ids(data.item_ids, "item", named)[1]
            is_left_out[numbers[numbers >= 0]] = value
            n_unknown += int((numbers < 0).sum())
    if is_left_out.all():
        raise DataError(nothing_left(data.n_items, n_unknown, data.item_ids[:3].tolist()))
    return AllowedItems(is_left_out=is_left_out, n_unknown=n_unknown)


def nothing_left(n_items: int, n_unknown: int, examples: Sequence[int | str]) -> str:
    """What is said where nothing of a catalogue may be recommended."""
    return (
        f"none of the {n_items:,} items of the catalogue is left to recommend ({n_unknown:,} ids that were named are "
        f"unknown); its ids are such as {', '.join(map(repr, examples))}"
    )


def _top(score: Scorer, users: NDArray[np.int64], k: int, seen: Interactions, allowed: AllowedItems) -> TopItems:
    if isinstance(score, ListScorer):
        return score.top(users, k)
    scores = score_catalogue(score, users, seen.n_items)
    return *top_items(allowed.of(scores), k, seen, users), np.logical_or.reduce(np.isnan(scores), axis=1)


def top_items(
    scores: NDArray[np.float32], k: int, seen: Interactions, users: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """Take the best ``k`` items of each row of a catalogue's scores, equal scores in the order of item numbers.

    Args:
        scores: float32 (n, n_items), none of them NaN. Minus infinity is the score of what nobody has scored, such as
            an item that is no candidate: no list holds it.
        k: at least 1.
        seen: what is left out for each user.
        users: user number of each row, int64 (n,).

    Returns:
        Items, int32 (n, k), best first, and their scores, float32 (n, k), both undefined behind the end of a list; and
        the lengths of the lists, int64 (n,).
    """
    n = len(scores)
    items, top_scores, lengths = np.empty((n, k), np.int32), np.empty((n, k), np.float32), np.empty(n, np.int64)
    first, last = seen.offsets[users], seen.offsets[users + 1]
    _kernels.fill_top_items(scores, seen.items, first, last, items, top_scores, lengths)
    return items, top_scores, lengths
