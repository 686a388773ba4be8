"""What a user took last, as a network reads it: the items before each sample, and the mean of their vectors."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_prep.ratings.interactions import PreparedData
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
        table: the rows.
        places: float (n_recent,), what the weights are made of.
        recent: histories, integers (n, n_recent): the latest item first, -1 where there is none.
        sparse: whether the gradient of the table is.
    """
    weights = F.softplus(places) * (recent >= 0)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-30)
    return F.embedding_bag(recent.clamp(min=0), table, per_sample_weights=weights, mode="sum", sparse=sparse)


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
        self.catch_up(input.clamp(min=0) if self.training else None)
        return weighted_means(self.weight, self.places, input, sparse=self._bring_up_to_date is not None)

    @torch.no_grad()
    def means(self, recent: Tensor) -> Tensor:
        """`forward` in blocks, for as many histories as there are users."""
        return torch.cat([self(rows) for rows in torch.split(recent, _ROWS)])
