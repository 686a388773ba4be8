"""The best items of the whole catalogue for each of some users."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions, PreparedData, id_column
from ncf_ppt import _kernels
from ncf_ppt.ranking import Scorer
from ppt_core.errors import DataError
from ppt_core.runs.files import refuse_existing, replaced_file

if TYPE_CHECKING:
    import pandas as pd

NewUsers = Literal["error", "popular"]

_ITEMS_PER_CALL = 1 << 18
_SHOWN = 10  # users, and items of each, that a person is shown


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Recommendations:
    """A list of items for each user who was asked for, best first; equal scores in the order of item numbers.

    Attributes:
        user_ids: original id of the user of each list, int64 or str objects (n_lists,), as asked for.
        is_new: bool (n_lists,); True where the training data do not know the user and the list holds what is most
            popular.
        offsets: int64 (n_lists + 1,); list number n is entries ``offsets[n]`` to ``offsets[n + 1]`` of what follows.
        item_ids: original ids, int64 or str objects (n_entries,).
        scores: float32 (n_entries,), by the scorer; in the list of a new user, train positives of the item.
    """

    user_ids: NDArray[Any]
    is_new: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    item_ids: NDArray[Any]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def n_new_users(self) -> int:
        """Number of lists that hold what is most popular, for want of anything better."""
        return int(self.is_new.sum())

    def to_dicts(self) -> list[dict[str, Any]]:
        """``user_id``, ``is_new``, ``item_ids`` and ``scores`` of each list, as JSON values."""
        return list(self._entries())

    def _entries(self) -> Iterator[dict[str, Any]]:
        ends = itertools.pairwise(self.offsets.tolist())
        for user_id, new, (first, last) in zip(self.user_ids.tolist(), self.is_new.tolist(), ends, strict=True):
            yield {
                "user_id": user_id,
                "is_new": new,
                "item_ids": self.item_ids[first:last].tolist(),
                "scores": self.scores[first:last].tolist(),
            }

    def columns(self) -> dict[str, NDArray[Any]]:
        """One element for each entry: ``user_id``, ``item_id``, int32 ``rank`` from 1, float32 ``score``."""
        lengths = np.diff(self.offsets)
        ranks = np.arange(len(self.item_ids)) - np.repeat(self.offsets[:-1], lengths) + 1
        return {
            "user_id": np.repeat(self.user_ids, lengths),
            "item_id": self.item_ids,
            "rank": ranks.astype(np.int32),
            "score": self.scores,
        }

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each entry, see `columns`."""
        import pandas as pd

        return pd.DataFrame(self.columns())

    def save(self, path: Path | str) -> None:
        """Write a row for each entry to the new Parquet file ``path``, see `columns`.

        Raises `DataError` if ``path`` exists.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        refuse_existing(path)
        columns = self.columns().items()
        table = pa.table({name: id_column(column) if name.endswith("_id") else column for name, column in columns})
        with replaced_file(path) as partial:
            pq.write_table(table, partial)

    def __repr__(self) -> str:
        lines = []
        for entry in itertools.islice(self._entries(), _SHOWN):
            items = ", ".join(map(str, entry["item_ids"][:_SHOWN]))
            more = ", ..." if len(entry["item_ids"]) > _SHOWN else ""
            lines.append(f"{entry['user_id']}: {items}{more}")
        if len(self) > _SHOWN:
            lines.append(f"... and {len(self) - _SHOWN:,} more users")
        return "\n".join([f"Recommendations for {len(self):,} users", *lines])

    def _repr_html_(self) -> str:
        rows = []
        for entry in itertools.islice(self._entries(), _SHOWN):
            cells = str(entry["user_id"]), ", ".join(map(str, entry["item_ids"]))
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
        more = f"<p>and {len(self) - _SHOWN:,} more users</p>" if len(self) > _SHOWN else ""
        return f"<table><tr><th>user</th><th>items, best first</th></tr>{''.join(rows)}</table>{more}"


def recommend(
    score: Scorer,
    data: PreparedData,
    users: Sequence[int | str] | NDArray[Any] | None = None,
    *,
    k: int = 10,
    exclude_seen: bool = True,
    new_users: NewUsers = "error",
    memory: int = 1 << 26,
) -> Recommendations:
    """Recommend the best ``k`` items of the catalogue to each user.

    A list is a function of the model and the user: it does not depend on who else is asked for.

    Args:
        score: scores pairs; one that is also a `CatalogueScorer` scores whole rows. An item of score minus infinity
            is in no list.
        data: what the model was trained on.
        users: original ids in any order, as `find_users` takes them; None is every user of ``data``.
        k: items in a list; a list is shorter where fewer are left.
        exclude_seen: leave out the user's train positives, and validation item. The held-out item is never left
            out: training did not see it, and to recommend it is what the metrics ask for.
        new_users: what a user unknown to ``data`` gets: an error, or the items with the most train positives.
        memory: bytes of catalogue scores held at a time, one user's at least.

    Raises:
        DataError: an id is unknown or cannot be one, or a score is NaN.
        ValueError: ``k`` is below 1, or ``new_users`` is neither of the two.
    """
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    if new_users not in ("error", "popular"):
        raise ValueError(f"new_users is {new_users!r}; it must be error or popular")
    if users is None:
        user_ids, numbers = data.user_ids, np.arange(data.n_users)
    else:
        user_ids, numbers = find_users(data, users)
    is_new = numbers < 0
    if is_new.any() and new_users == "error":
        _refuse_unknown(data, user_ids[is_new])

    k = min(k, data.n_items)
    items, scores = np.empty((len(numbers), k), np.int32), np.empty((len(numbers), k), np.float32)
    lengths = np.empty(len(numbers), np.int64)
    rows_per_tile = max(1, memory // (4 * data.n_items))
    known = np.flatnonzero(~is_new)
    nothing = Interactions.none(n_users=data.n_users, n_items=data.n_items)
    seen = data.known() if exclude_seen else nothing
    for start in range(0, len(known), rows_per_tile):
        rows = known[start : start + rows_per_tile]
        tile = score_catalogue(score, numbers[rows], data.n_items)
        is_nan = np.isnan(tile).any(axis=1)
        if is_nan.any():
            raise DataError(
                f"the scores of user {user_ids[rows[is_nan.argmax()]]} hold NaN, so nothing can be recommended; the "
                "model has diverged: train it again with a lower learning rate"
            )
        items[rows], scores[rows], lengths[rows] = top_items(tile, k, seen, numbers[rows])
    if is_new.any():
        popularity = np.bincount(data.train.items, minlength=data.n_items).astype(np.float32)[np.newaxis]
        items[is_new], scores[is_new], lengths[is_new] = top_items(popularity, k, nothing, np.zeros(1, np.int64))
    is_entry = np.arange(k) < lengths[:, np.newaxis]
    return Recommendations(
        user_ids=user_ids,
        is_new=is_new,
        offsets=np.append(0, np.cumsum(lengths)),
        item_ids=data.item_ids[items[is_entry]],
        scores=scores[is_entry],
    )


@runtime_checkable
class CatalogueScorer(Protocol):
    """A model that scores whole rows faster than pair by pair."""

    def score_catalogue(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score every item for users (n,): float32 (n, n_items); higher is better."""


