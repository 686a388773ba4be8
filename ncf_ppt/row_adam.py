"""Adam for embedding tables that touches the rows of a batch only, and equals dense Adam all the same.

Under dense Adam a row without a gradient still moves: its moments decay and its weights follow them. `RowAdam` makes
up for that in closed form when the row is next read. (PyTorch's SparseAdam leaves it out: another optimizer.)
"""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ncf_ppt import _kernels, row_steps
from ppt_core.binarize import binarize_rows
from ppt_core.distributed import World
from ppt_core.layers import BinaryEmbedding
from ppt_core.row_shards import RowShards


class RowEmbedding(nn.Embedding):
    """`nn.Embedding` whose rows may lag behind until they are read.

    Reading through the module always gives current values: in training of the rows asked for, in evaluation of the
    whole table. Read ``weight`` itself after `catch_up` only. Gradients are sparse once a `RowAdam` owns the table.

    Attributes:
        shards: how the rows are dealt out to processes, after `shard`; None where all are here.
        fetched: numbers of rows, ascending, and their values: what a table that is dealt out reads for the present.
    """

    shards: RowShards | None = None
    fetched: tuple[Tensor, Tensor] | None = None
    _bring_up_to_date: Any = None

    def shard(self, world: World) -> None:
        """Let each process keep its share of the rows, in a table that has no memory yet; see `RowShards`."""
        self.shards = RowShards(n_rows=self.num_embeddings, world=world)
        self.num_embeddings = self.shards.n_own
        self.weight = nn.Parameter(self.weight.new_empty(self.num_embeddings, self.embedding_dim))

    def catch_up(self, rows: Tensor | None = None) -> None:
        """Bring ``rows`` (any shape, repetitions allowed, below 0 is none; default: all) up to date."""
        if self._bring_up_to_date is not None:
            self._bring_up_to_date(rows)

    def settle(self) -> None:
        """Bring all rows up to date and let go of the optimizer, whose state is free then if nobody else has it."""
        self.catch_up()
        self._bring_up_to_date = None

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows ``input`` (...,), float (..., embedding_dim)."""
        table, places = self.lookup(input)
        return F.embedding(places, table, sparse=self._bring_up_to_date is not None)

    def lookup(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows, up to date, and where among them ``input`` is, of any shape; what is below 0 stays so.

        Raises ValueError if rows that other processes have were not fetched.
        """
        if self.shards is None:
            self.catch_up(input if self.training else None)
            return self.weight, input
        if self.fetched is None:
            raise ValueError("rows of this table are with other processes; train with it, or load the finished run")
        numbers, rows = self.fetched
        places = torch.searchsorted(numbers, input.long()).masked_fill_(input < 0, -1)
        return rows, places.to(input.dtype)

    def values(self) -> Tensor:
        """All rows as the module gives them, up to date and without gradients: float (n, embedding_dim)."""
        self.catch_up()
        return self.weight.detach()


class BinaryRowEmbedding(BinaryEmbedding, RowEmbedding):
    """A `RowEmbedding` whose rows are 1-bit in low precision; the latent rows are what an optimizer moves."""

    def values(self) -> Tensor:
        """All rows as the module gives them, up to date and without gradients: float (n, embedding_dim)."""
        latent = super().values()
        return latent if self.precision == "full" else binarize_rows(latent)


def is_binary(table: RowEmbedding) -> bool:
    """Whether the rows of a table are 1-bit now."""
    return isinstance(table, BinaryRowEmbedding) and table.precision == "low"


LARGEST_BETA2 = 0.9999
"""A decision of ours: beyond it the tables of `infinite_moments` take seconds, and soon gigabytes."""


