"""From raw ratings to a prepared set: filter, number, hold out each user's last item, draw its negatives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.filters import Filters, HeavyUsers, Kept, keep_rows
from data_prep.ratings.interactions import Interactions, PreparedData
from data_prep.ratings.leave_one_out import leave_one_out, without_items
from data_prep.ratings.raw_ratings import Ratings, RatingsInBlocks
from data_prep.ratings.reading import Reading
from data_prep.ratings.sampling import draw_test_negatives
from ppt_core.random_words import check_seed, random_words

MIN_RATINGS = 20
N_NEGATIVES = 999
TIE_RULE = "a user's rows are ordered by time, equal times by their order in the file; the last one is held out"
DRAWN_RULE = "the source has no times: the seed puts each user's rows in order, and the last one is held out"
FILE_RULE = "a user's rows are in the order of the file, and the last one is held out"
TIES_DRAWN_RULE = "a user's rows are ordered by time, equal times by the seed; the last one is held out"
VALIDATION_RULE = "the item before the held-out one, in the same order, is held out of training too, for validation"

DrawnProtocol = Literal["strict", "mlperf"]
Order = Literal["file", "random"]


def prepare(
    ratings: Ratings,
    *,
    min_ratings: int = MIN_RATINGS,
    min_item_ratings: int = 1,
    heavy_users: HeavyUsers = "drop",
    n_negatives: int = N_NEGATIVES,
    protocol: DrawnProtocol = "strict",
    seed: int = 0,
    order: Order | None = None,
    validation: bool = False,
    source: Mapping[str, Any],
    reading: Reading | None = None,
) -> PreparedData:
    """Make a leave-one-out split with frozen test negatives, as MLPerf v0.5 did for NCF.

    1. Users with fewer than ``min_ratings`` rows are dropped, repetitions counted, and so are users whose rows all
       name one item (with ``validation``, two): holding them out would leave nothing to train on. So are rows of items
       with fewer than ``min_item_ratings``, and users who leave too few items to draw negatives from
       (`data_prep.ratings.filters`).
    2. Users and items that remain are numbered in order of first appearance in the file. Items that only dropped
       users rated are not part of the catalogue.
    3. A pair that occurs several times counts once, at its latest row.
    4. Each user's rows are ordered by (time, row in the file) and the last is held out; the others train. Without
       times, or if all are the same, the seed draws an order, which the labels say, and the set has no history.
       ``order`` says what else decides where times do not: the ``file``, or the seed (``random``).
    5. The negatives are drawn by `data_prep.ratings.sampling.draw_test_negatives`.
    6. With ``validation`` each user's item before the last is held out too, with negatives of its own, drawn from all
       that is no train positive. The test items and their negatives are the same as without.

    Args:
        ratings: the raw rows.
        min_ratings: at least 1.
        min_item_ratings: at least 1.
        heavy_users: ``drop`` or ``fail``.
        n_negatives: negatives for each user, at least 1.
        protocol: how they are drawn, ``strict`` or ``mlperf``.
        seed: 0 .. 2**63 - 1; decides the negatives and, without times, which item is held out.
        order: what decides where times do not: None is the file among equal times, and the seed without times.
        validation: whether to hold out validation items.
        source: where the ratings came from, as JSON values: the manifest's ``source``, with its ``n_rows`` added.
        reading: how they were read: the manifest's ``reading``.

    Returns:
        A set that depends on nothing but these arguments. Its manifest counts what was dropped and why, and in
        ``n_tied_users`` the users whose last two items have the same time, so that the order of the file decides.

    Raises:
        DataError: no user is left, or a user has too few items left to draw negatives from.
        ValueError: an argument is out of its range.
    """
    settings = Settings(
        filters=Filters(min_ratings=min_ratings, min_item_ratings=min_item_ratings, heavy_users=heavy_users),
        n_negatives=n_negatives,
        protocol=protocol,
        seed=seed,
        order=order,
        validation=validation,
    )
    return prepare_with(ratings, settings, source=source, reading=reading)


def prepare_with(
    ratings: Ratings, settings: "Settings", *, source: Mapping[str, Any], reading: Reading | None = None
) -> PreparedData:
    """`prepare` with its arguments as one value."""
    kept = settings.keep(ratings)
    rows = kept.rows(ratings.users, ratings.items)
    times = ratings.times[rows]
    is_constant = ratings.has_times and bool(times[0] == times[-1]) and bool(times.min() == times.max())
    ordering = Ordering(order=settings.order, has_times=ratings.has_times, is_constant=is_constant)
    first, second = ordering.keys(times, slice(0, len(ratings)), rows, settings.seed)
    part = settings.hold_out(
        numbers_of(kept.user_order, len(kept.users))[ratings.users[rows]],
        numbers_of(kept.item_order, len(kept.items))[ratings.items[rows]],
        first,
        second,
        n_users=len(kept.user_order),
        n_items=len(kept.item_order),
    )
    return PreparedData(
        train=part.train,
        history=part.history if ordering.is_history else None,
        test_items=part.test_items,
        test_negatives=part.test_negatives,
        validation_items=part.validation_items,
        validation_negatives=part.validation_negatives,
        user_ids=ratings.user_ids[kept.user_order],
        item_ids=ratings.item_ids[kept.item_order],
        protocol=settings.protocol,
        manifest=settings.manifest(
            kept,
            ordering,
            source={**source, "n_rows": len(ratings)},
            reading=reading,
            n_tied=part.n_tied,
            n_duplicates=part.n_duplicates,
            n_unseen=n_unseen(np.bincount(part.train.items, minlength=part.train.n_items), part.test_items),
        ),
    )


class Part(NamedTuple):
    """Users whose items are held out, numbered from 0: all of a set, or a part of it; see `PreparedData`."""

    train: Interactions
    history: NDArray[np.int32]
    test_items: NDArray[np.int32]
    test_negatives: NDArray[np.int32]
    validation_items: NDArray[np.int32] | None
    validation_negatives: NDArray[np.int32] | None
    n_duplicates: int
    n_tied: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `prepare` is asked for: its arguments of these names. Raises ValueError for one that is out of its range."""

    filters: Filters
    n_negatives: int = N_NEGATIVES
    protocol: DrawnProtocol = "strict"
    seed: int = 0
    order: Order | None = None
    validation: bool = False

    def __post_init__(self) -> None:
        if self.n_negatives < 1:
            raise ValueError(f"n_negatives is {self.n_negatives}; it must be at least 1")
        if self.order not in (None, "file", "random"):
            raise ValueError(f"order is {self.order!r}; it must be file or random")
        check_seed(self.seed)
        if self.protocol not in ("strict", "mlperf"):
            raise ValueError(f"protocol is {self.protocol!r}; it must be strict or mlperf")

    def keep(self, ratings: RatingsInBlocks) -> Kept:
        """The rows that are used: see `data_prep.ratings.filters.keep_rows`."""
        n_needed = self.n_negatives if self.protocol == "strict" else 1
        return keep_rows(ratings, self.filters, n_negatives=n_needed, validation=self.validation)

    def hold_out(
        self,
        users: NDArray[np.int32],
        items: NDArray[np.int32],
        times: NDArray[np.int64] | NDArray[np.float64],
        tie_order: NDArray[np.int64] | None,
        *,
        n_users: int,
        n_items: int,
        first_user: int = 0,
    ) -> Part:
        """Hold out the last item of each user, and draw negatives.

        Args:
            users: int32 (n,), of rows in file order; all rows of each of them.
            items: int32 (n,).
            times: what orders a user's rows (`Ordering.keys`).
            tie_order: what orders rows of equal times, or None for the file.
            n_users: numbers of users are below it.
            n_items: items of the catalogue.
            first_user: the number of the first of these users in the whole set, which decides their draws.
        """
        split = leave_one_out(users, items, times, n_users=n_users, tie_order=tie_order)
        known = Interactions(offsets=split.offsets, items=split.items, n_items=n_items)
        last = split.offsets[1:] - 1
        items_before = split.history[last]
        train = without_items(known, items_before) if self.validation else known

        def negatives(positives: Interactions, held_out: NDArray[np.int32], seed: int) -> NDArray[np.int32]:
            return draw_test_negatives(
                positives, held_out, self.n_negatives, protocol=self.protocol, seed=seed, first_user=first_user
            )

        return Part(
            train=train,
            history=np.delete(split.history, last) if self.validation else split.history,
            test_items=split.test_items,
            test_negatives=negatives(known, split.test_items, self.seed),
            validation_items=items_before if self.validation else None,
            validation_negatives=(
                negatives(train, items_before, _validation_seed(self.seed)) if self.validation else None
            ),
            n_duplicates=split.n_duplicates,
            n_tied=split.n_tied,
        )

    def manifest(
        self,
        kept: Kept,
        ordering: "Ordering",
        *,
        source: Mapping[str, Any],
        reading: Reading | None,
        n_tied: int,
        n_duplicates: int,
        n_unseen: int,
    ) -> dict[str, Any]:
        """What was chosen, and what was dropped and why, as JSON values."""
        filters, (held_out, rule) = self.filters, ordering.rule
        return {
            "source": dict(source),
            "min_ratings": filters.min_ratings,
            "seed": self.seed,
            **({} if held_out is None else {"held_out": held_out}),
            **({} if self.order is None else {"order": self.order}),
            **({"constant_times": True} if ordering.is_constant else {}),
            **({} if filters.min_item_ratings == 1 else {"min_item_ratings": filters.min_item_ratings}),
            "tie_rule": rule,
            "n_tied_users": n_tied if ordering.by_time else 0,
            **({"validation_rule": VALIDATION_RULE} if self.validation else {}),
            **({} if reading is None else {"reading": reading.to_dict()}),
            "users_dropped": kept.users_dropped,
            "rows_dropped": {
                **({} if reading is None else dict(reading.not_counted)),
                **kept.rows_dropped,
                "duplicates": n_duplicates,
            },
            "n_items_dropped": len(kept.items) - len(kept.item_order),
            "n_unseen_held_out": n_unseen,
        }