def score_catalogue(score: Scorer, users: NDArray[np.int64], n_items: int) -> NDArray[np.float32]:
    """Score all items for users (n,): float32 (n, n_items).

    A scorer of pairs is called for one user and at most 262,144 items at a time. Matrix products round by the
    number of their rows (measured for NeuMF: differences to 1.2e-7 between blocks of a few and of thousands of
    pairs, none between larger ones), so this is what makes a user's scores independent of the other users.
    """
    if isinstance(score, CatalogueScorer):
        return score.score_catalogue(users)
    catalogue = np.arange(n_items, dtype=np.int32)[np.newaxis]
    scores = np.empty((len(users), n_items), np.float32)
    for row in range(len(users)):
        for start in range(0, n_items, _ITEMS_PER_CALL):
            items = slice(start, start + _ITEMS_PER_CALL)
            scores[row : row + 1, items] = score(users[row : row + 1], catalogue[:, items])
    return scores


def find_users(data: PreparedData, ids: Sequence[int | str] | NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Look up users by their original ids.

    Where the ids of ``data`` are integers, a string of digits stands for one ("123" finds 123), as a command line
    gives it; where they are strings, an integer stands for its digits.

    Returns:
        The ids with the type of ``data.user_ids`` (n,), and the user numbers, int64 (n,), -1 for an unknown user.

    Raises `DataError` for what cannot be an id at all: not an integer of 64 bits where ids are integers.
    """
    are_integers = data.user_ids.dtype.kind == "i"
    convert = _as_integer if are_integers else str
    wanted = [convert(each) for each in (ids.tolist() if isinstance(ids, np.ndarray) else ids)]
    number_of = {user_id: number for number, user_id in enumerate(data.user_ids.tolist())}
    numbers = np.array([number_of.get(each, -1) for each in wanted], np.int64)
    return np.array(wanted, np.int64 if are_integers else object), numbers


def _as_integer(user_id: int | str) -> int:
    is_integer = re.fullmatch(r"-?[0-9]{1,19}", str(user_id)) is not None
    if not is_integer or not -(2**63) <= int(user_id) < 2**63:
        raise DataError(f"user {user_id!r} cannot be an id of these data, whose user ids are integers of 64 bits")
    return int(user_id)


def _refuse_unknown(data: PreparedData, unknown: NDArray[Any]) -> None:
    others = f" (and {len(unknown) - 1:,} more are)" if len(unknown) > 1 else ""
    examples = ", ".join(repr(user_id) for user_id in data.user_ids[:3].tolist())
    raise DataError(
        f"user {unknown.tolist()[0]!r} is unknown{others}: the training data hold {data.n_users:,} users with ids such "
        f"as {examples}; correct the id, or let new users have what is most popular (new_users popular)"
    )


def top_items(
    scores: NDArray[np.float32], k: int, seen: Interactions, users: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """Take the best ``k`` items of each row of a catalogue's scores, equal scores in the order of item numbers.

    Args:
        scores: float32 (n, n_items), none of them NaN. Minus infinity is the score of what nobody has scored, such as
            an item that is no candidate: no list holds it.
        k: at least 1.
        seen: what is left out for each user.
        users: user number of each row, int64 (n,).

    Returns:
        Items, int32 (n, k), best first, and their scores, float32 (n, k), both undefined behind the end of a list; and
        the lengths of the lists, int64 (n,).
    """
    n = len(scores)
    items, top_scores, lengths = np.empty((n, k), np.int32), np.empty((n, k), np.float32), np.empty(n, np.int64)
    first, last = seen.offsets[users], seen.offsets[users + 1]
    _kernels.fill_top_items(scores, seen.items, first, last, items, top_scores, lengths)
    return items, top_scores, lengths
