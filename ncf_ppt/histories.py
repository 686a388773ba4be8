"""What a user did last: the items before a moment, newest first."""

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import PreparedData
from ncf_ppt import _kernels
from ppt_core.errors import DataError


def recent_items(data: PreparedData, positives: NDArray[np.int64], n: int) -> NDArray[np.int32]:
    """Return the ``n`` train items of the same user before each train positive, newest first.

    A positive is its place in ``data.history``. What its user did at that moment or later is never among the items.

    Args:
        data: holds the histories.
        positives: int64 (n_rows,), each in ``0 .. len(data.train) - 1``.
        n: at least 1.

    Returns:
        int32 (n_rows, n); -1 where the user had fewer items.

    Raises:
        DataError: the data hold no histories.
        ValueError: ``n`` is below 1.
    """
    users = np.searchsorted(data.train.offsets, positives, side="right") - 1
    return _recent(data, data.train.offsets[users], positives, n)


def last_items(data: PreparedData, n: int) -> NDArray[np.int32]:
    """Return each user's last ``n`` train items, newest first: what evaluation and serving read.

    The items held out for validation or testing are never among them.

    Returns and raises as `recent_items`, with one row for each user of ``data``.
    """
    return _recent(data, data.train.offsets[:-1], data.train.offsets[1:], n)


def places_in_history(data: PreparedData) -> NDArray[np.int64]:
    """Return where ``data.history`` holds each entry of ``data.train.items``: int64 (n_train,).

    Raises `DataError` if the order in time is not known.
    """
    places = np.empty(len(data.train), np.int64)
    _kernels.fill_places_in_history(data.train.offsets, histories_of(data), places)
    return places


def _recent(data: PreparedData, firsts: NDArray[np.int64], ends: NDArray[np.int64], n: int) -> NDArray[np.int32]:
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    out = np.empty((len(ends), n), np.int32)
    _kernels.fill_recent_items(histories_of(data), firsts, ends, out)
    return out


def histories_of(data: PreparedData) -> NDArray[np.int32]:
    """Return ``data.history``. Raises `DataError` if the order in time is not known."""
    if data.history is None:
        raise DataError(
            "the data do not hold the order of each user's items in time, which recent items need; prepare them again "
            "from a source with times"
        )
    return data.history
