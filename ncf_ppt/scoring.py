"""Scores of (user, item) pairs by a trained network."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ncf_ppt.model import NCF

_BLOCK = 1 << 14  # pairs at a time: fewer cost calls, more leave the second-level cache
_ROWS = 1 << 14  # rows of a table at a time


def scorer(model: NCF) -> "NetworkScorer":
    """Wrap a model as it is now; see `NetworkScorer`."""
    return NetworkScorer(model)


def half_of_table(half: Callable[[Tensor], Tensor], table: Tensor) -> Tensor:
    """Half of the first layer for all rows of a table: always in the same blocks, since products round by them."""
    return torch.cat([half(rows) for rows in torch.split(table, _ROWS)])


class NetworkScorer:
    """A network as a function of arrays: users (n,) and candidates (n, m) to float32 logits (n, m).

    The first layer is the sum of a user's and an item's half (`ppt_core.pair_linear.PairLinear`), and each half is
    computed once for its whole table. So logits are those of the network up to the rounding of that sum, at 40% of
    the arithmetic. The model is evaluated in evaluation mode and put back into the mode it was in.

    Args:
        model: must not change while the scorer is in use.
    """

    def __init__(self, model: NCF) -> None:
        self.model = model
        self.user_half: Tensor | None = None
        self.item_half: Tensor | None = None
        with torch.inference_mode():
            if model.config.model != "mlp":
                self.user_factors, self.item_factors = model.gmf_user.values(), model.gmf_item.values()
            if model.config.model != "gmf":
                self.user_half = half_of_table(model.first.x_half, model.mlp_user.values())
                self.item_half = half_of_table(model.first.y_half, model.mlp_item.values())

    def __call__(self, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """Score row r of ``candidates`` for user r."""
        device = self.model.last.weight.device
        n_candidates = candidates.shape[1]
        scores = np.empty(candidates.shape, np.float32)
        rows = max(1, _BLOCK // max(1, n_candidates))
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                for row in range(0, len(users), rows):
                    block_users = torch.from_numpy(users[row : row + rows]).to(device)
                    for column in range(0, n_candidates, _BLOCK):
                        block = candidates[row : row + rows, column : column + _BLOCK]
                        logits = self._score(block_users, torch.from_numpy(np.ascontiguousarray(block)).to(device))
                        scores[row : row + rows, column : column + _BLOCK] = logits.float().cpu().numpy()
        finally:
            self.model.train(was_training)
        return scores

    def _score(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits (n, m) of users (n,) and items (n, m)."""
        model, n_pairs = self.model, items.numel()
        flat = items.reshape(-1)
        parts = []
        if model.config.model != "mlp":
            vectors = self.item_factors.index_select(0, flat).view(*items.shape, -1)
            vectors.mul_(self.user_factors[users].unsqueeze(1))
            parts.append(vectors.view(n_pairs, -1))
        if self.user_half is not None and self.item_half is not None:
            sums = self.item_half.index_select(0, flat).view(*items.shape, -1)
            sums.add_(self.user_half[users].unsqueeze(1))
            parts.append(model.mlp(sums.view(n_pairs, -1)))
        logits: Tensor = model.last(*parts)
        return logits.view(items.shape)
