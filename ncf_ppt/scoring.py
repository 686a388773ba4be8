"""Scores of (user, item) pairs by a trained network."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ncf_ppt import _kernels
from ncf_ppt.baselines import MatrixFactorization
from ncf_ppt.model import NCF
from ncf_ppt.networks import Network
from ncf_ppt.ranking import Scorer
from ncf_ppt.serving import served
from ncf_ppt.two_tower import TwoTower
from ppt_core.batch_norm import BatchNormReLU
from ppt_core.layers import BinaryActivation
from ppt_core.steady_products import steady_products

_BLOCK = 1 << 14  # pairs at a time: fewer cost calls, more leave the second-level cache
_DEVICE_BLOCK = 1 << 19  # on a GPU, where 16,384 pairs take no longer than to ask for them
ROWS = 1 << 14
"""Rows of a table at a time."""


def scorer(model: Network, *, in_order: bool = False) -> Scorer:
    """Wrap a model as it is now: see `NetworkScorer`; a two-tower network's vectors are multiplied as ALS's are."""
    if isinstance(model, TwoTower):
        users = model.user_vectors(model.last_items.cpu().numpy())
        return MatrixFactorization(user_vectors=users, item_vectors=model.item_vectors())
    return NetworkScorer(model, in_order=in_order)


def half_of_table(half: Callable[[Tensor], Tensor], table: Tensor) -> Tensor:
    """Half of the first layer for all rows of a table: always in the same blocks, since products round by them."""
    first = half(table[:ROWS])
    halves = first.new_empty(len(table), first.shape[1])  # filled by blocks: joined, they would be there twice
    halves[:ROWS] = first
    for start in range(ROWS, len(table), ROWS):
        halves[start : start + ROWS] = half(table[start : start + ROWS])
    return halves


class _BlocksOfHalf:
    """What `half_of_table` gives, of which one block at a time is in memory: quick for rows in ascending order."""

    def __init__(self, half: Callable[[Tensor], Tensor], table: Tensor) -> None:
        self._half, self._table = half, table
        self._number, self._block = -1, table[:0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        numbers = torch.div(rows, ROWS, rounding_mode="floor")
        found: Tensor | None = None
        for number in numbers.unique().tolist():  # type: ignore[no-untyped-call]
            if number != self._number:
                self._number = number
                self._block = self._half(self._table[number * ROWS : (number + 1) * ROWS])
            if found is None:
                found = self._block.new_empty(len(rows), self._block.shape[1])
            places = numbers == number
            found[places] = self._block[rows[places] - number * ROWS]
        return self._block[:0] if found is None else found


class NetworkScorer:
    """A network as a function of arrays: users (n,) and candidates (n, m) to float32 logits (n, m).

    The first layer is the sum of a user's and an item's half (`ppt_core.pair_linear.PairLinear`), and each half is
    computed once for its whole table. So logits are those of the network up to the rounding of that sum, at 40% of
    the arithmetic. The model is evaluated in evaluation mode and put back into the mode it was in.

    Args:
        model: must not change while the scorer is in use.
        in_order: users come in ascending order, as in `ncf_ppt.ranking.rank_test_items`: their halves are computed
            along the way and never all in memory, which would take 142 MB at MovieLens-20M's size.
    """

    def __init__(self, model: NCF, *, in_order: bool = False) -> None:
        self.model = model = served(model)
        self.device = model.last.weight.device
        self._block = _BLOCK if self.device.type == "cpu" else _DEVICE_BLOCK
        # A network without one of the two parts has vectors of size 0 in its place.
        n_users, n_items = (table.num_embeddings for table in model.tables()[:2])
        self.user_factors, self.item_factors = (torch.empty(n, 0, device=self.device) for n in (n_users, n_items))
        self.user_half: Tensor | _BlocksOfHalf = self.user_factors
        self.item_half = self.item_factors
        with torch.inference_mode(), steady_products(model):
            if model.config.model != "mlp":
                # The last layer's weights are folded into the items, usually fewer.
                weights = model.last.weight[0, : model.config.factors]
                self.user_factors, self.item_factors = model.gmf_user.values(), model.gmf_item.values() * weights
            if model.config.model != "gmf":
                make_half = _BlocksOfHalf if in_order else half_of_table
                self.user_half = make_half(model.first.x_half, model.mlp_user.values())
                self.item_half = half_of_table(model.first.y_half, model.mlp_item.values())

    def __call__(self, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """Score row r of ``candidates`` for user r."""
        n_candidates = candidates.shape[1]
        scores = np.empty(candidates.shape, np.float32)
        rows = max(1, self._block // max(1, n_candidates))
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode(), steady_products(self.model):
                for row in range(0, len(users), rows):
                    block_users = torch.from_numpy(users[row : row + rows]).to(self.device)
                    for column in range(0, n_candidates, self._block):
                        block = candidates[row : row + rows, column : column + self._block]
                        logits = self._score(block_users, torch.from_numpy(np.ascontiguousarray(block)).to(self.device))
                        scores[row : row + rows, column : column + self._block] = logits.float().cpu().numpy()
        finally:
            self.model.train(was_training)
        return scores

    def _score(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits (n, m) of users (n,) and items (n, m)."""
        model = self.model
        has_hidden = model.config.model != "gmf"
        if self.device.type != "cpu":
            logits = torch.einsum("nf,nmf->nm", self.user_factors[users], self.item_factors[items]) + model.last.bias
            if has_hidden:
                sums = self.user_half[users].unsqueeze(1) + self.item_half[items]
                hidden = model.mlp(sums.flatten(0, 1)) @ model.last.weight[0, -model.config.layers[-1] :]
                logits += hidden.view(items.shape)
            return logits
        hidden, factor, shift = torch.empty(items.numel(), 0), torch.empty(0), torch.empty(0)
        if has_hidden:
            hidden = self._first_activations(users, items)
            last_activation: nn.Module = nn.ReLU()  # once more does no harm where the first is the only one
            if len(model.mlp) > 1:
                modules: list[Any] = list(model.mlp.children())
                for module in modules[1:-1]:
                    fused = isinstance(module, BatchNormReLU)
                    hidden = module.evaluate_in_place(hidden) if fused else module(hidden)
                last_activation = model.mlp[-1]
            factor, shift = _folded(last_activation, hidden.shape[1])
        logits = torch.empty(items.shape)
        _kernels.fill_logits(
            self.user_factors.numpy(), self.item_factors.numpy(), users.numpy(), items.numpy(),
            hidden.numpy(), factor.numpy(), shift.numpy(), model.last.weight[0, -hidden.shape[1] :].numpy(),
            np.float32(model.last.bias.item()), logits.numpy(),
        )  # fmt: skip
        return logits

    def _first_activations(self, users: Tensor, items: Tensor) -> Tensor:
        """Outputs of the first hidden layer's activation, float32 (n * m, channels)."""
        activation = self.model.mlp[0]
        low, alpha = False, 0.0
        if isinstance(activation, BinaryActivation):
            low, alpha = activation.precision == "low", activation.alpha.item()
        factor, shift = _folded(activation, self.item_half.shape[1])
        outputs = torch.empty(items.numel(), len(factor))
        user_half = self.user_half
        if not isinstance(user_half, Tensor):
            user_half, users = user_half[users], torch.arange(len(users))
        _kernels.fill_first_activations(
            user_half.numpy(), self.item_half.numpy(), users.numpy(), items.numpy(),
            factor.numpy(), shift.numpy(), np.float32(alpha), low, outputs.numpy(),
        )  # fmt: skip
        return outputs


def _folded(activation: nn.Module, width: int) -> tuple[Tensor, Tensor]:
    """Factor and shift (width,) in front of the activation itself: BatchNorm's, or 1 and 0 where there is none."""
    return activation.folded() if isinstance(activation, BatchNormReLU) else (torch.ones(width), torch.zeros(width))
