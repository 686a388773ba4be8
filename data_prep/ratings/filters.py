"""Whose ratings are used: enough of them for each user and each item, and negatives left to draw."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings import _kernels
from data_prep.ratings.raw_ratings import Ids, RatingsInBlocks
from ppt_core.errors import DataError

HeavyUsers = Literal["drop", "fail"]


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Who is left out.

    Attributes:
        min_ratings: users with fewer rows are dropped.
        min_item_ratings: rows of items with fewer are dropped; both are repeated until they hold for all that is left.
        heavy_users: what becomes of users who leave too few items to draw negatives from: ``drop``, if they are
            fewer than half, or ``fail``.

    Raises ValueError for a value out of its range.
    """

    min_ratings: int = 20
    min_item_ratings: int = 1
    heavy_users: HeavyUsers = "drop"

    def __post_init__(self) -> None:
        for name in ("min_ratings", "min_item_ratings"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.heavy_users not in ("drop", "fail"):
            raise ValueError(f"heavy_users is {self.heavy_users!r}; it must be drop or fail")


@dataclass(kw_only=True)
class Kept:
    """What filters leave, and why the rest went. A row is left if its user and its item are kept.

    Attributes:
        users: which user codes are kept, bool (n_users,).
        items: which item codes are kept, bool (n_items,).
        user_counts: rows that are left of each user code, int64.
        user_order: the codes of the users that are left, in order of their first row that is left.
        item_order: likewise of items.
        users_dropped: number of users by reason.
        rows_dropped: number of rows by reason.
    """

    users: NDArray[np.bool_]
    items: NDArray[np.bool_]
    user_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    user_order: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))
    item_order: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))
    users_dropped: dict[str, int] = field(default_factory=dict)
    rows_dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, n_users: int, n_rows: int) -> None:
        """Count what a filter takes away."""
        self.users_dropped[reason] = self.users_dropped.get(reason, 0) + n_users
        self.rows_dropped[reason] = self.rows_dropped.get(reason, 0) + n_rows

    def rows(self, users: NDArray[np.int32], items: NDArray[np.int32]) -> NDArray[np.int64] | slice:
        """The places of the rows that are left, ascending, or a slice of all."""
        if self.users.all() and self.items.all():
            return slice(None)
        return np.flatnonzero(self.users[users] & self.items[items])


class _Tally(NamedTuple):
    """Counts of the rows that are left: by user and by item, and the first row of each; distinct items up to three."""

    user_counts: NDArray[np.int64]
    item_counts: NDArray[np.int64]
    user_rows: NDArray[np.int64]
    item_rows: NDArray[np.int64]
    n_distinct: NDArray[np.uint8]


def keep_rows(ratings: RatingsInBlocks, filters: Filters, *, n_negatives: int, validation: bool) -> Kept:
    """Choose the rows that are used.

    Users whose rows name one item (with ``validation``, two) go, too: nothing would be left to train on.

    Args:
        ratings: all rows, in memory or on disk: they are gone through once or, where something is dropped, more often.
        filters: see `Filters`.
        n_negatives: items without a rating that each user must leave.
        validation: whether two items are held out.

    Raises `DataError` if nobody is left, or if heavy users are not to be dropped, or are half of all or more.
    """
    too_few = "two_items_only" if validation else "one_item_only"
    kept = Kept(users=np.ones(len(ratings.user_ids), np.bool_), items=np.ones(len(ratings.item_ids), np.bool_))
    had_rows = np.zeros(
        len(kept.users), np.bool_
    )  # before rare items went: who lost all rows with them is below min_ratings as well
    while True:
        left = _tally(ratings, kept)
        counts = left.user_counts
        kept.drop("below_min_ratings", int((had_rows & (counts == 0)).sum()), 0)
        is_active = counts >= filters.min_ratings
        enough = left.n_distinct > (2 if validation else 1)
        is_kept = is_active & enough
        if not is_kept.any():
            raise DataError(_nobody_left(len(ratings), counts, is_active, filters, validation=validation))
        kept.drop("below_min_ratings", int((~is_active & (counts > 0)).sum()), int(counts[~is_active].sum()))
        kept.drop(too_few, int((is_active & ~enough).sum()), int(counts[is_active & ~enough].sum()))
        if not is_kept[counts > 0].all():
            kept.users &= is_kept
            left = _tally(ratings, kept)
        if filters.min_item_ratings > 1:
            rare = left.item_counts < filters.min_item_ratings
            n_gone = int(left.item_counts[rare].sum())
            kept.rows_dropped["below_min_item_ratings"] = kept.rows_dropped.get("below_min_item_ratings", 0) + n_gone
            if n_gone == left.item_counts.sum():
                raise DataError(
                    f"no item is left with at least {filters.min_item_ratings} ratings by users with at least "
                    f"{filters.min_ratings}; lower min_item_ratings or min_ratings"
                )
            if n_gone:
                had_rows, kept.items = left.user_counts > 0, kept.items & ~rare
                continue
        n_items = int((left.item_counts > 0).sum())
        degrees = _degrees(ratings, kept, left.user_counts > n_items - n_negatives)
        heavy = degrees > n_items - n_negatives
        if not heavy.any():
            kept.user_counts = left.user_counts
            kept.user_order, kept.item_order = _in_order(left.user_rows), _in_order(left.item_rows)
            return kept
        n_left = int((left.user_counts > 0).sum())
        _refuse_heavy_users(ratings.user_ids, degrees, heavy, n_left, n_items, n_negatives, filters)
        kept.drop("without_negatives", int(heavy.sum()), int(left.user_counts[heavy].sum()))
        had_rows, kept.users = np.zeros(len(heavy), np.bool_), kept.users & ~heavy


