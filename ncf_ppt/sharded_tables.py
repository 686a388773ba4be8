"""Training with tables whose rows are dealt out to the processes, for catalogues that do not fit one of them.

A process has every n-th row of each table, with its moments of Adam. In a step it fetches the rows that its share of
the batch reads, computes with these as with a small table, and sends their gradients to the processes that have the
rows. These add them in the order of the batch, as a process with whole tables does: the result is the same bit for bit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.model import NCF
from ncf_ppt.networks import NetworkConfig
from ncf_ppt.ranking import Ranks, rank_test_items
from ncf_ppt.recent import MeanEmbedding
from ncf_ppt.row_adam import RowEmbedding
from ncf_ppt.scoring import ROWS, NetworkScorer
from ncf_ppt.two_tower import TwoTowerConfig
from ppt_core.distributed import World
from ppt_core.row_shards import RowShards
from ppt_core.runs.task import Task

Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class _Kind:
    """Tables that are read by the same numbers: of users, of items, or of recent items."""

    tables: dict[str, RowEmbedding]
    shards: RowShards

    def read(self, rows: Tensor) -> dict[str, Tensor]:
        """The values of ``rows``, int64 (n,), by tables; every process calls this, with rows of its own."""
        columns = torch.split(self.shards.fetch(rows, self._own), self._sizes, dim=1)
        return {name: each.contiguous() for name, each in zip(self.tables, columns, strict=True)}

    def fetch(self, numbers: Tensor) -> None:
        """Let the tables read rows ``numbers``, integers of any shape, below 0 none; every process calls this."""
        distinct = _distinct(numbers)
        for name, rows in self.read(distinct).items():
            self.tables[name].fetched = distinct, rows.requires_grad_()

    def send_gradients(self, share: float) -> None:
        """Give gradients of the rows that were fetched, times ``share``, to the rows; every process calls this."""
        tables = list(self.tables.values())
        rows = torch.empty(0, dtype=torch.int64, device=tables[0].weight.device)
        values = torch.empty(0, sum(self._sizes), device=rows.device)
        grads = [table.fetched[1].grad for table in tables if table.fetched is not None]
        found = [grad for grad in grads if grad is not None]
        if found:  # in the order of the batch, and so the same rows in all tables of a kind
            assert tables[0].fetched is not None
            rows = tables[0].fetched[0][found[0]._indices()[0]]
            values = torch.cat([grad._values() for grad in found], dim=1) * share
        places, received = self.shards.send(rows, values)
        for table, columns in zip(tables, torch.split(received, self._sizes, dim=1), strict=True):
            weight = table.weight
            weight.grad = torch.sparse_coo_tensor(places[None], columns, weight.shape, check_invariants=False)
            table.fetched = None

    @property
    def _sizes(self) -> list[int]:
        return [table.embedding_dim for table in self.tables.values()]

    def _own(self, places: Tensor) -> Tensor:
        for table in self.tables.values():
            table.catch_up(places)
        return torch.cat([table.weight.detach()[places] for table in self.tables.values()], dim=1)


class ShardedTables:
    """The tables of a network that was made with ``world``: rows travel, tables do not.

    Args:
        model: the network.
        world: the processes.
    """

    def __init__(self, model: NCF, world: World) -> None:
        self.model, self.world = model, world
        found: dict[str, dict[str, RowEmbedding]] = {}
        for name, module in model.named_modules():
            if isinstance(module, RowEmbedding):
                found.setdefault(_kind_of(name, module), {})[name] = module
        self._kinds = {kind: _Kind(tables, _shards_of(next(iter(tables.values())))) for kind, tables in found.items()}
        self._share: float | None = None  # of this process in the batch whose rows are here

    def carry(self, task: Task) -> Task:
        """Return a task whose batches come when their rows are here, and whose optimizer steps with all gradients."""

        def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
            optimizer = task.make_optimizer(model)
            optimizer.register_step_pre_hook(lambda *_: self._send_gradients())
            return optimizer

        tables = {name: table for kind in self._kinds.values() for name, table in kind.tables.items()}
        return replace(
            task,
            batches=lambda start: self._fetched(task.batches(start)),
            make_optimizer=make_optimizer,
            shards={f"{name}.weight": _shards_of(table) for name, table in tables.items()},
        )

    def rank(self, data: PreparedData) -> Ranks:
        """`ncf_ppt.ranking.rank_test_items` by the network as it is now, with the ranks of whole tables bit for bit."""
        score = _ShardedScorer(self)
        return rank_test_items(score, data, world=self.world, finish=score.finish)

    def n_rows(self, kind: str) -> int:
        """How many ``users`` or ``items`` there are."""
        return self._kinds[kind].shards.n_rows

    @torch.no_grad()
    def part(self, users: Tensor, items: Tensor) -> NCF:
        """Return the network of some users (n,) and items (m,) alone, each with a number from 0 on.

        Every process calls this, with rows of its own, int64.
        """
        model, config = self.model, self.model.config
        part = NCF(1, 1, config, seed=0)
        for kind, rows in (("users", users), ("items", items)):
            for name, values in self._kinds[kind].read(rows).items():
                setattr(part, name, RowEmbedding(len(values), values.shape[1], _weight=values))
        for name in ("first", "mlp", "last"):
            if hasattr(model, name):
                setattr(part, name, getattr(model, name))
        if config.n_recent:
            histories = model.last_items[users]
            numbers = _distinct(histories)
            part.recent.weight = nn.Parameter(self._kinds["recent"].read(numbers)["recent"])
            part.recent.places = model.recent.places
            part.last_items = torch.searchsorted(numbers, histories.long()).int().masked_fill_(histories < 0, -1)
        return part.train(model.training)

    def _fetched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            users, items, *recent, labels = batch
            self._share = len(labels) / self.world.total(len(labels))
            read = {"users": users, "items": items, "recent": recent[0] if recent else None}
            for kind in self._kinds:
                numbers = read[kind]
                assert numbers is not None
                self._kinds[kind].fetch(numbers)
            yield batch

    def _send_gradients(self) -> None:
        if self._share is None:  # PyTorch calls a hook twice where it knows the optimizer and the class behind it
            return
        for kind in self._kinds.values():
            kind.send_gradients(self._share)
        self._share = None


class _ShardedScorer(NetworkScorer):
    """A `NetworkScorer` of tables that are dealt out, for users in ascending order.

    What is computed once for a whole table is computed in the same blocks of rows, each by one process. Blocks of items
    stay there, and a block of pairs fetches what it needs; those of users are computed where they are ranked.

    Args:
        tables: must not change while the scorer is in use; every process makes one at the same time.
    """

    def __init__(self, tables: ShardedTables) -> None:
        self._tables, self._world = tables, tables.world
        self._none = torch.empty(0, dtype=torch.int64, device=tables.world.device)
        super().__init__(tables.part(self._none, self._none))
        self._held = range(0)  # users whose vectors are here
        n_items = tables.n_rows("items")
        self._shards = RowShards(n_rows=n_items, world=self._world, run=ROWS)
        sizes = [self.item_factors.shape[1], self.item_half.shape[1]]
        self._sizes, self._items = sizes, torch.empty(self._shards.n_own, sum(sizes), device=self.device)
        for number, start in enumerate(range(0, n_items, ROWS * self._world.size)):
            first = min(start + self._world.rank * ROWS, n_items)
            rows = torch.arange(first, min(first + ROWS, n_items), device=self.device)
            made = NetworkScorer(tables.part(self._none, rows))
            self._items[number * ROWS : number * ROWS + len(rows)] = torch.cat([made.item_factors, made.item_half], 1)

    def finish(self) -> None:
        """Give the others what they need until every process has come here."""
        while self._world.total(0):
            self._fetch(self._none, self._none)

    def _score(self, users: Tensor, items: Tensor) -> Tensor:
        self._world.total(1)
        return super()._score(*self._fetch(users, items))

    def _fetch(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Put what pairs need in the place of whole tables; return where it is. Every process calls this."""
        wanted = self._held
        if len(users) and not (int(users[0]) in wanted and int(users[-1]) in wanted):
            first, last = (int(user) // ROWS for user in (users[0], users[-1]))
            wanted = range(first * ROWS, min((last + 1) * ROWS, self._tables.n_rows("users")))
        asks = int(wanted != self._held)
        if self._world.total(asks):
            rows = torch.arange(wanted.start, wanted.stop, device=self.device) if asks else self._none
            part = self._tables.part(rows, self._none)
            if asks:
                made = NetworkScorer(part)
                self.user_factors, self.user_half, self._held = made.user_factors, made.user_half, wanted
        numbers, places = items.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        found = self._shards.fetch(numbers.long(), lambda own: self._items[own])
        self.item_factors, self.item_half = (each.contiguous() for each in torch.split(found, self._sizes, dim=1))
        return users - self._held.start, places.to(items.dtype)


def refuse_whole_tables(network: NetworkConfig, training: Any, init: object) -> None:
    """Raise ValueError if a training needs whole tables in one process."""
    asked = {
        "a two-tower network": isinstance(network, TwoTowerConfig),
        "optimizer='adam'": getattr(training, "optimizer", None) == "adam",
        "binarize_embeddings": getattr(network, "binarize_embeddings", None),
        "warm_start='als'": training.warm_start,
        "init=": init,
    }
    for name in (name for name, is_asked in asked.items() if is_asked):
        raise ValueError(
            f"{name} needs whole tables in one process, and shard_embeddings deals them out; leave one out"
        )


def _kind_of(name: str, table: RowEmbedding) -> str:
    if isinstance(table, MeanEmbedding):
        return "recent"
    return "users" if "user" in name else "items"


def _shards_of(table: RowEmbedding) -> RowShards:
    assert table.shards is not None
    return table.shards


def _distinct(numbers: Tensor) -> Tensor:
    """Distinct numbers from 0 on, ascending, int64."""
    found: Tensor = numbers.reshape(-1).long().unique()  # type: ignore[no-untyped-call]
    return found[found >= 0]
