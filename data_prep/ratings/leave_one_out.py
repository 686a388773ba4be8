"""The last item of each user held out: which it is, and what is left to train on."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions


class LeaveOneOut(NamedTuple):
    """Rows split by `leave_one_out`.

    Attributes:
        offsets: int64 (n_users + 1,), where each user's entries of ``items`` and ``history`` begin.
        items: int32, all but the held-out items, ascending within each user.
        history: int32, the same items, in the order of time within each user.
        test_items: int32 (n_users,), the held-out items.
        n_duplicates: number of rows that repeat a pair.
        n_tied: number of users whose last two items have equal times.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    history: NDArray[np.int32]
    test_items: NDArray[np.int32]
    n_duplicates: int
    n_tied: int


def without_items(known: Interactions, items: NDArray[np.int32]) -> Interactions:
    """Leave out one item of each user, (n_users,), which must be there."""
    return Interactions(
        offsets=known.offsets - np.arange(known.n_users + 1),
        items=known.items[known.items != np.repeat(items, known.degrees)],
        n_items=known.n_items,
    )


def number(codes: NDArray[np.int32], n_codes: int) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Renumber by first appearance: new codes (n,), and the old code of each new one."""
    first_row = np.full(n_codes, len(codes), np.int64)
    # Of equal indices the last assignment stands: from the end, that is the first row.
    first_row[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    order = np.argsort(first_row, kind="stable")[: int((first_row < len(codes)).sum())]
    numbers = np.empty(n_codes, np.int32)
    numbers[order] = np.arange(len(order), dtype=np.int32)
    return numbers[codes], order


def latest_of_each(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each code once, at the last of its places, int64."""
    by_code = np.argsort(codes, kind="stable")
    is_latest = np.append(np.diff(codes[by_code]) > 0, True)[: len(codes)]
    latest: NDArray[np.int64] = codes[np.sort(by_code[is_latest])]
    return latest


def leave_one_out(
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    times: NDArray[np.int64] | NDArray[np.float64],
    *,
    n_users: int,
    n_items: int,
    tie_order: NDArray[np.int64] | None = None,
) -> LeaveOneOut:
    """Split rows in file order, each user with two items at least; a pair counts once, at its latest row.

    Rows of equal time keep their order in the file, or come in that of ``tie_order``, (n,).
    """
    order = np.lexsort((times, users) if tie_order is None else (tie_order, times, users))  # stable
    pairs = users[order].astype(np.int64) * n_items + items[order]
    by_pair = np.argsort(pairs, kind="stable")  # positions in time order, grouped by pair: the latest comes last
    pairs = pairs[by_pair]
    is_latest = np.append(pairs[1:] != pairs[:-1], True)
    latest = by_pair[is_latest]
    pairs = pairs[is_latest]
    del by_pair

    lengths = np.bincount(pairs // n_items, minlength=n_users)
    ends = np.cumsum(np.bincount(users, minlength=n_users))  # of each user's rows in time order
    test_items = items[order[ends - 1]]
    is_held_out = np.zeros(len(order), np.bool_)
    is_held_out[ends - 1] = True  # the very last row of a user is the latest of its pair
    train_items = (pairs[~is_held_out[latest]] % n_items).astype(np.int32)
    offsets = np.zeros(n_users + 1, np.int64)
    np.cumsum(lengths - 1, out=offsets[1:])

    is_kept = np.zeros(len(order), np.bool_)
    is_kept[latest] = True
    kept = order[is_kept]
    kept_times = times[kept]
    kept_ends = np.cumsum(lengths)
    history = np.delete(items[kept], kept_ends - 1)
    n_tied = int((kept_times[kept_ends - 1] == kept_times[kept_ends - 2]).sum())
    return LeaveOneOut(offsets, train_items, history, test_items, len(order) - len(latest), n_tied)
