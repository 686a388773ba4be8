"""A packed NCF network: what a trained one amounts to, and the scores of pairs by it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ncf_ppt.packed import _catalogue_kernels, _kernels
from ncf_ppt.packed.counters import Counters
from ncf_ppt.packed.table import Embeddings, PackedTable
from ncf_ppt.packed.tiles import Tiles
from ncf_ppt.scoring import half_of_table
from ppt_core.packed.linear import PackedLinear, PackedReLULinear
from ppt_core.packed.thresholds import Thresholds
from ppt_core.pair_linear import PairLinear

# What a candidate costs to fetch and score, in items of a whole catalogue: measured 10 to 14.
COST_OF_GATHERING = 11
_CATALOGUE_BYTES = 1 << 26  # of scores that are held to look up some of them


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedNCF:
    """An NCF network in low precision, on bits: a `ncf_ppt.ranking.Scorer` that also scores whole catalogues.

    The first layer is 32-bit: its sum of a user's and an item's half is compared with a threshold in each channel.
    The 1-bit layers behind it count bits; the hidden units that the last of them feeds, the GMF part and the last layer
    are 32-bit again.

    *Equal to the simulated network, bit for bit:* the bits of every 1-bit activation, given those of the first one. The
    first ones are the decisions of the network's own modules about the float32 sum of the two halves, and the halves
    are those of `ncf_ppt.scoring.NetworkScorer`: so they are equal to that scorer's wherever the matrix products are.
    *Equal up to rounding:* that sum, which the network itself rounds in another order; hidden units and logits.

    A score is a function of its pair: it depends neither on other pairs nor on the number of threads.

    Attributes:
        user_factors: GMF embeddings, rows (n_users, factors); without a GMF part, ``factors`` is 0.
        item_factors: rows (n_items, factors).
        user_features: MLP embeddings, rows (n_users, features).
        item_features: rows (n_items, features).
        embeddings: how all four are stored; ``int8`` is the one that rounds what was trained.
        first: the first layer.
        first_name: of the activation behind it.
        first_thresholds: float32 ones of that activation.
        hidden: 1-bit layers between 1-bit activations.
        units: the last 1-bit layer, with the ReLU behind it.
        last_weight: float32 (factors + units,).
        last_bias: of the logit.
        user_ids: original ids, int64 or str objects (n_users,).
        item_ids: original ids, int64 or str objects (n_items,).
        protocol: label of the protocol it was evaluated by.
        provenance: where it comes from, as JSON values.
    """

    user_factors: PackedTable
    item_factors: PackedTable
    user_features: PackedTable
    item_features: PackedTable
    embeddings: Embeddings
    first: PairLinear
    first_name: str
    first_thresholds: Thresholds
    hidden: tuple[PackedLinear, ...]
    units: PackedReLULinear
    last_weight: NDArray[np.float32]
    last_bias: float
    user_ids: NDArray[Any]
    item_ids: NDArray[Any]
    protocol: str
    provenance: dict[str, Any]

    @property
    def tables(self) -> dict[str, PackedTable]:
        """The embedding tables by the names that the network gives them."""
        names = {"gmf_user": self.user_factors, "gmf_item": self.item_factors}
        names |= {"mlp_user": self.user_features, "mlp_item": self.item_features}
        return {name: table for name, table in names.items() if table.size}

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
        n_candidates = candidates.shape[1]
        if self.n_items > COST_OF_GATHERING * n_candidates:
            return self._score_candidates(users, candidates, np.empty((0, 0, 0), np.uint8))
        self._check(users, candidates)
        scores = np.empty(candidates.shape, np.float32)
        n_rows = max(1, _CATALOGUE_BYTES // (4 * self.n_items))
        for start in range(0, len(users), n_rows):
            rows = slice(start, start + n_rows)
            catalogue = self.score_catalogue(users[rows])
            scores[rows] = np.take_along_axis(catalogue, candidates[rows].astype(np.int64), axis=1)
        return scores

    def score_with_bits(
        self, users: NDArray[np.int64], candidates: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Score as `__call__` does, and return the bits (n, m, bits) of all 1-bit activations, 0 or 1, side by side."""
        bits = np.empty((*candidates.shape, int(self.counters.layers[:, 0].sum())), np.uint8)
        return self._score_candidates(users, candidates, bits), bits

    def score_catalogue(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score every item for users (n,): float32 logits (n, n_items), those of `__call__`."""
        scores, tiles = np.empty((len(users), self.n_items), np.float32), self._tiles
        thresholds, weights = self._user_side(users)
        _kernels.score_pairs(
            np.empty((0, 0), np.int32), np.empty(0, np.float32), thresholds,
            tiles.ranks, tiles.ranks_of(thresholds), tiles.items_per_section, tiles.factors.reshape(-1), weights,
            *self.counters.arguments(), np.float32(self.last_bias), np.empty((0, 0, 0), np.uint8), scores,
        )  # fmt: skip
        return scores

    def first_sums(self, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """What the first activation is about for candidates (n, m) of users (n,): float32 (n, m, channels)."""
        sums: NDArray[np.float32] = self._user_values[users][:, np.newaxis] + self._item_values[candidates]
        return np.where(self.first_thresholds.flipped, -sums, sums)

    def with_users(self, factors: PackedTable, features: PackedTable, user_ids: NDArray[Any]) -> "PackedNCF":
        """The same network for other users; what was computed of its items is shared.

        A user's half of the first layer is a product of its own, so that scores depend on no other user.
        """
        twin = replace(self, user_factors=factors, user_features=features, user_ids=user_ids)
        of_items = ("counters", "_thresholds", "_item_values", "_item_factors", "_tiles")
        twin.__dict__.update({name: self.__dict__[name] for name in of_items if name in self.__dict__})
        rows = [
            self._half(
                self.first.x_half, PackedTable(values=features[number : number + 1], scales=None, size=features.size)
            )
            for number in range(len(features))
        ]
        twin.__dict__["_user_values"] = (
            np.concatenate(rows) if rows else np.empty((0, self.first.out_features), np.float32)
        )
        return twin

    @cached_property
    def counters(self) -> Counters:
        """The hidden layers as the kernels take them."""
        return Counters.of(self.hidden, self.units, self.last_weight[self.user_factors.size :])

    def _score_candidates(
        self, users: NDArray[np.int64], candidates: NDArray[np.int32], bits: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        self._check(users, candidates)
        scores = np.empty(candidates.shape, np.float32)
        thresholds, weights = self._user_side(users)
        _kernels.score_pairs(
            np.ascontiguousarray(candidates, np.int32), self._item_values.reshape(-1), thresholds,
            np.empty((0, 0, 0), np.uint16), np.empty((0, 0, 0), np.uint16), 1, self._item_factors.reshape(-1), weights,
            *self.counters.arguments(), np.float32(self.last_bias), bits, scores,
        )  # fmt: skip
        return scores

    def _check(self, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> None:
        if candidates.ndim != 2 or len(candidates) != len(users):
            raise ValueError(
                f"candidates {candidates.shape} do not fit {len(users)} users; they must be a row for each"
            )
        if candidates.size and not 0 <= candidates.min() <= candidates.max() < self.n_items:
            raise ValueError(f"items must be between 0 and {self.n_items - 1}")

    def _user_side(self, users: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What an item's half must reach in each channel, and the factors times the last layer's weights."""
        if len(users) and not 0 <= users.min() <= users.max() < self.n_users:
            raise ValueError(f"users must be between 0 and {self.n_users - 1}")
        values = self._user_values[users]
        thresholds = np.empty_like(values)
        _catalogue_kernels.fill_least_addends(values, self._thresholds, thresholds)
        return thresholds, self.user_factors[users] * self.last_weight[: self.user_factors.size]

    @cached_property
    def _thresholds(self) -> NDArray[np.float32]:
        """Thresholds of the sums, those of flipped channels negated like their halves: v < t is -v >= next(-t)."""
        values, flipped = self.first_thresholds.values, self.first_thresholds.flipped
        return np.where(flipped, np.nextafter(-values, np.float32(np.inf)), values)

    @cached_property
    def _user_values(self) -> NDArray[np.float32]:
        return self._half(self.first.x_half, self.user_features)

    @cached_property
    def _item_values(self) -> NDArray[np.float32]:
        return self._half(self.first.y_half, self.item_features)

    @cached_property
    def _item_factors(self) -> NDArray[np.float32]:
        return self.item_factors[:]

    def _half(self, half: Callable[[Tensor], Tensor], table: PackedTable) -> NDArray[np.float32]:
        """Halves of the first layer (rows, channels); those of flipped channels are negated."""
        with torch.inference_mode():
            values = half_of_table(half, torch.from_numpy(table[:]))
            return values.mul_(torch.from_numpy(np.where(self.first_thresholds.flipped, -1, 1))).numpy()

    @cached_property
    def _tiles(self) -> Tiles:
        # `_item_values` are not kept for this: at a million items they are a gigabyte.
        return Tiles.of(self._half(self.first.y_half, self.item_features), self.item_factors[:])
