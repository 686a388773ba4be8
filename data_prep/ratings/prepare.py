"""From raw ratings to a prepared set: filter, number, hold out each user's last item, draw its negatives."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.columns import ReadOptions
from data_prep.ratings.download import KNOWN_DATASETS
from data_prep.ratings.filters import Filters, HeavyUsers, keep_rows
from data_prep.ratings.in_memory import read_object
from data_prep.ratings.interactions import Interactions, PreparedData
from data_prep.ratings.leave_one_out import leave_one_out, number, without_items
from data_prep.ratings.ncf_files import is_ncf_train_file, read_ncf_files
from data_prep.ratings.own_split import prepare_own
from data_prep.ratings.raw_ratings import Ratings
from data_prep.ratings.reading import Reading
from data_prep.ratings.remarks import warnings_of
from data_prep.ratings.sampling import draw_test_negatives
from data_prep.ratings.sources import SYNTHETIC, read_source
from data_prep.ratings.synthetic import SAMPLE_INTERACTIONS, SAMPLE_ITEMS, SAMPLE_USERS
from ppt_core.errors import DataError, DataWarning
from ppt_core.random_words import check_seed, random_words
from ppt_core.runs.files import refuse_existing

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
    _check_settings(n_negatives, protocol, seed, order)
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


def sample() -> PreparedData:
    """The built-in sample: synthetic interactions of a fixed seed, prepared with the defaults."""
    read, origin = read_source(
        [SYNTHETIC],
        seed=0,
        source_file=None,
        sizes=(SAMPLE_USERS, SAMPLE_ITEMS, SAMPLE_INTERACTIONS),
        cache=None,
        progress=False,
    )
    return replace(prepare(read.ratings, source=origin), is_sample=True)


def prepare_source(
    source: Any,
    out: Path | str | None = None,
    *,
    min_ratings: int = MIN_RATINGS,
    min_item_ratings: int = 1,
    heavy_users: HeavyUsers = "drop",
    n_negatives: int = N_NEGATIVES,
    protocol: DrawnProtocol = "strict",
    seed: int = 0,
    order: Order | None = None,
    test: Any = None,
    test_negatives: Path | str | None = None,
    split_time: str | float | None = None,
    source_file: Path | str | None = None,
    n_users: int | None = None,
    n_items: int | None = None,
    n_interactions: int | None = None,
    validation: bool = False,
    cache: Path | str | None = None,
    progress: bool = True,
    **reading: Any,
) -> PreparedData:
    """Make a prepared set from whatever ``source`` is or names, and write it to the new folder ``out``, if given.

    ===================  ====================================================================================
    a known name         one of ``data_prep.ratings.download.KNOWN_DATASETS``: downloaded, or read from ``source_file``
    ``synthetic``        `data_prep.ratings.synthetic.synthesize` with ``n_users``, ``n_items``, ``n_interactions``
    X.train.rating[.gz]  the NCF authors' split and negatives, as they are: protocol ``published``
    another path         a ratings file, a folder or an archive of them (`data_prep.ratings.readers.read_files`)
    a list of paths      files of one table
    another object       a DataFrame, columns, rows, a sparse matrix (`data_prep.ratings.in_memory.read_object`)
    ===================  ====================================================================================

    A known name wins over a file of that name; write ``./ml-1m`` for the file.

    Args:
        source: see above.
        out: must not exist. None keeps the set in memory; `PreparedData.save` writes it later.
        min_ratings: see `prepare`.
        min_item_ratings: see `prepare`.
        heavy_users: see `prepare`.
        n_negatives: see `prepare`.
        protocol: see `prepare`.
        seed: decides the negatives, synthetic data, and what is held out where the source has no times.
        order: see `prepare`.
        test: the test rows of a split that was made already, of which ``source`` holds the train rows; any source. See
            `data_prep.ratings.own_split.prepare_split`. No filter applies.
        test_negatives: a file of the negatives of each test user (`data_prep.ratings.own_split.read_negatives`).
        split_time: a date or a time: rows before it train, and of each user the first item after it is held out.
            Leave-one-out lets other users' future into training; one moment for all does not.
        source_file: a copy at hand of the known data set, in any form that `read_ratings` reads. The manifest
            records its checksum and, as ``is_official``, whether the bytes are the published archive's.
        n_users: number of synthetic users; the built-in sample's by default, as for the next two.
        n_items: number of synthetic items.
        n_interactions: number of synthetic interactions.
        validation: see `prepare`.
        cache: folder for downloads; the user's cache folder by default.
        progress: whether a download shows a progress bar on standard error.
        reading: how the source is read: `data_prep.ratings.columns.ReadOptions` has the names, as ``user_column``,
            ``separator``, ``min_rating``, ``events`` or ``skip_bad_rows``.

    Warns `ppt_core.errors.DataWarning` of what may not be as it seems; `PreparedData.warnings` keeps it.

    Raises:
        DataError: ``out`` exists, ``source`` is nothing of the above or cannot be read, an option does not apply
            to it, or the ratings cannot be prepared.
        ValueError: an argument is out of its range.
    """
    if out is not None:
        refuse_existing(Path(out))
    filters = Filters(min_ratings=min_ratings, min_item_ratings=min_item_ratings, heavy_users=heavy_users)
    _check_settings(n_negatives, protocol, seed, order)
    found: list[str] = []
    options = ReadOptions(**reading)
    paths = _paths(source)
    name = str(paths[0]) if len(paths) == 1 else None
    if source_file is not None and name not in KNOWN_DATASETS:
        raise DataError(
            f"source_file is for a copy of a known data set ({', '.join(KNOWN_DATASETS)}), not of {name!r}; "
            f"name {source_file} as the source to read that file"
        )
    sizes = (n_users, n_items, n_interactions)
    if name != SYNTHETIC and any(size is not None for size in sizes):
        raise DataError(f"n_users, n_items and n_interactions are for `synthetic` only; leave them out for {name!r}")

    own = _own_split(test, test_negatives, split_time, filters, order, validation=validation)
    if not own and name is not None and name not in (*KNOWN_DATASETS, SYNTHETIC) and is_ncf_train_file(Path(name)):
        said = (filters, n_negatives, protocol, seed, validation, order, options)
        if said != (Filters(), N_NEGATIVES, "strict", 0, False, None, ReadOptions()):
            raise DataError(
                f"{name} comes with its own split and negatives; leave out min_ratings, n_negatives, protocol=, "
                "validation= and seed= and all that says how to read it"
            )
        data = read_ncf_files(Path(name))
    else:
        if not paths:
            read, origin = read_object(source, options), {"name": type(source).__name__}
        else:
            read, origin = read_source(
                paths,
                options,
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
        found += [origin.pop("unlike_published")] if "unlike_published" in origin else []
        if own:
            data = prepare_own(
                read,
                None if test is None else _read_test(test, options),
                None if split_time is None else str(split_time),
                filters,
                negatives=None if test_negatives is None else Path(test_negatives),
                n_negatives=n_negatives,
                protocol=protocol,
                seed=seed,
                source=origin,
            )
        else:
            data = prepare(
                read.ratings,
                min_ratings=min_ratings,
                min_item_ratings=min_item_ratings,
                heavy_users=heavy_users,
                n_negatives=n_negatives,
                protocol=protocol,
                seed=seed,
                order=order,
                validation=validation,
                source=origin,
                reading=read.reading,
            )
        if options.min_rating is not None or options.events:
            data.manifest.update(min_rating=options.min_rating, events=list(options.events))
    found += warnings_of(data.manifest, n_users=data.n_users)
    if found:
        data.manifest["warnings"] = found
    for sentence in found:
        warnings.warn(sentence, DataWarning, stacklevel=2)
    return data if out is None else data.save(out)


def _own_split(
    test: Any, test_negatives: Any, split_time: Any, filters: Filters, order: Order | None, *, validation: bool
) -> bool:
    """Whether the split is no leave-one-out. Raises `DataError` for arguments that do not go with one another."""
    if test is None and split_time is None:
        if test_negatives is not None:
            raise DataError("test_negatives= belong to the test rows of a split of your own; name them with test=")
        return False
    if test is not None and split_time is not None:
        raise DataError("test= is a split of its own; leave out split_time=")
    if validation or order is not None or (test is not None and filters != Filters()):
        raise DataError(
            "a split of your own is taken as it is; leave out validation=, order=, min_ratings, min_item_ratings and "
            "heavy_users"
        )
    return True


def _read_test(test: Any, options: ReadOptions) -> tuple[Ratings, dict[str, Any]]:
    """The test rows of a split, and where they came from."""
    paths = _paths(test)
    if not paths:
        return read_object(test, options).ratings, {"name": type(test).__name__}
    sizes = (SAMPLE_USERS, SAMPLE_ITEMS, SAMPLE_INTERACTIONS)
    read, origin = read_source(paths, options, seed=0, source_file=None, sizes=sizes, cache=None, progress=False)
    return read.ratings, origin


def _paths(source: Any) -> list[str]:
    """The paths or the name that a source is; none for an object."""
    if isinstance(source, (str, Path)):
        return [str(source)]
    is_list = isinstance(source, (list, tuple)) and len(source) > 0
    return [str(each) for each in source] if is_list and all(isinstance(e, (str, Path)) for e in source) else []


def load_data(path: Path | str | None = None) -> PreparedData:
    """Open the prepared set in the folder ``path`` (`PreparedData.load`), or without one the built-in sample."""
    return sample() if path is None else PreparedData.load(path)


def _check_settings(n_negatives: int, protocol: str, seed: int, order: str | None) -> None:
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
