"""Rows for users whom a network was not trained with: a linear function of what they took, everything else at rest.

A network with a row for each user knows nobody else. What a trained user's row became follows from what that user took,
and to a good part linearly: least squares over the trained users find the function from the mean of the rows of a
user's items to the user's row, and a new user gets its value. That takes one product a user, needs no gradients (so a
packed network can do it too) and draws nothing.

Steps of Adam from there, on the training's own loss over a user's items and drawn negatives, were tried. On
MovieLens-1M (NeuMF, 2 epochs, 604 users held out whole) they took 40 to 90 ms a user and ranked the validation items no
better: HR@10 .584 to .604 after 5 to 10 steps, .613 before them. With 8 factors and 3 epochs such rows keep 97% of the
HR@10 that training with these users gives (`benchmarks.fold_in`, four tenths of the users).
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions, PreparedData
from ncf_ppt.histories import last_items
from ncf_ppt.model import NCF
from ncf_ppt.packed.gmf import PackedGMF
from ncf_ppt.packed.network import PackedNCF
from ncf_ppt.packed.table import PackedTable
from ncf_ppt.row_adam import RowEmbedding
from ppt_core.errors import DataError

RIDGE = 1e-2
"""L2 penalty, as a share of the mean square of a mean's components. Chosen on validation items of MovieLens-1M, where
values from 1e-3 to 1 differed by less than chance."""

_USERS = 20_000  # trained ones that the function is learned from
_BLOCK = 256  # users at a time
_NAMES = ("gmf_user", "mlp_user")


def fold_in(model: NCF, data: PreparedData, people: PreparedData, *, ridge: float = RIDGE) -> NCF:
    """Return the network with rows for ``people`` in the place of its users'; everything else is shared with it.

    A row is a function of the network, ``data`` and that user's items alone: it depends neither on the others nor on
    their order. Who has no item of the catalogue gets the function's value for none, near the mean of all rows. Rows of
    a network with 1-bit embeddings are real numbers: they are never stored, and so need not be 1-bit.

    Args:
        model: as it serves. What it reads of a user's last items it reads of ``people``, too.
        data: what it was trained on.
        people: whose train positives are what is known of them, see `ncf_ppt.new_users.people_of`.
        ridge: see `RIDGE`.
    """
    names = [name for name in _NAMES if hasattr(model, name)]
    tables = [_values(model, name) for name in names]
    items = [_values(model, name.replace("user", "item")) for name in names]
    function = RowFunction.of(_joined(items), _joined(tables), data.train, ridge)
    rows = np.split(function(people.train), np.cumsum([table.shape[1] for table in tables])[:-1], axis=1)
    twin, device = copy.copy(model), model.last.weight.device
    twin._modules, twin._buffers = dict(model._modules), dict(model._buffers)
    for name, columns in zip(names, rows, strict=True):
        weight = torch.from_numpy(np.ascontiguousarray(columns)).to(device)
        setattr(twin, name, RowEmbedding(len(weight), weight.shape[1], _weight=weight))
    if model.config.n_recent:
        twin.last_items = torch.from_numpy(last_items(people, model.config.n_recent)).to(device)
    return twin


def fold_in_packed(
    packed: PackedNCF | PackedGMF, data: PreparedData, people: PreparedData, *, ridge: float = RIDGE
) -> PackedNCF | PackedGMF:
    """`fold_in` of a packed network, see `PackedFoldIn`."""
    return PackedFoldIn.of(packed, data, ridge=ridge)(people.train, people.user_ids)


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedFoldIn:
    """`fold_in` of a packed network: by the embeddings as they are stored, and by nothing else of it.

    Attributes:
        packed: the network.
        function: from the items of a person to the person's row.
    """

    packed: PackedNCF | PackedGMF
    function: "RowFunction"

    @classmethod
    def of(cls, packed: PackedNCF | PackedGMF, data: PreparedData, *, ridge: float = RIDGE) -> "PackedFoldIn":
        """Learn the function from the users of ``data``, which the network was trained on.

        Raises `DataError` for a network that reads a user's last items: in the file they are part of the user's row.
        """
        if packed.provenance.get("model", {}).get("n_recent"):
            raise DataError(
                "a packed network that reads a user's last items holds them in the user's row, so it cannot read those "
                "of new people; ask the run"
            )
        if isinstance(packed, PackedGMF):
            users, items = [packed.user_factors[:]], [packed.item_factors[:]]
        else:
            users = [table[:] for table in (packed.user_factors, packed.user_features)]
            items = [table[:] for table in (packed.item_factors, packed.item_features)]
        return cls(packed=packed, function=RowFunction.of(_joined(items), _joined(users), data.train, ridge))

    def __call__(self, people: Interactions, user_ids: NDArray[Any]) -> PackedNCF | PackedGMF:
        """The network with rows for ``people``, who have these ids, in the place of its users'."""
        rows = self.function(people)
        if isinstance(self.packed, PackedGMF):
            return self.packed.with_users(_stored(rows), user_ids)
        factors, features = np.split(rows, [self.packed.user_factors.size], axis=1)
        return self.packed.with_users(_stored(factors), _stored(features), user_ids)