@dataclass(frozen=True, kw_only=True)
class Ordering:
    """What puts each user's rows in order.

    Attributes:
        order: what decides where times do not: ``file``, ``random``, or None for the default.
        has_times: whether the source has times.
        is_constant: whether all times are the same, which says nothing.
    """

    order: Order | None
    has_times: bool
    is_constant: bool

    @property
    def by_time(self) -> bool:
        """Whether times decide."""
        return self.has_times and not self.is_constant

    @property
    def is_drawn(self) -> bool:
        """Whether the seed decides where times do not."""
        return self.order == "random" or (self.order is None and not self.by_time)

    @property
    def is_history(self) -> bool:
        """Whether the order means anything."""
        return self.by_time or self.order == "file"

    def keys(
        self,
        times: NDArray[np.int64] | NDArray[np.float64],
        numbers: slice,
        rows: NDArray[np.int64] | slice,
        seed: int,
    ) -> tuple[NDArray[np.int64] | NDArray[np.float64], NDArray[np.int64] | None]:
        """What rows are sorted by, and what by among equals, or None for the file.

        Args:
            times: of the rows.
            numbers: the numbers in the file of a block of rows.
            rows: which places of the block the rows are.
            seed: draws, where it decides.
        """
        drawn = None
        if self.is_drawn:
            words = random_words(seed, "held-out", 0, np.arange(numbers.start, numbers.stop))  # hardly ever tie
            drawn = (words >> np.uint64(1)).astype(np.int64)[rows]
        if self.by_time:
            return times, drawn
        return np.zeros(len(times), np.int64) if drawn is None else drawn, None

    @property
    def rule(self) -> tuple[str | None, str]:
        """What the manifest calls the choice of the held-out item, None for by time and file, and in a sentence."""
        if self.by_time:
            return ("ties drawn", TIES_DRAWN_RULE) if self.order == "random" else (None, TIE_RULE)
        return ("file", FILE_RULE) if self.order == "file" else ("drawn", DRAWN_RULE)


def numbers_of(order: NDArray[np.intp], n_codes: int) -> NDArray[np.int32]:
    """The new number of each code, int32 (n_codes,), where ``order`` holds the code of each new number; -1: none."""
    numbers = np.full(n_codes, -1, np.int32)
    numbers[order] = np.arange(len(order), dtype=np.int32)
    return numbers


def n_unseen(train_counts: NDArray[np.int64], held_out: NDArray[np.int32]) -> int:
    """Number of held-out items that no train row has, by the number of train rows of each item."""
    return int((train_counts[held_out] == 0).sum())


def _validation_seed(seed: int) -> int:
    """The seed of validation negatives: with the test's they would be the same draws."""
    entropy = [seed, int.from_bytes(b"validation", "little")]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
