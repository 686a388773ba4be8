"""Items alike: those whose vectors point into the same direction."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions
from ncf_ppt import _kernels
from ncf_ppt.item_lists import SHOWN, Titles, html_of_lists, more_than_shown, text_of_list, titles_of
from ncf_ppt.networks import Network
from ncf_ppt.original_ids import Ids, known_numbers
from ncf_ppt.packed.gmf import PackedGMF
from ncf_ppt.packed.network import PackedNCF
from ncf_ppt.packed.tower import PackedNetwork, PackedTwoTower
from ncf_ppt.recommendation import top_items
from ncf_ppt.table_files import save_table
from ncf_ppt.two_tower import TwoTower

if TYPE_CHECKING:
    import pandas as pd

_ROWS = 256  # at a time


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SimilarItems:
    """For each item that was asked for, those most alike, best first; equal ones in the order of item numbers.

    Attributes:
        item_ids: original ids, int64 or str objects (n,), as asked for.
        similar_ids: original ids of what is like them, (n, k).
        similarities: float32 (n, k), the cosine between the vectors, -1 to 1.
        titles: of ``item_ids`` and of ``similar_ids``, str objects; None without `with_titles`.
    """

    item_ids: NDArray[Any]
    similar_ids: NDArray[Any]
    similarities: NDArray[np.float32]
    titles: tuple[NDArray[Any], NDArray[Any]] | None = None

    def __len__(self) -> int:
        return len(self.item_ids)

    def with_titles(self, titles: Titles) -> "SimilarItems":
        """The same lists with titles, see `ncf_ppt.side_files.read_titles`."""
        flat = titles_of(self.similar_ids.ravel(), titles)
        return replace(self, titles=(titles_of(self.item_ids, titles), flat.reshape(self.similar_ids.shape)))

    def to_dicts(self) -> list[dict[str, Any]]:
        """``item_id``, ``similar_ids`` and ``similarities`` of each item, and titles, as JSON values."""
        return list(self._entries())

    def _entries(self) -> Iterator[dict[str, Any]]:
        for row, item_id in enumerate(self.item_ids.tolist()):
            entry = {"item_id": item_id, "similar_ids": self.similar_ids[row].tolist()}
            entry["similarities"] = self.similarities[row].tolist()
            if self.titles is not None:
                entry |= {"title": self.titles[0][row], "similar_titles": self.titles[1][row].tolist()}
            yield entry

    def columns(self) -> dict[str, NDArray[Any]]:
        """One element for each entry: ``item_id``, ``similar_id``, int32 ``rank`` from 1, float32 ``similarity``."""
        n, k = self.similar_ids.shape
        return {
            "item_id": np.repeat(self.item_ids, k),
            "similar_id": self.similar_ids.ravel(),
            "rank": np.tile(np.arange(1, k + 1, dtype=np.int32), n),
            "similarity": self.similarities.ravel(),
            **({} if self.titles is None else {"title": self.titles[1].ravel()}),
        }

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each entry, see `columns`; with titles also that of the similar item, ``title``."""
        import pandas as pd

        return pd.DataFrame(self.columns())

    def save(self, path: Path | str) -> None:
        """Write a row for each entry, see `to_pandas`, to the new ``path``: see `ncf_ppt.table_files.save_table`."""
        save_table(path, self.columns())

    def lines(self, most: int | None = None) -> Iterator[str]:
        """The lists as text, see `ncf_ppt.item_lists.text_of_list`."""
        for entry in self._entries():
            head = f"{entry['item_id']} {entry['title']}".strip() if "title" in entry else entry["item_id"]
            yield text_of_list(head, entry["similar_ids"], entry.get("similar_titles"), most=most)

    def __repr__(self) -> str:
        lines = itertools.islice(self.lines(SHOWN), SHOWN)
        return "\n".join([f"Items like {len(self):,} items", *lines, *more_than_shown(len(self), "items")])

    def _repr_html_(self) -> str:
        shown = itertools.islice(self._entries(), SHOWN)
        rows = [
            (each.get("title") or each["item_id"], each.get("similar_titles") or each["similar_ids"]) for each in shown
        ]
        return html_of_lists("item", rows) + "".join(f"<p>{more}</p>" for more in more_than_shown(len(self), "items"))


def similar_items(
    vectors: NDArray[np.float32], item_ids: NDArray[Any], items: Ids | None, *, k: int = 10
) -> SimilarItems:
    """Find the ``k`` items whose vectors have the highest cosine with that of each of ``items``, itself left out.

    Args:
        vectors: of all items, float32 (n_items, size), see `item_vectors`. A vector of zeros is like none: 0.
        item_ids: original ids of all items.
        items: original ids, or a file of them; None is every item.
        k: length of the lists, shorter where there are fewer others.

    Raises `DataError` for an id that is unknown or cannot be one, and ValueError if ``k`` is below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    numbers = np.arange(len(item_ids)) if items is None else known_numbers(item_ids, "item", items)
    best, similarities = ItemsAlike.of(vectors).find(numbers, k)
    return SimilarItems(item_ids=item_ids[numbers], similar_ids=item_ids[best], similarities=similarities)


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemsAlike:
    """The search for items whose vectors point into the same direction.

    Attributes:
        columns: vectors of all items at unit length, float32 (size, n_items).
    """

    columns: NDArray[np.float32]

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> "ItemsAlike":
        """Prepare a search among vectors (n_items, size)."""
        return cls(columns=np.ascontiguousarray(at_unit_length(vectors).T))

    def find(self, numbers: NDArray[np.int64], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Find the ``k`` items most like each of items (n,), or all others: numbers and cosines, (n, at most k)."""
        n_items = self.columns.shape[1]
        k = min(k, n_items - 1)
        best, similarities = np.empty((len(numbers), k), np.int32), np.empty((len(numbers), k), np.float32)
        nothing = Interactions.none(n_users=1, n_items=n_items)
        for start in range(0, len(numbers), _ROWS):
            block = numbers[start : start + _ROWS]
            scores = np.zeros((len(block), n_items), np.float32)
            _kernels.add_catalogue_products(np.ascontiguousarray(self.columns[:, block].T), self.columns, scores)
            scores[np.arange(len(block)), block] = -np.inf
            if k:
                rows = slice(start, start + len(block))
                best[rows], similarities[rows], _ = top_items(scores, k, nothing, np.zeros(len(block), np.int64))
        return best, similarities


def item_vectors(network: Network | PackedNetwork) -> NDArray[np.float32]:
    """What is compared, float32 (n_items, size).

    The item's row that the MLP reads, which finds items alike better than the GMF's does; of a GMF its row times the
    weights of the last layer, of two towers the row of the scored item.
    """
    if isinstance(network, PackedNCF):
        return (network.item_features if network.item_features.size else network.item_factors)[:]
    if isinstance(network, PackedGMF):
        return network.item_factors[:] * network.weights
    if isinstance(network, (TwoTower, PackedTwoTower)):
        return network.item_vectors()[:, :-1]
    with torch.no_grad():
        if network.config.model != "gmf":
            return network.mlp_item.values().float().cpu().numpy()
        return (network.gmf_item.values() * network.last.weight[0, : network.config.factors]).float().cpu().numpy()


def at_unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1, float32; rows of zeros stay."""
    lengths = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True))
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