_NEVER = np.iinfo(np.int64).max


def _tally(ratings: RatingsInBlocks, kept: Kept) -> _Tally:
    n_users, n_items = len(kept.users), len(kept.items)
    left = _Tally(
        np.zeros(n_users, np.int64),
        np.zeros(n_items, np.int64),
        np.full(n_users, _NEVER),
        np.full(n_items, _NEVER),
        np.zeros(n_users, np.uint8),
    )
    some_items, row = np.empty((n_users, 2), np.int32), 0
    for users, items in ratings.pairs():
        row = _kernels.tally_rows(users, items, row, kept.users, kept.items, *left[:4], some_items, left.n_distinct)
    return left


def _in_order(first_rows: NDArray[np.int64]) -> NDArray[np.intp]:
    """The codes that have a row, in order of their first one."""
    return np.argsort(first_rows, kind="stable")[: int((first_rows < _NEVER).sum())]


def _degrees(ratings: RatingsInBlocks, kept: Kept, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of distinct items of each chosen user, int64 (n_users,), and 0 of the others."""
    degrees = np.zeros(len(chosen), np.int64)
    if chosen.any():
        n_chosen = int(chosen.sum())
        places = np.full(len(chosen), -1, np.int64)
        places[chosen] = np.arange(n_chosen)
        seen, counts = np.zeros((n_chosen, (len(kept.items) + 63) // 64), np.uint64), np.zeros(n_chosen, np.int64)
        for users, items in ratings.pairs():
            _kernels.count_distinct(users, items, places, kept.items, seen, counts)
        degrees[chosen] = counts
    return degrees


def _refuse_heavy_users(
    user_ids: Ids,
    degrees: NDArray[np.int64],
    heavy: NDArray[np.bool_],
    n_left: int,
    n_items: int,
    n_negatives: int,
    filters: Filters,
) -> None:
    n_heavy = int(heavy.sum())
    if filters.heavy_users == "drop" and 2 * n_heavy < n_left:
        return
    fewest = n_items - int(degrees.max())
    user = user_ids[int(degrees.argmax())]
    among = f"{n_heavy:,} of {n_left:,} users leave fewer than {n_negatives}" if n_heavy > 1 else "no other user is so"
    way_out = "" if filters.heavy_users == "drop" else ", or drop such users with heavy_users="
    raise DataError(
        f"user {user} has {fewest} of {n_items} items left to draw negatives from, and {n_negatives} are "
        f"needed; {among}: set n_negatives to at most {fewest}{way_out}"
        if fewest
        else f"user {user} rated all {n_items} items, so no negative exists; leave such users "
        f"({int((degrees == n_items).sum())} here) out of the ratings{way_out}"
    )


def _nobody_left(
    n_rows: int, counts: NDArray[np.int64], is_active: NDArray[np.bool_], filters: Filters, *, validation: bool
) -> str:
    min_ratings = filters.min_ratings
    if is_active.any():
        rated, needed = ("two items at most", "three") if validation else ("one item only", "two")
        return (
            f"every user with at least {min_ratings} ratings rated {rated}, so there is nothing to hold out; "
            f"prepare data with at least {needed} items a user"
        )
    if filters.min_item_ratings > 1 and len(counts) and counts.sum() < n_rows:
        return (
            f"no user is left with at least {min_ratings} ratings of items with at least {filters.min_item_ratings}; "
            "lower min_item_ratings or min_ratings"
        )
    most = int(counts.max(initial=0))
    advice = f"set min_ratings to at most {most}" if most > 1 else "prepare data with more ratings a user"
    return f"no user has at least {min_ratings} ratings (the most is {most}); {advice}"
