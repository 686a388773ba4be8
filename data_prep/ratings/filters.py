"""Whose ratings are used: enough of them for each user and each item, and negatives left to draw."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.leave_one_out import have_three_items, have_two_items
from data_prep.ratings.raw_ratings import Ratings
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


@dataclass
class Kept:
    """What filters leave, and why the rest went.

    Attributes:
        rows: the numbers of the rows that are left, ascending, or a slice of all.
        users_dropped: number of users by reason.
        rows_dropped: number of rows by reason.
    """

    rows: NDArray[np.int64] | slice = field(default_factory=lambda: slice(None))
    users_dropped: dict[str, int] = field(default_factory=dict)
    rows_dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, n_users: int, n_rows: int) -> None:
        """Count what a filter takes away."""
        self.users_dropped[reason] = self.users_dropped.get(reason, 0) + n_users
        self.rows_dropped[reason] = self.rows_dropped.get(reason, 0) + n_rows


def keep_rows(ratings: Ratings, filters: Filters, *, n_negatives: int, validation: bool) -> Kept:
    """Choose the rows that are used.

    Users whose rows name one item (with ``validation``, two) go, too: nothing would be left to train on.

    Args:
        ratings: all rows.
        filters: see `Filters`.
        n_negatives: items without a rating that each user must leave.
        validation: whether two items are held out.

    Raises `DataError` if nobody is left, or if heavy users are not to be dropped, or are half of all or more.
    """
    too_few = "two_items_only" if validation else "one_item_only"
    kept, n_users = Kept(), len(ratings.user_ids)
    whole = ratings
    while True:
        counts = np.bincount(ratings.users, minlength=n_users)
        is_active = counts >= filters.min_ratings
        enough = have_three_items(ratings) if validation else have_two_items(ratings)
        is_kept = is_active & enough
        if not is_kept.any():
            raise DataError(_nobody_left(whole, counts, is_active, filters, validation=validation))
        kept.drop("below_min_ratings", int((~is_active & (counts > 0)).sum()), int(counts[~is_active].sum()))
        kept.drop(too_few, int((is_active & ~enough).sum()), int(counts[is_active & ~enough].sum()))
        if not is_kept[counts > 0].all():
            ratings = _only(kept, ratings, is_kept[ratings.users])
        if filters.min_item_ratings > 1:
            rare = np.bincount(ratings.items, minlength=len(ratings.item_ids)) < filters.min_item_ratings
            gone = rare[ratings.items]
            kept.rows_dropped["below_min_item_ratings"] = kept.rows_dropped.get("below_min_item_ratings", 0) + int(
                gone.sum()
            )
            if gone.any():
                if gone.all():
                    raise DataError(
                        f"no item is left with at least {filters.min_item_ratings} ratings by users with at least "
                        f"{filters.min_ratings}; lower min_item_ratings or min_ratings"
                    )
                # Who loses all rows here is below min_ratings as well: counted when users are looked at again.
                before = np.bincount(ratings.users, minlength=n_users) > 0
                ratings = _only(kept, ratings, ~gone)
                lost = before & (np.bincount(ratings.users, minlength=n_users) == 0)
                kept.drop("below_min_ratings", int(lost.sum()), 0)
                continue
        heavy = _heavy_users(ratings, n_negatives)
        if not heavy.any():
            return kept
        n_left = int((np.bincount(ratings.users, minlength=n_users) > 0).sum())
        _refuse_heavy_users(whole, ratings, heavy, n_left, n_negatives, filters)
        is_heavy = heavy[ratings.users]
        kept.drop("without_negatives", int(heavy.sum()), int(is_heavy.sum()))
        ratings = _only(kept, ratings, ~is_heavy)


def _only(kept: Kept, ratings: Ratings, chosen: NDArray[np.bool_]) -> Ratings:
    """Keep some of the rows that were left."""
    rows = np.flatnonzero(chosen)
    kept.rows = rows if isinstance(kept.rows, slice) else kept.rows[rows]
    return ratings.only(rows)


def _heavy_users(ratings: Ratings, n_negatives: int) -> NDArray[np.bool_]:
    """Which users leave fewer than ``n_negatives`` items of the catalogue, bool (n_users,)."""
    n_users, n_ids = len(ratings.user_ids), len(ratings.item_ids)
    n_items = int((np.bincount(ratings.items, minlength=n_ids) > 0).sum())
    heavy = np.bincount(ratings.users, minlength=n_users) > n_items - n_negatives  # rows: as many items at most
    if heavy.any():
        rows = heavy[ratings.users]
        pairs = np.unique(ratings.users[rows].astype(np.int64) * n_ids + ratings.items[rows])
        heavy = np.bincount(pairs // n_ids, minlength=n_users) > n_items - n_negatives
    return heavy


def _refuse_heavy_users(
    whole: Ratings, ratings: Ratings, heavy: NDArray[np.bool_], n_left: int, n_negatives: int, filters: Filters
) -> None:
    n_heavy = int(heavy.sum())
    if filters.heavy_users == "drop" and 2 * n_heavy < n_left:
        return
    pairs = np.unique(ratings.users.astype(np.int64) * len(whole.item_ids) + ratings.items)
    degrees = np.bincount(pairs // len(whole.item_ids), minlength=len(heavy))
    n_items = len(np.unique(ratings.items))
    fewest = n_items - int(degrees.max())
    user = whole.user_ids[int(degrees.argmax())]
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
    ratings: Ratings, counts: NDArray[np.int64], is_active: NDArray[np.bool_], filters: Filters, *, validation: bool
) -> str:
    min_ratings = filters.min_ratings
    if is_active.any():
        rated, needed = ("two items at most", "three") if validation else ("one item only", "two")
        return (
            f"every user with at least {min_ratings} ratings rated {rated}, so there is nothing to hold out; "
            f"prepare data with at least {needed} items a user"
        )
    if filters.min_item_ratings > 1 and len(counts) and counts.sum() < len(ratings):
        return (
            f"no user is left with at least {min_ratings} ratings of items with at least {filters.min_item_ratings}; "
            "lower min_item_ratings or min_ratings"
        )
    most = int(counts.max(initial=0))
    advice = f"set min_ratings to at most {most}" if most > 1 else "prepare data with more ratings a user"
    return f"no user has at least {min_ratings} ratings (the most is {most}); {advice}"
