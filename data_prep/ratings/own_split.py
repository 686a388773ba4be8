"""A split that somebody made already, or one moment for all: train rows, and of each user what comes after them."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep.ratings.filters import Filters, keep_rows
from data_prep.ratings.interactions import Interactions, PreparedData
from data_prep.ratings.leave_one_out import latest_of_each, number
from data_prep.ratings.moments import ISO, is_moment, parse_moments, possible_formats, read_moments, seconds_of, unit_of
from data_prep.ratings.raw_ratings import Ids, Ratings, number_ids
from data_prep.ratings.readers import ReadRatings
from data_prep.ratings.sampling import draw_test_negatives
from data_prep.ratings.text_lines import is_int64
from ppt_core.errors import DataError
from ppt_core.runs.files import file_sha256

SPLIT_RULE = "the first test row of each user that no train row repeats is held out; other users only train"

_PAIR = re.compile(r"\(([^,]*),[^)]*\)")


def split_at(ratings: Ratings, moment: str, time_format: str | None = None) -> tuple[Ratings, Ratings]:
    """Split rows into those before a moment and those from it on.

    ``moment`` is a date, as ``2015-08-01`` or ``2015-08-01 12:00`` or in ``time_format``, or a number as the times are.
    Raises `DataError` if there are no times, ``moment`` is neither or can be read in two ways, or one side would be
    empty.
    """
    if not ratings.has_times:
        raise DataError("split_time needs times, and the source has none; name the column with time_column=")
    try:
        limit = float(moment)
    except ValueError:
        formats = possible_formats([moment]) if time_format is None else _fitting(moment, (time_format, ISO))[:1]
        if not formats:
            raise DataError(
                f"split_time is {moment!r}; give a date as 2015-08-01, or a number as the times are"
            ) from None
        unit = ratings.time_unit or unit_of(float(ratings.times.max()))
        if unit is None:
            raise DataError(
                f"split_time is a date, and the times are plain numbers; give a number for {moment!r}"
            ) from None
        limit = float(read_moments("split_time", [moment], formats)[0]) / 1e6 / seconds_of(unit)
    before = ratings.times < limit
    if before.all() or not before.any():
        side = "before" if before.all() else "after"
        raise DataError(
            f"split_time is {moment}, and all rows are {side} it; choose a moment between the first and last"
        )
    return _only_rows(ratings, before), _only_rows(ratings, ~before)


def _fitting(moment: str, formats: tuple[str, ...]) -> list[str]:
    return [each for each in formats if is_moment(parse_moments([moment], each)).all()]


def _only_rows(ratings: Ratings, chosen: NDArray[np.bool_]) -> Ratings:
    """Some rows, and the users and items that occur in them."""
    some = ratings.only(np.flatnonzero(chosen))
    users, user_order = number(some.users, len(some.user_ids))
    items, item_order = number(some.items, len(some.item_ids))
    return replace(
        some, users=users, items=items, user_ids=some.user_ids[user_order], item_ids=some.item_ids[item_order]
    )


def prepare_own(
    read: ReadRatings,
    test: tuple[ReadRatings, dict[str, Any]] | None,
    split_time: str | None,
    filters: Filters,
    *,
    time_format: str | None = None,
    negatives: Path | None,
    n_negatives: int,
    protocol: Literal["strict", "mlperf"],
    seed: int,
    source: Mapping[str, Any],
) -> PreparedData:
    """`prepare_split` of rows with their test rows, or of rows that ``filters`` leave, split at a moment."""
    ratings = read.ratings
    manifest: dict[str, Any] = {
        "source": {**source, "n_rows": len(ratings)},
        **({} if read.reading is None else {"reading": read.reading.to_dict()}),
    }
    users_dropped: dict[str, int] = {}
    rows_dropped = Counter({} if read.reading is None else read.reading.not_counted)
    if test is not None:
        train, held_out, kind = ratings, test[0].ratings, "own"
        rows_dropped.update({} if test[0].reading is None else test[0].reading.not_counted)
        manifest["test_source"] = test[1]
    else:
        kept = keep_rows(ratings, filters, n_negatives=n_negatives if protocol == "strict" else 1, validation=False)
        rows = kept.rows(ratings.users, ratings.items)
        chosen = ratings if isinstance(rows, slice) else ratings.only(rows)
        (train, held_out), kind = split_at(chosen, str(split_time), time_format), "moment"
        manifest |= {"split_time": split_time, "min_ratings": filters.min_ratings}
        users_dropped = kept.users_dropped
        rows_dropped.update(kept.rows_dropped)
    if negatives is not None:
        manifest["negatives_source"] = {"name": negatives.name, "sha256": file_sha256(negatives)}
    return prepare_split(
        train,
        held_out,
        negatives=negatives,
        n_negatives=n_negatives,
        protocol=protocol,
        seed=seed,
        held_out=kind,
        manifest={**manifest, "users_dropped": users_dropped, "rows_dropped": dict(rows_dropped)},
    )


def prepare_split(
    train: Ratings,
    test: Ratings,
    *,
    negatives: Path | None = None,
    n_negatives: int = 99,
    protocol: Literal["strict", "mlperf"] = "strict",
    seed: int = 0,
    held_out: str = "own",
    manifest: Mapping[str, Any],
) -> PreparedData:
    """Make a prepared set of train rows and test rows, whatever their ids.

    Of a user's test rows the first by (time, row) counts whose item is no train positive of the user. Users without
    one are kept for training, numbered behind those who have one. Users without train rows are left out.

    Args:
        train: what is trained on.
        test: what is held out.
        negatives: a file with the negatives of each test user: a user, or ``(user,item)``, and items behind it,
            separated by tabs or commas, as many in every line. None draws them.
        n_negatives: how many to draw.
        protocol: how they are drawn.
        seed: decides the draws.
        held_out: ``own``, or ``moment``: what the labels say.
        manifest: what to keep beside the counts, to which its ``users_dropped`` and ``rows_dropped`` are added.

    Raises `DataError` if nobody is left to test, or the negatives do not fit, or are more than a user has items left.
    """
    user_codes, user_ids = _numbered(train.user_ids, test.user_ids)
    item_codes, item_ids = _numbered(train.item_ids, test.item_ids)
    users, items = user_codes[0][train.users], item_codes[0][train.items]
    test_users, test_items = user_codes[1][test.users], item_codes[1][test.items]
    n_ids = len(item_ids)
    pairs = users.astype(np.int64) * n_ids + items
    by_time = np.lexsort((train.times, users)) if train.has_times else np.lexsort((users,))
    ordered = latest_of_each(pairs[by_time])
    candidates = np.lexsort((test.times, test_users)) if test.has_times else np.lexsort((test_users,))
    test_pairs = test_users.astype(np.int64) * n_ids + test_items
    has_history = np.bincount(users, minlength=len(user_ids)) > 0
    usable = ~np.isin(test_pairs, ordered) & has_history[test_users]
    candidates = candidates[usable[candidates]]
    if not len(candidates):
        raise DataError(
            "no test row is of a user with train rows and of an item that the user did not have; check the ids"
        )
    tested, first = np.unique(test_users[candidates], return_index=True)
    held = np.full(len(user_ids), -1, np.int64)
    held[tested] = test_items[candidates[first]]

    order = np.concatenate([np.flatnonzero(held >= 0), np.flatnonzero((held < 0) & has_history)])
    place = np.full(len(user_ids), -1, np.int64)
    place[order] = np.arange(len(order))
    history_users, history_items = place[ordered // n_ids], (ordered % n_ids).astype(np.int32)
    grouped = np.argsort(history_users, kind="stable")
    test_of = held[held >= 0].astype(np.int32)
    own_ids = user_ids[order]
    drawn = None if negatives is None else read_negatives(negatives, own_ids[: len(test_of)], item_ids)
    if drawn is not None:
        item_ids, table = drawn
    known = Interactions.from_pairs(
        history_users.astype(np.int32), history_items, n_users=len(order), n_items=len(item_ids)
    )
    some = Interactions(
        offsets=known.offsets[: len(test_of) + 1],
        items=known.items[: known.offsets[len(test_of)]],
        n_items=len(item_ids),
    )
    if drawn is None:
        _refuse_users_without(n_negatives if protocol == "strict" else 1, some, own_ids)
        table = draw_test_negatives(some, test_of, n_negatives, protocol=protocol, seed=seed)
    counts = np.bincount(known.items, minlength=len(item_ids))
    return PreparedData(
        train=known,
        history=history_items[grouped] if train.has_times else None,
        test_items=test_of,
        test_negatives=table,
        user_ids=own_ids,
        item_ids=item_ids,
        protocol="published" if drawn is not None else protocol,
        manifest={
            **manifest,
            "seed": seed,
            "held_out": held_out,
            "split_rule": SPLIT_RULE,
            "n_tested_users": len(test_of),
            "n_test_rows_read": len(test),
            "n_test_rows_in_train": int(np.isin(test_pairs, ordered).sum()),
            "users_dropped": {**manifest.get("users_dropped", {}), "without_train_rows": int((~has_history).sum())},
            "rows_dropped": {**manifest.get("rows_dropped", {}), "duplicates": len(train) - len(ordered)},
            "n_unseen_held_out": int((counts[test_of] == 0).sum()),
        },
    )


def _refuse_users_without(n_free: int, train: Interactions, user_ids: Ids) -> None:
    """Raise `DataError`, by the original id, if a user has fewer items left to draw from, the held-out one aside."""
    n_left = train.n_items - train.degrees - 1
    user = int(n_left.argmin())
    if n_left[user] < n_free:
        advice = f"set n_negatives to at most {n_left[user]}" if n_left[user] else "leave out the user's test rows"
        raise DataError(
            f"user {user_ids[user]} has {n_left[user]} of {train.n_items:,} items left to draw negatives from, and "
            f"{n_free} are needed; {advice}"
        )


def _numbered(first: Ids, second: Ids) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], Ids]:
    """New codes for two lists of distinct ids, and the ids by code; integers are text where one list is."""
    if first.dtype.kind != second.dtype.kind:
        first, second = (np.array([str(each) for each in ids.tolist()], object) for ids in (first, second))
    codes, ids = number_ids(np.concatenate([first, second]))
    wide = codes.astype(np.int64)
    return (wide[: len(first)], wide[len(first) :]), ids


def read_negatives(path: Path, user_ids: Ids, item_ids: Ids) -> tuple[Ids, NDArray[np.int32]]:
    """Read the negatives of users: all item ids, those of the file that are new behind the others, and int32 (n, m).

    Raises `DataError` for a user without a line, and for lines of different lengths.
    """
    found: dict[str, list[str]] = {}
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error})") from None
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        pair = _PAIR.match(line.strip())
        rest = line.strip()[pair.end() :] if pair else line.strip()
        values = [value.strip() for value in rest.split("\t" if "\t" in rest else ",")]
        user = _plain(pair[1].strip() if pair else values.pop(0), user_ids)
        values = [_plain(value, item_ids) for value in values if value]
        if not values or (found and len(values) != len(next(iter(found.values())))):
            raise DataError(f"{path}: line {place} has {len(values)} negatives; every line needs as many as the first")
        found[user] = values
    missing = [user for user in user_ids.tolist() if str(user) not in found]
    if missing:
        raise DataError(
            f"{path} has no line for user {missing[0]!r} ({len(missing):,} lack one); each test user needs one"
        )
    rows = [found[str(user)] for user in user_ids.tolist()]
    known = pd.Index([str(item) for item in item_ids.tolist()])
    new = list(dict.fromkeys(value for row in rows for value in row if value not in known))
    if new:
        if item_ids.dtype.kind == "i" and all(map(is_int64, new)):
            item_ids = np.concatenate([item_ids, np.array(new, np.int64)])
        else:
            item_ids = np.array([*map(str, item_ids.tolist()), *new], object)
        known = pd.Index([str(item) for item in item_ids.tolist()])
    codes = known.get_indexer(pd.Index([value for row in rows for value in row])).reshape(len(rows), -1)
    return item_ids, np.sort(codes, axis=1).astype(np.int32)


def _plain(text: str, ids: Ids) -> str:
    """An id as `str` writes it: 007 is 7 among integers."""
    return str(int(text)) if ids.dtype.kind == "i" and is_int64(text) else text
