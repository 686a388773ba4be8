"""The last item of each user held out: which it is, and what is left to train on."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings import _kernels
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
    tie_order: NDArray[np.int64] | None = None,
) -> LeaveOneOut:
    """Split rows in file order, each user with two items at least; a pair counts once, at its latest row.

    Rows of equal time keep their order in the file, or come in that of ``tie_order``, (n,).
    """
    starts = np.zeros(n_users + 1, np.int64)
    np.cumsum(np.bincount(users, minlength=n_users), out=starts[1:])
    rows = np.empty(len(users), np.int64)
    _kernels.group_rows(users, starts[:-1].copy(), rows)
    lengths, ascending = np.empty(n_users, np.int64), np.empty(len(users), np.int32)
    is_latest = np.empty(len(users), np.bool_)
    _kernels.order_rows(starts, rows, times, tie_order, items, lengths, is_latest, ascending)

    offsets = np.zeros(n_users + 1, np.int64)
    np.cumsum(lengths - 1, out=offsets[1:])
    train_items, history = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.int32)
    is_tied = np.empty(n_users, np.bool_)
    _kernels.split_last(
        starts, rows, times, items, lengths, is_latest, ascending, offsets, train_items, history, is_tied
    )
    n_duplicates = len(rows) - int(lengths.sum())
    return LeaveOneOut(offsets, train_items, history, items[rows[starts[1:] - 1]], n_duplicates, int(is_tied.sum()))
