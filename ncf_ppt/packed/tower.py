"""A packed network of two towers: the user's hidden layers on bits, vectors of users and items, their products."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ncf_ppt.baselines import MatrixFactorization
from ncf_ppt.packed.gmf import PackedGMF
from ncf_ppt.packed.network import PackedNCF
from ncf_ppt.packed.table import Embeddings, PackedTable
from ncf_ppt.recent import weighted_means
from ncf_ppt.two_tower import blocks_of_histories
from ppt_core.bits.pack import pack_rows
from ppt_core.packed.linear import PackedLinear, PackedUnits
from ppt_core.packed.thresholds import Thresholds


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedTwoTower:
    """A `ncf_ppt.two_tower.TwoTower` in low precision, on bits: a `ncf_ppt.ranking.Scorer` of pairs and catalogues.

    The mean of the last items and the tower's first layer are 32-bit; the sums of that layer are compared with a
    threshold in each channel. The 1-bit layers behind it count bits; the hidden units that the last of them feeds and
    the tower's last layer are 32-bit again. All of it makes a user's vector once, and a score is an inner product.

    *Equal to the simulated network, bit for bit:* every 1-bit activation and every hidden unit, given the sums of the
    first layer. Those, the last layer's and the scores are computed as the network computes them: equal wherever its
    matrix products are equal to themselves.

    Attributes:
        recent: vectors of the last items, rows (n_items, factors).
        places: float32 (n_recent,), what the weights of a mean are made of.
        items: vectors of what is scored, rows (n_items, factors).
        item_biases: float32 (n_items,).
        embeddings: how both tables are stored; ``int8`` is the one that rounds what was trained.
        first: the tower's first layer.
        first_name: of the activation behind it.
        first_thresholds: float32 ones of that activation.
        hidden: 1-bit layers between 1-bit activations.
        units: the last 1-bit layer, with the ReLU behind it.
        last: the tower's last layer.
        last_items: int32 (n_users, n_recent), what each user did last, newest first and -1 behind it.
        user_ids: original ids, int64 or str objects (n_users,).
        item_ids: original ids, int64 or str objects (n_items,).
        protocol: label of the protocol it was evaluated by.
        provenance: where it comes from, as JSON values.
    """

    recent: PackedTable
    places: NDArray[np.float32]
    items: PackedTable
    item_biases: NDArray[np.float32]
    embeddings: Embeddings
    first: nn.Linear
    first_name: str
    first_thresholds: Thresholds
    hidden: tuple[PackedLinear, ...]
    units: PackedUnits
    last: nn.Linear
    last_items: NDArray[np.int32]
    user_ids: NDArray[Any]
    item_ids: NDArray[Any]
    protocol: str
    provenance: dict[str, Any]

    @property
    def tables(self) -> dict[str, PackedTable]:
        """The embedding tables by the names that the network gives them."""
        return {"recent": self.recent, "item": self.items}

    @property
    def n_users(self) -> int:
        """Number of users that it knows by what they did last."""
        return len(self.last_items)

    @property
    def n_items(self) -> int:
        """Number of items in the catalogue."""
        return len(self.items)

    @property
    def n_recent(self) -> int:
        """Last items that are read."""
        return len(self.places)

    def __call__(self, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """Score candidates (n, m) of users (n,): float32 (n, m)."""
        return self._products(users, candidates)

    def score_catalogue(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score every item for users (n,): float32 (n, n_items), those of `__call__`."""
        return self._products.score_catalogue(users)

    def user_vectors(self, recent: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `ncf_ppt.two_tower.TwoTower.user_vectors`."""
        vectors = np.ones((len(recent), self.items.size + 1), np.float32)
        with torch.inference_mode():
            for rows, histories in blocks_of_histories(recent):
                means = self.means(histories)
                found = means + self.last(self.hidden_units(self.first_bits(self.first(means)))[-1])
                vectors[rows, :-1] = found[: rows.stop - rows.start].numpy()
        return vectors

    def of_histories(self, recent: NDArray[np.int32]) -> MatrixFactorization:
        """What scores items for people of these histories (n, n_recent), newest first and -1 behind, by number."""
        return self._products.with_users(self.user_vectors(recent))

    def item_vectors(self) -> NDArray[np.float32]:
        """See `ncf_ppt.two_tower.TwoTower.item_vectors`."""
        return np.concatenate([self.items[:], self.item_biases[:, np.newaxis]], axis=1)

    def means(self, histories: Tensor) -> Tensor:
        """The weighted means of histories (n, n_recent): float32 (n, factors)."""
        return weighted_means(self._recent_rows, torch.from_numpy(self.places), histories)

    def first_bits(self, sums: Tensor) -> NDArray[np.uint64]:
        """The bits of the first activation about the first layer's sums (n, channels), in words."""
        thresholds = self.first_thresholds
        return pack_rows((sums.numpy() >= thresholds.values) != thresholds.flipped)

    def hidden_units(self, bits: NDArray[np.uint64]) -> tuple[list[NDArray[np.uint64]], Tensor]:
        """What follows from the first activation's bits: those of each later one, and the hidden units (n, units)."""
        all_bits = []
        for layer in self.hidden:
            bits = layer(bits)
            all_bits.append(bits)
        return all_bits, self.units(bits)

    @cached_property
    def _recent_rows(self) -> Tensor:
        return torch.from_numpy(self.recent[:])

    @cached_property
    def _products(self) -> MatrixFactorization:
        return MatrixFactorization(user_vectors=self.user_vectors(self.last_items), item_vectors=self.item_vectors())


PackedNetwork = PackedNCF | PackedTwoTower | PackedGMF
