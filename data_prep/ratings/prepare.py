"""From raw ratings to a prepared set: filter, number, hold out each user's last item, draw its negatives."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.download import KNOWN_DATASETS
from data_prep.ratings.in_memory import read_memory
from data_prep.ratings.interactions import Interactions, PreparedData
from data_prep.ratings.leave_one_out import have_three_items, have_two_items, leave_one_out, number, without_items
from data_prep.ratings.ncf_files import is_ncf_train_file, read_ncf_files
from data_prep.ratings.raw_ratings import Ids, Ratings
from data_prep.ratings.sampling import draw_test_negatives
from data_prep.ratings.sources import SYNTHETIC, read_source
from data_prep.ratings.synthetic import SAMPLE_INTERACTIONS, SAMPLE_ITEMS, SAMPLE_USERS
from ppt_core.errors import DataError
from ppt_core.random_words import check_seed, random_words
from ppt_core.runs.files import refuse_existing

MIN_RATINGS = 20
N_NEGATIVES = 999
TIE_RULE = "a user's rows are ordered by time, equal times by their order in the file; the last one is held out"
DRAWN_RULE = "the source has no times: the seed puts each user's rows in order, and the last one is held out"
VALIDATION_RULE = "the item before the held-out one, in the same order, is held out of training too, for validation"

DrawnProtocol = Literal["strict", "mlperf"]


def prepare(
    ratings: Ratings,
    *,
    min_ratings: int = MIN_RATINGS,
    n_negatives: int = N_NEGATIVES,
    protocol: DrawnProtocol = "strict",
    seed: int = 0,
    validation: bool = False,
    source: Mapping[str, Any],
) -> PreparedData:
    """Make a leave-one-out split with frozen test negatives, as MLPerf v0.5 did for NCF.

    1. Users with fewer than ``min_ratings`` rows are dropped, repetitions counted, and so are users whose rows all
       name one item (with ``validation``, two): holding them out would leave nothing to train on.
    2. Users and items that remain are numbered in order of first appearance in the file. Items that only dropped
       users rated are not part of the catalogue.
    3. A pair that occurs several times counts once, at its latest row.
    4. Each user's rows are ordered by (time, row in the file) and the last is held out; the others train. Without
       times the seed draws an order, which the labels say, and the set has no history.
    5. The negatives are drawn by `data_prep.ratings.sampling.draw_test_negatives`.
    6. With ``validation`` each user's item before the last is held out too, with negatives of its own, drawn from all
       that is no train positive. The test items and their negatives are the same as without.

    Args:
        ratings: the raw rows.
        min_ratings: at least 1.
        n_negatives: negatives for each user, at least 1.
        protocol: how they are drawn, ``strict`` or ``mlperf``.
        seed: 0 .. 2**63 - 1; decides the negatives and, without times, which item is held out.
        validation: whether to hold out validation items.
        source: where the ratings came from, as JSON values: the manifest's ``source``, with its ``n_rows`` added.

    Returns:
        A set that depends on nothing but these arguments. Its manifest counts what was dropped and why, and in
        ``n_tied_users`` the users whose last two items have the same time, so that the order of the file decides.

    Raises:
        DataError: no user is left, or a user has too few items left to draw negatives from.
        ValueError: an argument is out of its range.
    """
    _check_settings(min_ratings, n_negatives, protocol, seed)
    counts = np.bincount(ratings.users, minlength=len(ratings.user_ids))
    is_active = counts >= min_ratings
    has_enough_items = have_three_items(ratings) if validation else have_two_items(ratings)
    is_kept = is_active & has_enough_items
    if not is_kept.any():
        raise DataError(_nobody_left(counts, is_active, min_ratings, validation=validation))

    rows = np.flatnonzero(is_kept[ratings.users]) if not is_kept.all() else slice(None)
    times = ratings.times if ratings.has_times else _drawn_order(len(ratings), seed)
    times = times[rows]
    users, user_order = number(ratings.users[rows], len(ratings.user_ids))
    items, item_order = number(ratings.items[rows], len(ratings.item_ids))
    split = leave_one_out(users, items, times, n_users=len(user_order), n_items=len(item_order))
    del users, items, times
    known = Interactions(offsets=split.offsets, items=split.items, n_items=len(item_order))
    last = split.offsets[1:] - 1
    items_before = split.history[last]
    train = without_items(known, items_before) if validation else known
    user_ids = ratings.user_ids[user_order]
    _refuse_users_without_negatives(known, user_ids, n_negatives if protocol == "strict" else 1)

    too_few = "two_items_only" if validation else "one_item_only"

    def negatives(positives: Interactions, held_out: NDArray[np.int32], seed: int) -> NDArray[np.int32]:
        return draw_test_negatives(positives, held_out, n_negatives, protocol=protocol, seed=seed)

    return PreparedData(
        train=train,
        history=_history(ratings, split.history, last if validation else None),
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
            **({} if ratings.has_times else {"held_out": "drawn"}),
            "tie_rule": TIE_RULE if ratings.has_times else DRAWN_RULE,
            "n_tied_users": split.n_tied,
            **({"validation_rule": VALIDATION_RULE} if validation else {}),
            "users_dropped": {
                "below_min_ratings": int((~is_active & (counts > 0)).sum()),
                too_few: int((is_active & ~has_enough_items).sum()),
            },
            "rows_dropped": {
                "below_min_ratings": int(counts[~is_active].sum()),
                too_few: int(counts[is_active & ~has_enough_items].sum()),
                "duplicates": split.n_duplicates,
            },
            "n_items_dropped": len(ratings.item_ids) - len(item_order),
        },
    )


def sample() -> PreparedData:
    """The built-in sample: synthetic interactions of a fixed seed, prepared with the defaults."""
    ratings, origin = read_source(
        SYNTHETIC,
        seed=0,
        source_file=None,
        sizes=(SAMPLE_USERS, SAMPLE_ITEMS, SAMPLE_INTERACTIONS),
        cache=None,
        progress=False,
    )
    return replace(prepare(ratings, source=origin), is_sample=True)


def prepare_source(
    source: Any,
    out: Path | str | None = None,
    *,
    min_ratings: int = MIN_RATINGS,
    n_negatives: int = N_NEGATIVES,
    protocol: DrawnProtocol = "strict",
    seed: int = 0,
    source_file: Path | str | None = None,
    n_users: int | None = None,
    n_items: int | None = None,
    n_interactions: int | None = None,
    validation: bool = False,
    cache: Path | str | None = None,
    progress: bool = True,
) -> PreparedData:
    """Make a prepared set from whatever ``source`` is or names, and write it to the new folder ``out``, if given.

    ===================  ====================================================================================
    a known name         one of ``data_prep.ratings.download.KNOWN_DATASETS``: downloaded, or read from ``source_file``
    ``synthetic``        `data_prep.ratings.synthetic.synthesize` with ``n_users``, ``n_items``, ``n_interactions``
    X.train.rating[.gz]  the NCF authors' split and negatives, as they are: protocol ``published``
    another path         a ratings file (`data_prep.ratings.readers.read_ratings`)
    another object       a DataFrame, columns, rows, a sparse matrix (`data_prep.ratings.in_memory.read_memory`)
    ===================  ====================================================================================

    A known name wins over a file of that name; write ``./ml-1m`` for the file.

    Args:
        source: see above.
        out: must not exist. None keeps the set in memory; `PreparedData.save` writes it later.
        min_ratings: see `prepare`.
        n_negatives: see `prepare`.
        protocol: see `prepare`.
        seed: decides the negatives, synthetic data, and what is held out where the source has no times.
        source_file: a copy at hand of the known data set, in any form that `read_ratings` reads. The manifest
            records its checksum and, as ``is_official``, whether the bytes are the published archive's.
        n_users: number of synthetic users; the built-in sample's by default, as for the next two.
        n_items: number of synthetic items.
        n_interactions: number of synthetic interactions.
        validation: see `prepare`.
        cache: folder for downloads; the user's cache folder by default.
        progress: whether a download shows a progress bar on standard error.

    Raises:
        DataError: ``out`` exists, ``source`` is nothing of the above or cannot be read, an option does not apply
            to it, or the ratings cannot be prepared.
        ValueError: an argument is out of its range.
    """
    if out is not None:
        refuse_existing(Path(out))
    _check_settings(min_ratings, n_negatives, protocol, seed)
    name = str(source) if isinstance(source, (str, Path)) else None
    if source_file is not None and name not in KNOWN_DATASETS:
        raise DataError(
            f"source_file is for a copy of a known data set ({', '.join(KNOWN_DATASETS)}), not of {name!r}; "
            f"name {source_file} as the source to read that file"
        )
    sizes = (n_users, n_items, n_interactions)
    if name != SYNTHETIC and any(size is not None for size in sizes):
        raise DataError(f"n_users, n_items and n_interactions are for `synthetic` only; leave them out for {name!r}")

    if name is not None and name not in (*KNOWN_DATASETS, SYNTHETIC) and is_ncf_train_file(Path(name)):
        if (min_ratings, n_negatives, protocol, seed, validation) != (MIN_RATINGS, N_NEGATIVES, "strict", 0, False):
            raise DataError(
                f"{name} comes with its own split and negatives; leave out min_ratings, n_negatives, protocol=, "
                "validation= and seed="
            )
        data = read_ncf_files(Path(name))
    else:
        if name is None:
            ratings, origin = read_memory(source), {"name": type(source).__name__}
        else:
            ratings, origin = read_source(
                name,
                seed=seed,
                source_file=None if source_file is None else Path(source_file),
                sizes=(
                    SAMPLE_USERS if n_users is None else n_users,
                    SAMPLE_ITEMS if n_items is None else n_items,
                    SAMPLE_INTERACTIONS if n_interactions is None else n_interactions,
                ),
                cache=None if cache is None else Path(cache),
                progress=progress,
            )
        data = prepare(
            ratings,
            min_ratings=min_ratings,
            n_negatives=n_negatives,
            protocol=protocol,
            seed=seed,
            validation=validation,
            source=origin,
        )
    return data if out is None else data.save(out)


def load_data(path: Path | str | None = None) -> PreparedData:
    """Open the prepared set in the folder ``path`` (`PreparedData.load`), or without one the built-in sample."""
    return sample() if path is None else PreparedData.load(path)


def _check_settings(min_ratings: int, n_negatives: int, protocol: str, seed: int) -> None:
    for name, value in (("min_ratings", min_ratings), ("n_negatives", n_negatives)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    check_seed(seed)
    if protocol not in ("strict", "mlperf"):
        raise ValueError(f"protocol is {protocol!r}; it must be strict or mlperf")


def _drawn_order(n_rows: int, seed: int) -> NDArray[np.int64]:
    """Times for rows that have none: words of the seed, which hardly ever tie."""
    return (random_words(seed, "held-out", 0, np.arange(n_rows)) >> np.uint64(1)).astype(np.int64)


def _history(
    ratings: Ratings, items: NDArray[np.int32], left_out: NDArray[np.int64] | None
) -> NDArray[np.int32] | None:
    """Each user's train items in the order of time, if the ratings have times."""
    if not ratings.has_times:
        return None
    return items if left_out is None else np.delete(items, left_out)


