"""Users and items by their original ids: found, refused, or explained."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ncf_ppt.side_files import Entries, read_ids
from ppt_core.errors import DataError
from ppt_core.json_text import json_text

Kind = Literal["user", "item"]
Ids = Sequence[int | str] | NDArray[Any] | Path | str | Entries

_AMBIGUOUS = re.compile(r'[,:"\\\x00-\x1f\x7f]|^\s|\s$|^$')


def find_ids(known: NDArray[Any], kind: Kind, ids: Ids) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Look up users or items by their original ids.

    Where the ``known`` ids are integers, a string of digits stands for one ("123" finds 123), as a command line
    gives it; where they are strings, an integer stands for its digits.

    Args:
        known: original ids by number, int64 or str objects.
        kind: what they are ids of.
        ids: in any order; a path or a string names a file of them, see `ncf_ppt.side_files.read_ids`.

    Returns:
        The ids with the type of ``known`` (n,), and their numbers, int64 (n,), -1 for an unknown one.

    Raises `DataError` for what cannot be an id at all: not an integer of 64 bits where ids are integers.
    """
    entries = entries_of(ids, kind)
    are_integers = known.dtype.kind == "i"
    wanted = [as_integer(kind, entries, n) if are_integers else str(each) for n, each in enumerate(entries.values)]
    number_of = {known_id: number for number, known_id in enumerate(known.tolist())}
    numbers = np.array([number_of.get(each, -1) for each in wanted], np.int64)
    return np.array(wanted, np.int64 if are_integers else object), numbers


def known_numbers(
    known: NDArray[Any], kind: Kind, ids: Ids, *, manifest: Mapping[str, Any] | None = None, more: str = ""
) -> NDArray[np.int64]:
    """Return the numbers of ids, int64 (n,).

    Raises `DataError` for the first that is unknown, and says what preparing dropped, as far as the ``manifest`` of the
    data tells, and ``more``.
    """
    entries = entries_of(ids, kind)
    found, numbers = find_ids(known, kind, entries)
    unknown = np.flatnonzero(numbers < 0)
    if len(unknown):
        others = f" (and {len(unknown) - 1:,} more are)" if len(unknown) > 1 else ""
        raise DataError(
            unknown_id(
                kind,
                found[unknown].tolist()[0],
                f"{others}{entries.where(int(unknown[0]))}",
                n_known=len(known),
                examples=known[:3].tolist(),
                dropped=_dropped(manifest or {}, kind),
            )
            + more
        )
    return numbers


def unknown_id(
    kind: Kind, value: int | str, where: str = "", *, n_known: int, examples: Sequence[int | str], dropped: str = ""
) -> str:
    """What is said of an id that is none of the ``n_known`` ones, of which ``examples`` are given."""
    shown = ", ".join(map(repr, examples))
    return (
        f"{kind} {value!r} is unknown{where}: the training data hold {n_known:,} {kind}s with ids such as "
        f"{shown}{dropped}; correct the id"
    )


def numbers_of(ids: NDArray[Any], known: NDArray[Any]) -> NDArray[np.int64]:
    """The number of each id among the ``known`` ones, int64 (n,), -1 where it is not there; 7 and "7" are the same."""
    import pandas as pd

    if ids.dtype.kind != known.dtype.kind:
        ids, known = (np.array([str(each) for each in these.tolist()], object) for these in (ids, known))
    return np.asarray(pd.Index(known).get_indexer(pd.Index(ids)), np.int64)


def entries_of(ids: Ids, kind: Kind) -> Entries:
    """The ids as values with their places, read from a file if ``ids`` names one."""
    if isinstance(ids, Entries):
        return ids
    if isinstance(ids, str) and not Path(ids).exists():
        raise DataError(f"{ids} does not exist; one {kind} alone is a list, [{ids!r}], and text names a file of them")
    if isinstance(ids, (str, Path)):
        return read_ids(Path(ids), kind)
    return Entries(values=tuple(ids.tolist() if isinstance(ids, np.ndarray) else ids))


def written(each: Any) -> str:
    """An id on a line of several: as it is, or as a JSON string if it holds what separates them."""
    text = str(each)
    return json_text(text, ensure_ascii=False) if _AMBIGUOUS.search(text) else text


def as_integer(kind: Kind, entries: Entries, number: int) -> int:
    """Read an id of data whose ids are integers; `DataError` for what is none."""
    value = entries.values[number]
    is_integer = re.fullmatch(r"-?[0-9]{1,19}", str(value)) is not None
    if not is_integer or not -(2**63) <= int(value) < 2**63:
        raise DataError(
            f"{kind} {value!r}{entries.where(number)} cannot be an id of these data, whose {kind} ids are integers of "
            "64 bits"
        )
    return int(value)


_REASONS = {
    "below_min_ratings": "`prepare --min-ratings {min_ratings}`",
    "one_item_only": "the rule that a user needs two items",
    "two_items_only": "the rule that a user needs three items",
    "without_negatives": "`prepare --heavy-users drop`",
    "without_train_rows": "the rule that a user needs train rows",
}


def _dropped(manifest: Mapping[str, Any], kind: Kind) -> str:
    """What preparing dropped, as far as the manifest tells: an unknown id may be among it."""
    if kind == "item":
        n_items = manifest.get("n_items_dropped") or 0
        return f", and {n_items:,} more were dropped with the users who alone had them" if n_items else ""
    counts = {reason: n for reason, n in (manifest.get("users_dropped") or {}).items() if n}
    reasons = [
        f"{n:,} more were dropped by {_REASONS.get(reason, reason.replace('_', ' '))}" for reason, n in counts.items()
    ]
    words = {"min_ratings": manifest.get("min_ratings")}
    return f", and {', '.join(reasons)}".format(**words) if reasons else ""
