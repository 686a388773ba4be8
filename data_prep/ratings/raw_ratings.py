"""Raw ratings as they stand in a file: who, what and when, with the original ids beside them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Ids = NDArray[Any]


class RatingsInBlocks(Protocol):
    """Rows in memory (`Ratings`) or on disk (`data_prep.ratings.stored_ratings.StoredRatings`), for filters."""

    @property
    def user_ids(self) -> Ids:
        """The original id of each user code."""

    @property
    def item_ids(self) -> Ids:
        """The original id of each item code."""

    def __len__(self) -> int: ...

    def pairs(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """User codes and item codes of all rows in file order, a block at a time."""


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """Parallel arrays in file order, one element a row. Every rating is a positive: its value is not kept.

    Attributes:
        users: int32 (n,), a code of the user: 0, 1, ... in order of first appearance in the file.
        items: int32 (n,), a code of the item, numbered the same way.
        times: int64 or float64 (n,), all finite. The unit is the file's own: only the order matters.
        user_ids: the original id of each user code; int64 (n_users,) or str objects (n_users,).
        item_ids: the original id of each item code; int64 (n_items,) or str objects (n_items,).
        has_times: False where the source has none; the times are then all 0.
        time_unit: ``us`` where the times were dates, microseconds since 1970; None where only the source knows.

    Raises ValueError if the lengths differ or a time is not finite.
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    times: NDArray[np.int64] | NDArray[np.float64]
    user_ids: Ids
    item_ids: Ids
    has_times: bool = True
    time_unit: str | None = None

    def __post_init__(self) -> None:
        if not len(self.users) == len(self.items) == len(self.times):
            raise ValueError(
                f"users, items and times must be equally long, not {len(self.users)}, {len(self.items)} and "
                f"{len(self.times)}"
            )
        if not np.isfinite(self.times).all():
            raise ValueError("times must be finite")

    @classmethod
    def from_ids(cls, users: Ids, items: Ids, times: NDArray[Any] | None) -> "Ratings":
        """Build from the raw ids of each row: parallel arrays of integers or of str objects, (n,) each.

        Integer ids become int64; times become int64 if they are integers and float64 otherwise; None is for rows
        without.
        """
        user_codes, user_ids = number_ids(users)
        item_codes, item_ids = number_ids(items)
        has_times = times is not None
        times = np.zeros(len(users), np.int64) if times is None else times
        return cls(
            users=user_codes,
            items=item_codes,
            times=times.astype(np.int64) if times.dtype.kind in "iu" else times.astype(np.float64),
            user_ids=user_ids,
            item_ids=item_ids,
            has_times=has_times,
        )

    def only(self, rows: NDArray[np.int64]) -> "Ratings":
        """Some of the rows, by their numbers; all users and items keep their codes."""
        return replace(self, users=self.users[rows], items=self.items[rows], times=self.times[rows])

    def pairs(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """All users and items: one block."""
        yield self.users, self.items

    def __len__(self) -> int:
        return len(self.users)

    def __repr__(self) -> str:
        return f"Ratings({len(self):,} rows, {len(self.user_ids):,} users, {len(self.item_ids):,} items)"


def number_ids(ids: Ids) -> tuple[NDArray[np.int32], Ids]:
    """Number the distinct ids in order of first appearance.

    Args:
        ids: integers or str objects (n,), none missing. Unsigned integers beyond int64 become strings.

    Returns:
        int32 codes (n,), and the distinct ids by code: int64 for integers, str objects otherwise.
    """
    fits = ids.dtype.kind == "i" or (ids.dtype.kind == "u" and ids.max(initial=0) <= np.iinfo(np.int64).max)
    codes, distinct = pd.factorize(ids.astype(np.int64 if fits else object, copy=False))
    if not fits:
        distinct = np.array([str(value) for value in distinct], dtype=object)
    return codes.astype(np.int32), np.asarray(distinct)
