"""What a user took last, as a network reads it: the items before each sample, and the mean of their vectors."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_prep.ratings.interactions import PreparedData
from ncf_ppt import _kernels
from ncf_ppt.histories import histories_of, places_in_history
from ncf_ppt.row_adam import RowEmbedding

_ROWS = 1 << 14  # of histories at a time


class RecentItems:
    """The items that users had taken before train positives, on the device where a network is trained.

    The same as `ncf_ppt.histories.recent_items`; the histories stay in the device's memory, 12 bytes for each train
    positive.

    Args:
        data: holds the histories.
        n: items of a history, at least 1.
        device: where the positives are.

    Raises `DataError` if the data do not hold the order in time.
    """

    def __init__(self, data: PreparedData, n: int, device: str | torch.device = "cpu") -> None:
        # Data in files that are mapped into memory are read-only, hence the copies.
        self._history = torch.from_numpy(np.array(histories_of(data))).to(device)
        self._places = torch.from_numpy(places_in_history(data)).to(device)
        self._offsets = torch.from_numpy(np.array(data.train.offsets)).to(device)
        self._before = torch.arange(1, n + 1, device=device)

    def __call__(self, users: Tensor, positives: Tensor) -> Tensor:
        """Return the items before positives, places int64 (n_rows,) in ``data.train.items``, of ``users`` (n_rows,).

        int32 (n_rows, n), the latest first, -1 where there are fewer.
        """
        places = self._places[positives].unsqueeze(1) - self._before
        items = self._history[places.clamp(min=0)]
        return items.masked_fill_(places < self._offsets[users].unsqueeze(1), -1)


def weighted_means(table: Tensor, places: Tensor, recent: Tensor, *, sparse: bool = False) -> Tensor:
    """Return means of rows of ``table`` (n_items, size), float (n, size); see `MeanEmbedding`.

    Args:
        table: the rows, float32.
        places: float (n_recent,), what the weights are made of.
        recent: histories, integers (n, n_recent): the latest item first, -1 where there is none.
        sparse: whether the gradient of the table is.
    """
    means: Any = _WeightedMeans.apply if table.device.type == "cpu" else means_by_operations
    result: Tensor = means(table, F.softplus(places), recent, sparse)
    return result


def means_by_operations(table: Tensor, weights: Tensor, recent: Tensor, sparse: bool) -> Tensor:
    """`weighted_means` in PyTorch's operations, for tables that are not on a CPU; ``weights`` are those of places."""
    shares = weights * (recent >= 0)
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-30)
    return F.embedding_bag(recent.clamp(min=0), table, per_sample_weights=shares, mode="sum", sparse=sparse)


class _WeightedMeans(torch.autograd.Function):
    """The same on a CPU, with the gradient of each row summed at once, in the order of the batch.

    PyTorch's operations make a row of gradients for each item of each history, three times as many as there are items.
    A sum has one order here, whatever the number of threads.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, weights: Tensor, recent: Tensor, sparse: bool) -> Tensor:
        means, totals = table.new_empty(len(recent), table.shape[1]), table.new_empty(len(recent))
        arrays = [tensor.detach().contiguous().numpy() for tensor in (table, weights, recent)]
        _kernels.fill_weighted_means(*arrays, means.numpy(), totals.numpy())
        ctx.save_for_backward(table, weights, recent, means, totals)
        ctx.sparse = sparse
        return means

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
        given = [tensor.detach().contiguous() for tensor in (*ctx.saved_tensors, grads)]
        table, weights, recent, means, totals, of_means = (tensor.numpy() for tensor in given)
        of_weights = np.empty(recent.shape, np.float32)
        _kernels.fill_weight_gradients(table, recent, means, totals, of_means, of_weights)
        rows, heads, following = (np.empty(recent.size, np.int64) for _ in range(3))
        slots = np.full(len(table), -1, np.int32)
        n_rows = _kernels.group_rows(recent.reshape(-1), slots, rows, heads, following)
        of_rows = torch.empty(n_rows, table.shape[1])
        _kernels.fill_row_gradients(heads[:n_rows], following, weights, totals, of_means, of_rows.numpy())
        indices = torch.from_numpy(rows[:n_rows])
        if ctx.sparse:
            of_table = torch.sparse_coo_tensor(indices[None], of_rows, table.shape, check_invariants=False)
        else:
            of_table = torch.zeros(table.shape).index_copy_(0, indices, of_rows)
        return of_table, torch.from_numpy(of_weights.sum(axis=0)), None, None


class MeanEmbedding(RowEmbedding):
    """A table of items whose rows are read as means over a user's last items, weighted by how long ago they were.

    ``out = sum over j of w_j E[recent_j] / sum over j of w_j``, where w_j = softplus(places_j) and j runs over the
    items that there are; without any it is 0. All w start at 1. Means over recent items are Fossil's (He and McAuley
    2016).

    Args:
        n_items: rows of the table E.
        size: of a row.
        n_recent: items of a history.
    """

    def __init__(self, n_items: int, size: int, n_recent: int) -> None:
        super().__init__(n_items, size)
        self.places = nn.Parameter(torch.empty(n_recent))

    @torch.no_grad()
    def reset_places(self, decay: float = 1) -> None:
        """Let place j weigh ``decay**j``."""
        weights = decay ** torch.arange(len(self.places), dtype=torch.float64)
        self.places.copy_(weights.expm1().log())  # the inverse of softplus

    def forward(self, input: Tensor) -> Tensor:
        """Return the means, float (n, size), of histories (n, n_recent): the latest item first, -1 where there is none.

        Gradients of rows are sparse once a `ncf_ppt.row_adam.RowAdam` owns the table.
        """
        table, numbers = self.lookup(input)
        return weighted_means(table, self.places, numbers, sparse=self._bring_up_to_date is not None)

    @torch.no_grad()
    def means(self, recent: Tensor) -> Tensor:
        """`forward` in blocks, for as many histories as there are users."""
        return torch.cat([self(rows) for rows in torch.split(recent, _ROWS)])
