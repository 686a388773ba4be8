"""From raw ratings to a prepared set: filter, number, hold out each user's last item, draw its negatives."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.filters import Filters, HeavyUsers, keep_rows
from data_prep.ratings.interactions import Interactions, PreparedData
from data_prep.ratings.leave_one_out import leave_one_out, number, without_items
from data_prep.ratings.raw_ratings import Ratings
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
    filters = Filters(min_ratings=min_ratings, min_item_ratings=min_item_ratings, heavy_users=heavy_users)
    check_settings(n_negatives, protocol, seed, order)
    n_needed = n_negatives if protocol == "strict" else 1
    kept = keep_rows(ratings, filters, n_negatives=n_needed, validation=validation)
    rows = kept.rows
    times = ratings.times[rows]
    is_constant = ratings.has_times and len(times) > 0 and bool(times[0] == times[-1]) and times.min() == times.max()
    has_times = ratings.has_times and not is_constant
    drawn = None
    if order == "random" or (order is None and not has_times):
        drawn = _drawn_order(len(ratings), seed)[rows]
    if not has_times:
        times, drawn = np.zeros(len(times), np.int64) if drawn is None else drawn, None
    users, user_order = number(ratings.users[rows], len(ratings.user_ids))
    items, item_order = number(ratings.items[rows], len(ratings.item_ids))
    split = leave_one_out(users, items, times, n_users=len(user_order), n_items=len(item_order), tie_order=drawn)
    held_out, rule = _rule(order, has_times=has_times)
    del users, items, times, drawn
    known = Interactions(offsets=split.offsets, items=split.items, n_items=len(item_order))
    last = split.offsets[1:] - 1
    items_before = split.history[last]
    train = without_items(known, items_before) if validation else known
    user_ids = ratings.user_ids[user_order]
    ordered = held_out != "drawn"

    def negatives(positives: Interactions, held_out: NDArray[np.int32], seed: int) -> NDArray[np.int32]:
        return draw_test_negatives(positives, held_out, n_negatives, protocol=protocol, seed=seed)

    return PreparedData(
        train=train,
        history=(np.delete(split.history, last) if validation else split.history) if ordered else None,
        test_items=split.test_items,
        test_negatives=negatives(known, split.test_items, seed),
        validation_items=items_before if validation else None,
        validation_negatives=negatives(train, items_before, _validation_seed(seed)) if validation else None,
        user_ids=user_ids,
        item_ids=ratings.item_ids[item_order],
        protocol=protocol,
        manifest={
            "source": {**source, "n_rows": len(ratings)},
            "min_ratings": min_ratings,
            "seed": seed,
            **({} if held_out is None else {"held_out": held_out}),
            **({} if order is None else {"order": order}),
            **({"constant_times": True} if is_constant else {}),
            **({} if min_item_ratings == 1 else {"min_item_ratings": min_item_ratings}),
            "tie_rule": rule,
            "n_tied_users": split.n_tied if has_times else 0,
            **({"validation_rule": VALIDATION_RULE} if validation else {}),
            **({} if reading is None else {"reading": reading.to_dict()}),
            "users_dropped": kept.users_dropped,
            "rows_dropped": {
                **({} if reading is None else dict(reading.not_counted)),
                **kept.rows_dropped,
                "duplicates": split.n_duplicates,
            },
            "n_items_dropped": len(ratings.item_ids) - len(item_order),
            "n_unseen_held_out": _n_unseen(train, split.test_items),
        },
    )


def _n_unseen(train: Interactions, held_out: NDArray[np.int32]) -> int:
    """Number of held-out items that no train row has."""
    return int((np.bincount(train.items, minlength=train.n_items)[held_out] == 0).sum())


def _rule(order: Order | None, *, has_times: bool) -> tuple[str | None, str]:
    """What the manifest calls the choice of the held-out item, None for by time and then file, and in a sentence."""
    if has_times:
        return ("ties drawn", TIES_DRAWN_RULE) if order == "random" else (None, TIE_RULE)
    return ("file", FILE_RULE) if order == "file" else ("drawn", DRAWN_RULE)


def check_settings(n_negatives: int, protocol: str, seed: int, order: str | None) -> None:
    """Raise ValueError for an argument of `prepare` that is out of its range."""
    if n_negatives < 1:
        raise ValueError(f"n_negatives is {n_negatives}; it must be at least 1")
    if order not in (None, "file", "random"):
        raise ValueError(f"order is {order!r}; it must be file or random")
    check_seed(seed)
    if protocol not in ("strict", "mlperf"):
        raise ValueError(f"protocol is {protocol!r}; it must be strict or mlperf")


def _drawn_order(n_rows: int, seed: int) -> NDArray[np.int64]:
    """Times for rows that have none: words of the seed, which hardly ever tie."""
    return (random_words(seed, "held-out", 0, np.arange(n_rows)) >> np.uint64(1)).astype(np.int64)


def _validation_seed(seed: int) -> int:
    """The seed of validation negatives: with the test's they would be the same draws."""
    entropy = [seed, int.from_bytes(b"validation", "little")]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
