"""Preparing ratings that are larger than memory: rows on disk, in parts by user, one part in memory at a time.

What comes out is byte for byte what `data_prep.ratings.prepare.prepare` makes: the filters are the same and go over the
rows in blocks, a part goes through the same steps as a whole set, and a user's negatives depend on the user's number.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.filters import Kept
from data_prep.ratings.growing_arrays import GrowingArray
from data_prep.ratings.interactions import write_rest
from data_prep.ratings.prepare import Ordering, Part, Settings, n_unseen, numbers_of
from data_prep.ratings.raw_ratings import Ids
from data_prep.ratings.stored_ratings import StoredColumns, StoredRatings
from data_prep.ratings.streamed_reading import StreamedRatings

ROW_BYTES = 120
"""Memory that a row of a part takes while its users' items are held out."""

_Bounds = list[tuple[int, int]]


class Streamed(NamedTuple):
    """A set whose arrays are in a folder already."""

    user_ids: Ids
    item_ids: Ids
    n_train: int
    settings: Settings
    manifest: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write the rest there, which completes the set."""
        settings = self.settings
        write_rest(
            folder,
            self.manifest,
            self.user_ids,
            self.item_ids,
            protocol=settings.protocol,
            n_train=self.n_train,
            n_negatives=settings.n_negatives,
        )


def prepare_stored(read: StreamedRatings, settings: Settings, *, source: Mapping[str, Any]) -> Streamed:
    """Write the arrays of a prepared set into the folder of what was read.

    Args:
        read: all rows. They are removed once they lie in parts.
        settings: what is made of them.
        source: where they came from.

    Raises what `data_prep.ratings.prepare.prepare` does.
    """
    ratings, folder, n_rows = read.ratings, read.folder, len(read.ratings)
    kept = settings.keep(ratings)
    ordering = _ordering(ratings, kept, settings)
    n_items = len(kept.item_order)
    bounds = _bounds(kept, settings, read.room.part_bytes)
    counts, test_items = np.zeros(n_items, np.int64), []
    n_tied = n_duplicates = 0
    parts = _partition(ratings, kept, ordering, settings, bounds, folder / "parts")
    ratings.columns.remove()
    with contextlib.ExitStack() as stack:
        arrays = {}
        for name, dtype, shape in _arrays(settings, ordering):
            arrays[name] = GrowingArray(folder / f"{name}.npy", dtype, shape)
            stack.callback(arrays[name].close)
        n_train = 0
        arrays["offsets"].append(np.zeros(1, np.int64))
        for (first, last), stored in zip(bounds, parts, strict=True):
            part = _hold_out(stored, settings, n_users=last - first, n_items=n_items, first_user=first)
            stored.remove()
            for name, array in _values(part, n_train).items():
                if name in arrays:
                    arrays[name].append(array)
            n_train += len(part.train)
            n_tied, n_duplicates = n_tied + part.n_tied, n_duplicates + part.n_duplicates
            counts += np.bincount(part.train.items, minlength=n_items)
            test_items.append(part.test_items)
            del part
        for array in arrays.values():
            array.finish()
    (folder / "parts").rmdir()
    return Streamed(
        user_ids=ratings.user_ids[kept.user_order],
        item_ids=ratings.item_ids[kept.item_order],
        n_train=n_train,
        settings=settings,
        manifest=settings.manifest(
            kept,
            ordering,
            source={**source, "n_rows": n_rows},
            reading=read.reading,
            n_tied=n_tied,
            n_duplicates=n_duplicates,
            n_unseen=n_unseen(counts, np.concatenate(test_items)),
        ),
    )


def _arrays(settings: Settings, ordering: Ordering) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    """Name, type and shape of a row of each array that is made."""
    yield "offsets", np.int64, ()
    yield "items", np.int32, ()
    yield "test_items", np.int32, ()
    yield "test_negatives", np.int32, (settings.n_negatives,)
    if ordering.is_history:
        yield "history", np.int32, ()
    if settings.validation:
        yield "validation_items", np.int32, ()
        yield "validation_negatives", np.int32, (settings.n_negatives,)


def _values(part: Part, n_before: int) -> dict[str, Any]:
    """The rows that a part adds to each array, ``n_before`` train items behind the first."""
    return {
        "offsets": part.train.offsets[1:] + n_before,
        "items": part.train.items,
        "history": part.history,
        "test_items": part.test_items,
        "test_negatives": part.test_negatives,
        "validation_items": part.validation_items,
        "validation_negatives": part.validation_negatives,
    }


def _ordering(ratings: StoredRatings, kept: Kept, settings: Settings) -> Ordering:
    extents = []
    if ratings.has_times:
        for block in ratings.blocks():
            times = ratings.times(block)[kept.rows(*ratings.pair(block))]
            extents += [(times.min(), times.max())] if len(times) else []
    is_constant = ratings.has_times and min(low for low, _ in extents) == max(high for _, high in extents)
    return Ordering(order=settings.order, has_times=ratings.has_times, is_constant=bool(is_constant))


def _bounds(kept: Kept, settings: Settings, part_bytes: int) -> _Bounds:
    """The first and the last user, exclusive, of each part, numbered as in the set."""
    per_user = settings.n_negatives * 4 * (2 if settings.validation else 1)
    ends = np.cumsum(kept.user_counts[kept.user_order] * ROW_BYTES + per_user)
    bounds: _Bounds = []
    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends, before + part_bytes, side="right")), first + 1)
        bounds.append((first, last))
        first = last
    return bounds


def _partition(
    ratings: StoredRatings, kept: Kept, ordering: Ordering, settings: Settings, bounds: _Bounds, folder: Path
) -> list[StoredColumns]:
    """Put the rows that are kept into parts by user, each in file order, under their numbers in the set."""
    users_of, items_of = numbers_of(kept.user_order, len(kept.users)), numbers_of(kept.item_order, len(kept.items))
    # Numbers of 16 bits are sorted by radix.
    place_type = np.int16 if len(bounds) < 2**15 else np.int32
    part_of = np.repeat(np.arange(len(bounds), dtype=place_type), [last - first for first, last in bounds])
    parts: list[StoredColumns] = []
    for block in ratings.blocks():
        users, items = ratings.pair(block)
        rows = kept.rows(users, items)
        times, ties = ordering.keys(ratings.times(block)[rows], block, rows, settings.seed)
        if not parts:
            dtypes = {"user": np.int32, "item": np.int32, "time": times.dtype}
            dtypes |= {} if ties is None else {"tie": ties.dtype}
            parts = [StoredColumns(folder / str(place), dtypes) for place in range(len(bounds))]
        users, items = users_of[users[rows]], items_of[items[rows]]
        places = part_of[users]
        order = np.argsort(places, kind="stable")
        ends = np.cumsum(np.bincount(places, minlength=len(bounds)))
        columns: dict[str, NDArray[Any]] = {"user": users, "item": items, "time": times}
        columns |= {} if ties is None else {"tie": ties}
        for place, (part, end) in enumerate(zip(parts, ends.tolist(), strict=True)):
            chosen = order[(ends[place - 1] if place else 0) : end]
            if len(chosen):
                part.append(**{name: values[chosen] for name, values in columns.items()})
    return parts


def _hold_out(stored: StoredColumns, settings: Settings, *, n_users: int, n_items: int, first_user: int) -> Part:
    users = stored.read("user")
    users -= first_user
    return settings.hold_out(
        users,
        stored.read("item"),
        stored.read("time"),
        stored.read("tie") if "tie" in stored.names else None,
        n_users=n_users,
        n_items=n_items,
        first_user=first_user,
    )
