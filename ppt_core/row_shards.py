"""Tables whose rows are dealt out to the processes that train together, so that none of them holds a whole one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ppt_core.distributed import World

_PIECE = 1 << 14  # rows of a table that are in the memory of one process for a moment
_LEAST = 16  # PyTorch draws normal numbers by 16, so that a piece must have as many, and pieces a multiple of it


@dataclass(frozen=True, kw_only=True)
class RowShards:
    """How the rows of a table are dealt out: the first ``run`` rows to process 0, the next to process 1, and so on.

    One by one, as the tables of a network are dealt, popular items share themselves out among the processes: in order
    of first appearance they have the lowest numbers.

    Attributes:
        n_rows: of the whole table.
        world: the processes; each calls `fetch`, `send` and `pieces` when the others do.
        run: neighbours that stay together.
    """

    n_rows: int
    world: World
    run: int = 1

    @property
    def n_own(self) -> int:
        """Rows of this process."""
        rounds, rest = divmod(self.n_rows, self.run * self.world.size)
        return rounds * self.run + min(max(rest - self.world.rank * self.run, 0), self.run)

    def fetch(self, rows: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the values of ``rows``, int64 (n,), from the processes that have them: (n, size).

        ``read`` gives those of rows that are here, by their places among them, int64 (m,), which may repeat.
        """
        order, counts = self._by_process(rows)
        places, asked = self.world.exchange(self._places(rows[order]), counts)
        values, _ = self.world.exchange(read(places), asked, counts)
        found = torch.empty_like(values)
        found[order] = values
        return found

    def send(self, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Give ``values`` (n, size) to the processes that have ``rows``, int64 (n,), and return what has come here.

        These are places int64 (m,) and their values (m, size), in the order of the processes and then of their rows.
        """
        order, counts = self._by_process(rows)
        places, incoming = self.world.exchange(self._places(rows[order]), counts)
        return places, self.world.exchange(values[order], counts, incoming)[0]

    def keep_own(self, read: Callable[[int, int], Tensor], own: Tensor) -> None:
        """Fill ``own`` (n_own, ...) from a table that ``read(start, stop)`` gives in pieces, asked for in their order.

        No piece but an only one has fewer than 16 rows.
        """
        edges = [*range(0, self.n_rows, _PIECE), self.n_rows]
        if len(edges) > 2 and edges[-1] - edges[-2] < _LEAST:
            del edges[-2]
        n_kept = 0
        for start, stop in pairwise(edges):
            kept = read(start, stop)[self._process_of(torch.arange(start, stop)) == self.world.rank]
            own[n_kept : n_kept + len(kept)] = kept
            n_kept += len(kept)

    def pieces(self, own: Tensor) -> Iterator[Tensor]:
        """Yield the whole table, of which each process has ``own`` (n_own, ...), in pieces; nothing but in the first.

        Rows are dealt out one by one.
        """
        n_most, n_at_once = -(-self.n_rows // self.world.size), max(1, _PIECE // self.world.size)
        for start in range(0, n_most, n_at_once):
            part = own.new_zeros(min(n_at_once, n_most - start), *own.shape[1:])
            found = own[start : start + n_at_once]
            part[: len(found)] = found
            parts = self.world.gather(part)
            if parts:
                whole = torch.stack(parts, 1).flatten(0, 1)
                yield whole[: self.n_rows - start * self.world.size]

    def _process_of(self, rows: Tensor) -> Tensor:
        return torch.div(rows, self.run, rounding_mode="floor") % self.world.size

    def _places(self, rows: Tensor) -> Tensor:
        """Where rows stand among those of their process."""
        return torch.div(rows, self.run * self.world.size, rounding_mode="floor") * self.run + rows % self.run

    def _by_process(self, rows: Tensor) -> tuple[Tensor, list[int]]:
        """An order by processes that keeps what is of one process as it was, and how many are of each."""
        processes = self._process_of(rows)
        counts: list[int] = torch.bincount(processes, minlength=self.world.size).tolist()
        return torch.argsort(processes, stable=True), counts


@dataclass(frozen=True)
class ShardedTensor:
    """A tensor that is nowhere whole: the rows ``own`` (n_own, ...) of this process, and how all are dealt out."""

    own: Tensor
    shards: RowShards

    @property
    def dtype(self) -> torch.dtype:
        """That of its numbers."""
        return self.own.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the whole."""
        return (self.shards.n_rows, *self.own.shape[1:])

    def pieces(self) -> Iterator[Tensor]:
        """See `RowShards.pieces`."""
        return self.shards.pieces(self.own)
