"""A packed GMF network: codes of users and items, whose products are its scores."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions
from ncf_ppt.baselines import MatrixFactorization
from ncf_ppt.codes import Codes, CodeSearch
from ncf_ppt.packed.table import Embeddings, PackedTable


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedGMF:
    """A GMF network with 1-bit embeddings: a `ncf_ppt.ranking.Scorer` of pairs and catalogues.

    Where users and items are 1-bit, a score is a count of equal bits times three scales, plus a bias, and
    `find` searches the whole catalogue by XOR and popcounts (`ncf_ppt.codes.top_codes`). Where only the items are, it
    is an inner product of floats. Tables are those of the network, bit for bit; scores are its logits up to rounding.

    Attributes:
        user_factors: rows (n_users, factors), 1-bit or 32-bit.
        item_factors: rows (n_items, factors), 1-bit.
        embeddings: how both are stored.
        weights: float32 (factors,), the last layer's; all alike where both tables are 1-bit.
        bias: of the logit.
        user_ids: original ids, int64 or str objects (n_users,).
        item_ids: original ids, int64 or str objects (n_items,).
        protocol: label of the protocol it was evaluated by.
        provenance: where it comes from, as JSON values.
    """

    user_factors: PackedTable
    item_factors: PackedTable
    embeddings: Embeddings
    weights: NDArray[np.float32]
    bias: float
    user_ids: NDArray[Any]
    item_ids: NDArray[Any]
    protocol: str
    provenance: dict[str, Any]

    @property
    def tables(self) -> dict[str, PackedTable]:
        """The embedding tables by the names that the network gives them."""
        return {"gmf_user": self.user_factors, "gmf_item": self.item_factors}

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.user_factors)

    @property
    def n_items(self) -> int:
        """Number of items in the catalogue."""
        return len(self.item_factors)

    def __call__(self, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """Score candidates (n, m) of users (n,): float32 logits (n, m)."""
        return self.scores(users, candidates)

    def score_catalogue(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score every item for users (n,): float32 logits (n, n_items), those of `__call__`."""
        return self.scores.score_catalogue(users)

    def find(self, users: NDArray[np.int64], n: int, seen: Interactions) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Find the ``n`` best items of users (n_users,), see `ncf_ppt.codes.CodeSearch.find`.

        Raises ValueError where the users are not 1-bit.
        """
        if not isinstance(self.scores, CodeSearch):
            raise ValueError("users are not 1-bit, so there are no bits to search by; score the catalogue")
        return self.scores.find(users, n, seen)

    def with_users(self, factors: PackedTable, user_ids: NDArray[Any]) -> "PackedGMF":
        """The same network for other users, whose rows are floats; what was computed of its items is shared."""
        twin = replace(self, user_factors=factors, embeddings="float32", user_ids=user_ids)
        twin.__dict__["_items_as_floats"] = self._items_as_floats
        return twin

    @cached_property
    def scores(self) -> CodeSearch | MatrixFactorization:
        """What scores: codes where both tables are 1-bit, products of floats where only the items are."""
        if self.embeddings == "binary":
            users = _codes(self.user_factors)
            scaled = Codes(words=users.words, scales=users.scales * self.weights[0], n_bits=users.n_bits)
            return CodeSearch(users=scaled, items=_codes(self.item_factors), bias=self.bias)
        biases = np.full((self.n_users, 1), self.bias, np.float32)
        return self._items_as_floats.with_users(np.concatenate([self.user_factors[:] * self.weights, biases], axis=1))

    @cached_property
    def _items_as_floats(self) -> MatrixFactorization:
        """The items' vectors with a 1 behind, for the bias, and no users."""
        items = np.concatenate([self.item_factors[:], np.ones((self.n_items, 1), np.float32)], axis=1)
        return MatrixFactorization(user_vectors=np.empty((0, items.shape[1]), np.float32), item_vectors=items)


def _codes(table: PackedTable) -> Codes:
    assert table.scales is not None
    return Codes.of_bytes(table.values, table.scales, table.size)