class RowAdam(torch.optim.Adam):
    """Adam whose steps cost the rows that a batch touched, for the embedding tables of a model.

    The result equals that of `torch.optim.Adam` with dense gradients: a row untouched for k steps is moved by the sum
    of its k steps when it is next read. With moments m and v after step t, bias corrections included, that sum is

        lr * m * sum over j = 1..k of a_j / (sqrt(v) / x_j + eps),
        a_j = beta1**j / (1 - beta1**(t + j)),  x_j = sqrt((1 - beta2**(t + j)) / beta2**j)

    and is taken by Gauss quadrature: two nodes x and their weights that give the sums of a_j * x_j**n for n = 0 to 3.
    It is exact without eps, and to third order in it. Source: Kingma and Ba 2015, algorithm 1; the closed form is ours.

    Args:
        embeddings: tables whose rows it owns, float32. It replaces an optimizer that owned them before, after bringing
            all rows up to date.
        parameters: all other parameters, updated by fused `torch.optim.Adam`.
        lr: learning rate of both. A change brings all rows up to date first, at the cost of a dense step.
        betas: decay rates, beta1 < beta2**1.5 and beta2 <= 0.9999: the tables of its sums are as long as v remembers.
        eps: above 0.
    """

    def __init__(
        self,
        embeddings: Iterable[RowEmbedding],
        parameters: Iterable[nn.Parameter],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if not self.takes(betas, eps):
            raise ValueError(
                f"betas are {betas} and eps is {eps}; RowAdam needs 0 < beta1 < beta2**1.5, beta2 <= {LARGEST_BETA2} "
                "and eps > 0"
            )
        self._embeddings = list(embeddings)
        groups: list[dict[str, Any]] = [{"params": [e.weight for e in self._embeddings]}, {"params": list(parameters)}]
        super().__init__(groups, lr=lr, betas=betas, eps=eps, fused=True)
        self._moments = infinite_moments(*betas)
        self._device_moments: Tensor | None = None  # a copy at each step would stop a GPU
        self._learning_rate = lr
        for embedding in self._embeddings:
            embedding.settle()  # of an optimizer before
        for embedding in self._embeddings:
            weight = embedding.weight
            self.state[weight] = {
                "step": torch.zeros((), dtype=torch.int64),  # a float32 stands still at 2**24
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
                "last_step": torch.zeros(len(weight), dtype=torch.int64, device=weight.device),
            }
            embedding._bring_up_to_date = partial(self._catch_up, weight)
        self._slots = np.full(max((len(e.weight) for e in self._embeddings), default=0), -1, np.int32)

    @staticmethod
    def takes(betas: tuple[float, float], eps: float) -> bool:
        """Whether its sums converge, soon enough, and its quotients are finite; see `RowAdam`."""
        return 0 < betas[0] < betas[1] ** 1.5 and betas[1] <= LARGEST_BETA2 and eps > 0

    def catch_up(self) -> None:
        """Bring every row of every table up to date."""
        for embedding in self._embeddings:
            embedding.catch_up()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step. The gradients of the tables must be sparse, as `RowEmbedding` makes them."""
        group = self.param_groups[0]
        if group["lr"] != self._learning_rate:
            self.catch_up()
            self._learning_rate = group["lr"]
        for weight in group["params"]:
            state = self.state[weight]
            state["step"] += 1
            if weight.grad is None:
                continue
            indices, grads = weight.grad._indices()[0], weight.grad._values()
            step = int(state["step"])
            if weight.device.type == "cpu":
                _kernels.update_rows(
                    *self._group(indices), grads.contiguous().numpy(), *self._arrays(weight),
                    step, self._learning_rate, *group["betas"], group["eps"],
                )  # fmt: skip
            else:
                row_steps.update_rows(indices, grads, *self._tensors(weight), step, **self._settings())
            weight.grad = None  # what is left is Adam's own part
        return super().step(closure)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state, row by row as far behind as it was.

        Raises ValueError unless it has the shapes of the tables and steps that were taken: kernels check no bounds.
        """
        for number, weight in enumerate(self.param_groups[0]["params"]):
            _check_state(state_dict["state"][number], weight)
        super().load_state_dict(state_dict)
        for number, weight in enumerate(self.param_groups[0]["params"]):
            # The base class makes floats of everything; so did this one, of "step", in older checkpoints.
            for name, device in (("last_step", weight.device), ("step", "cpu")):
                values = state_dict["state"][number][name]
                self.state[weight][name] = values.to(device, torch.int64, copy=True)
        self._learning_rate = self.param_groups[0]["lr"]

    @torch.no_grad()
    def _catch_up(self, weight: Tensor, rows: Tensor | None) -> None:
        step = int(self.state[weight]["step"])
        if step == 0:
            return
        if weight.device.type == "cpu":
            group = self.param_groups[0]
            numbers = np.arange(len(weight)) if rows is None else self._group(rows.reshape(-1)).rows
            _kernels.catch_up_rows(
                numbers, *self._arrays(weight), step, self._learning_rate, *group["betas"], group["eps"], self._moments
            )
        else:
            asked = torch.arange(len(weight), device=weight.device) if rows is None else rows.reshape(-1).clamp(min=0)
            if self._device_moments is None or self._device_moments.device != weight.device:
                self._device_moments = torch.from_numpy(self._moments).to(weight.device)
            row_steps.catch_up_rows(
                asked, *self._tensors(weight), step, **self._settings(), moments=self._device_moments
            )

    def _settings(self) -> dict[str, Any]:
        group = self.param_groups[0]
        return {"learning_rate": self._learning_rate, "betas": group["betas"], "eps": group["eps"]}

    def _tensors(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        state = self.state[weight]
        return weight.detach(), state["exp_avg"], state["exp_avg_sq"], state["last_step"]

    def _arrays(self, weight: Tensor) -> tuple[NDArray[Any], ...]:
        return tuple(tensor.numpy() for tensor in self._tensors(weight))

    def _group(self, indices: Tensor) -> "_Rows":
        n = len(indices)
        rows, heads, following = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
        n_rows = _kernels.group_rows(indices.long().numpy(), self._slots, rows, heads, following)
        return _Rows(rows[:n_rows], heads[:n_rows], following)


def _check_state(state: dict[str, Tensor], weight: Tensor) -> None:
    """Raise ValueError, or KeyError, unless `RowAdam` can go on with the state of a table."""
    shapes = {"step": (), "last_step": (len(weight),), "exp_avg": weight.shape, "exp_avg_sq": weight.shape}
    for name, shape in shapes.items():
        if tuple(state[name].shape) != tuple(shape):
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}; it must have {tuple(shape)}")
    step, last = int(state["step"]), state["last_step"]
    if step < 0 or (len(last) and not 0 <= int(last.min()) <= int(last.max()) <= step):
        raise ValueError(f"last_step holds {int(last.min())} to {int(last.max())}; step is {step}")


class _Rows(NamedTuple):
    rows: NDArray[np.int64]
    heads: NDArray[np.int64]
    following: NDArray[np.int64]


def infinite_moments(beta1: float, beta2: float) -> NDArray[np.float64]:
    """Tables G_n(t) = sum over j >= 1 of a_j * x_j**n, n = 0 to 3, float64 (4, length), constant beyond their end.

    The moment over j = 1..k is G_n(t) - r**k * G_n(t + k) with r = beta1 / beta2**(n / 2), see `RowAdam`.
    """
    length = math.ceil(math.log(1e-16) / math.log(max(beta2, 0.5))) + 2
    steps = np.arange(1, length + 1, dtype=np.float64)
    tables = np.empty((4, length))
    for power in range(4):
        ratio = beta1 / beta2 ** (power / 2)
        terms = (1 - beta2**steps) ** (power / 2) / (1 - beta1**steps)
        following = ratio / (1 - ratio)
        for t in range(length - 1, -1, -1):
            tables[power, t] = following = ratio * (terms[t] + following)
    return tables
