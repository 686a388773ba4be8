"""Lists of items for people to read and for programs to load."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ncf_ppt.original_ids import written
from ncf_ppt.side_files import read_titles
from ncf_ppt.table_files import save_table

if TYPE_CHECKING:
    import pandas as pd

    from ncf_ppt.two_stages import FirstStage

SHOWN = 10
"""Lists, and items of each, that a person is shown."""

Titles = Path | str | Mapping[Any, str]


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
        n_unknown_items: how many of the items that were named, to choose from or to leave out, the catalogue lacks.
        titles: of the items, str objects (n_entries,), empty where there is none; None without `with_titles`.
        first_stage: how candidates were found, if they were chosen automatically.
    """

    user_ids: NDArray[Any]
    is_new: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    item_ids: NDArray[Any]
    scores: NDArray[np.float32]
    n_unknown_items: int = 0
    titles: NDArray[Any] | None = None
    first_stage: "FirstStage | None" = None

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def n_new_users(self) -> int:
        """Number of lists that hold what is most popular, for want of anything better."""
        return int(self.is_new.sum())

    def with_titles(self, titles: Titles) -> "Recommendations":
        """The same lists with titles of the items, see `ncf_ppt.side_files.read_titles`."""
        return replace(self, titles=titles_of(self.item_ids, titles))

    def to_dicts(self) -> list[dict[str, Any]]:
        """``user_id``, ``is_new``, ``item_ids`` and ``scores`` of each list, and ``titles``, as JSON values."""
        return list(self._entries())

    def _entries(self) -> Iterator[dict[str, Any]]:
        ends = itertools.pairwise(self.offsets.tolist())
        for user_id, new, (first, last) in zip(self.user_ids.tolist(), self.is_new.tolist(), ends, strict=True):
            yield {
                "user_id": user_id,
                "is_new": new,
                "item_ids": self.item_ids[first:last].tolist(),
                "scores": self.scores[first:last].tolist(),
                **({} if self.titles is None else {"titles": self.titles[first:last].tolist()}),
            }

    def columns(self) -> dict[str, NDArray[Any]]:
        """One element for each entry: ``user_id``, ``item_id``, int32 ``rank`` from 1, float32 ``score``, ``title``."""
        lengths = np.diff(self.offsets)
        ranks = np.arange(len(self.item_ids)) - np.repeat(self.offsets[:-1], lengths) + 1
        return {
            "user_id": np.repeat(self.user_ids, lengths),
            "item_id": self.item_ids,
            "rank": ranks.astype(np.int32),
            "score": self.scores,
            **({} if self.titles is None else {"title": self.titles}),
        }

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each entry, see `columns`."""
        import pandas as pd

        return pd.DataFrame(self.columns())

    def save(self, path: Path | str) -> None:
        """Write a row for each entry, see `columns`, to the new ``path``: see `ncf_ppt.table_files.save_table`.

        Raises `DataError` if ``path`` exists, or ends in none of ``.parquet``, ``.csv``, ``.jsonl`` and ``.ndjson``.
        """
        save_table(path, self.columns())

    def lines(self) -> Iterator[str]:
        """The lists as text, see `text_of_list`."""
        for entry in self._entries():
            yield text_of_list(entry["user_id"], entry["item_ids"], entry.get("titles"))

    def __repr__(self) -> str:
        shown = itertools.islice(self._entries(), SHOWN)
        lines = [text_of_list(each["user_id"], each["item_ids"], each.get("titles"), most=SHOWN) for each in shown]
        return "\n".join([f"Recommendations for {len(self):,} users", *lines, *more_than_shown(len(self), "users")])

    def _repr_html_(self) -> str:
        shown = itertools.islice(self._entries(), SHOWN)
        rows = [(each["user_id"], each.get("titles") or each["item_ids"]) for each in shown]
        return html_of_lists("user", rows) + "".join(f"<p>{more}</p>" for more in more_than_shown(len(self), "users"))


def titles_of(item_ids: NDArray[Any], titles: Titles) -> NDArray[Any]:
    """The title of each item, str objects, empty where there is none."""
    found = read_titles(titles)
    return np.array([found.get(str(item), "") for item in item_ids.tolist()], object)


def text_of_list(head: Any, item_ids: list[Any], titles: list[str] | None, *, most: int | None = None) -> str:
    """A list of at most ``most`` items as text.

    One line: the head, a colon, and the items with commas between them, best first; an id that holds a comma, a colon,
    a quote or the like is written as a JSON string. With titles a line for each item follows the head.
    """
    if titles is None:
        more = ", ..." if most is not None and len(item_ids) > most else ""
        return f"{written(head)}: {', '.join(map(written, item_ids[:most]))}{more}"
    pairs = itertools.islice(zip(item_ids, titles, strict=True), most)
    lines = [f"{place:>4}. {title or '(no title)'} [{written(item)}]" for place, (item, title) in enumerate(pairs, 1)]
    return "\n".join([f"{written(head)}:", *lines])


def html_of_lists(kind: str, rows: list[tuple[Any, list[Any]]]) -> str:
    """A table of lists, each with its head and `SHOWN` items at most, for a notebook."""
    cells = [
        (str(head), ", ".join([*map(str, items[:SHOWN]), *(["..."] if len(items) > SHOWN else [])]))
        for head, items in rows
    ]
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in cells)
    return f"<table><tr><th>{kind}</th><th>items, best first</th></tr>{body}</table>"


def more_than_shown(n: int, kind: str) -> list[str]:
    """A line that says how many lists are not shown, if there are any."""
    return [f"... and {n - SHOWN:,} more {kind}"] if n > SHOWN else []