def _stored(rows: NDArray[np.float32]) -> PackedTable:
    return PackedTable(values=np.ascontiguousarray(rows), scales=None, size=rows.shape[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class RowFunction:
    """The affine function from the mean of the rows of a user's items to the user's row.

    Attributes:
        items: float32 (n_items, size).
        weights: float64 (size + 1, row), the last of them the value of no mean.
    """

    items: NDArray[np.float32]
    weights: NDArray[np.float64]

    @classmethod
    def of(
        cls, items: NDArray[np.float32], users: NDArray[np.float32], train: Interactions, ridge: float
    ) -> "RowFunction":
        """Fit it to the rows of at most 20,000 users, evenly spread; the same bits on any number of threads."""
        from threadpoolctl import threadpool_limits

        some = np.unique(np.linspace(0, train.n_users - 1, min(_USERS, train.n_users)).astype(np.int64))
        some = some[train.degrees[some] > 0]
        size = items.shape[1]
        gram, moments = np.zeros((size + 1, size + 1)), np.zeros((size + 1, users.shape[1]))
        with threadpool_limits(1, "blas"):
            for start in range(0, len(some), _BLOCK):
                block = some[start : start + _BLOCK]
                means = np.stack([_mean(items, train.items_of(user)) for user in block.tolist()])
                gram += means.T @ means
                moments += means.T @ users[block].astype(np.float64)
            penalty = np.append(np.full(size, ridge * np.trace(gram[:-1, :-1]) / size), 0)
            penalty = np.maximum(penalty, 1e-9)  # of rows that are all zeros
            weights = np.linalg.solve(gram + np.diag(penalty), moments)
        return cls(items=items, weights=weights)

    def __call__(self, people: Interactions) -> NDArray[np.float32]:
        """The row of each of some people, float32 (n, row): one product for each, so that none depends on another."""
        rows = np.empty((people.n_users, self.weights.shape[1]), np.float32)
        for user in range(people.n_users):
            rows[user] = _mean(self.items, people.items_of(user)) @ self.weights
        return rows


def _mean(items: NDArray[np.float32], taken: NDArray[np.int32]) -> NDArray[np.float64]:
    """The mean of the rows of what was taken, zeros without any, and 1: float64 (size + 1,)."""
    mean = items[taken].mean(axis=0, dtype=np.float64) if len(taken) else np.zeros(items.shape[1])
    return np.append(mean, 1.0)


def _values(model: NCF, name: str) -> NDArray[np.float32]:
    table = model.get_submodule(name)
    assert isinstance(table, RowEmbedding)
    return np.asarray(table.values().float().cpu().numpy())


def _joined(tables: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(tables, axis=1)