def _validation_seed(seed: int) -> int:
    """The seed of validation negatives: with the test's they would be the same draws."""
    entropy = [seed, int.from_bytes(b"validation", "little")]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _nobody_left(counts: NDArray[np.int64], is_active: NDArray[np.bool_], min_ratings: int, *, validation: bool) -> str:
    if is_active.any():
        rated, needed = ("two items at most", "three") if validation else ("one item only", "two")
        return (
            f"every user with at least {min_ratings} ratings rated {rated}, so there is nothing to hold out; "
            f"prepare data with at least {needed} items a user"
        )
    most = int(counts.max(initial=0))
    advice = f"set min_ratings to at most {most}" if most > 1 else "prepare data with more ratings a user"
    return f"no user has at least {min_ratings} ratings (the most is {most}); {advice}"


def _refuse_users_without_negatives(train: Interactions, user_ids: Ids, n_needed: int) -> None:
    n_free = train.n_items - (train.degrees + 1)
    fewest = int(n_free.min())
    if fewest < n_needed:
        user = user_ids[n_free.argmin()]
        raise DataError(
            f"user {user} has {fewest} of {train.n_items} items left to draw negatives from, and {n_needed} are "
            f"needed; set n_negatives to at most {fewest}"
            if fewest
            else f"user {user} rated all {train.n_items} items, so no negative exists; leave such users "
            f"({(n_free == 0).sum()} here) out of the ratings"
        )
