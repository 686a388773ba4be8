"""Data-parallel training: the processes that torchrun started share every batch and keep one model in step.

Sample n of step s is the same for any number of processes, since each takes a slice of the one global batch.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from ppt_core.device import check_device
from ppt_core.errors import DataError

_TIMEOUT = timedelta(days=1)  # an evaluation by the first process may take long, and the others wait
_LETTING_GO = 0.05  # seconds
_NO_GRADIENT, _DENSE = -2, -1  # in the place of a number of rows


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes that train one model together, seen from one of them. The default is a process alone.

    Attributes:
        rank: the number of this process; process 0 writes, evaluates and prints.
        size: number of processes.
        device: where this process computes.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Return this process's slice of a batch of ``n`` samples: the slices are disjoint and cover it, in order.

        BatchNorm has no variance of one sample, so of a batch too small to give everyone two the last processes
        get none.
        """
        n_sharing = max(1, min(self.size, n // 2))
        first, last = (n * min(rank, n_sharing) // n_sharing for rank in (self.rank, self.rank + 1))
        return slice(first, last)

    def barrier(self) -> None:
        """Wait until every process has come here, so that what the first wrote is there."""
        self.agree(lambda: None)

    def agree(self, decide: Callable[[], Any]) -> Any:
        """Return in every process what ``decide`` returns in the first, a JSON value; the others do not call it.

        What it raises as ValueError is raised in every process.
        """
        if self.size == 1:
            return decide()
        failure: ValueError | None = None
        document: dict[str, Any] = {}
        if self.is_first:
            try:
                document = {"value": decide()}
            except ValueError as error:
                failure = error
                document = {"error": str(error)}
        content = torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8).to(self.device)
        length = torch.tensor([len(content)], device=self.device)
        with _talking():
            dist.broadcast(length, 0)
            if not self.is_first:
                content = torch.empty(int(length), dtype=torch.uint8, device=self.device)
            dist.broadcast(content, 0)
        if failure is not None:
            raise failure
        decided = json.loads(bytes(content.cpu().numpy()))
        if "error" in decided:
            raise DataError(decided["error"])
        return decided["value"]

    @torch.no_grad()
    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the values that the first has in the same tensors, of equal shapes everywhere."""
        if self.size == 1:
            return
        with _talking():
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def join(self, own: NDArray[Any]) -> NDArray[Any]:
        """Return the arrays of all processes one behind the other; they may differ in their first dimension alone."""
        if self.size == 1:
            return own
        counts = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        counts[self.rank] = own.size
        with _talking():
            dist.all_reduce(counts)
            parts = _gather(torch.from_numpy(own.reshape(-1)).to(self.device), counts.tolist())
        return torch.cat(parts).cpu().numpy().reshape(-1, *own.shape[1:])

    def total(self, n: int) -> int:
        """Return the sum of what the processes say."""
        if self.size == 1:
            return n
        sums = torch.tensor([n], device=self.device)
        with _talking():
            dist.all_reduce(sums)
        return int(sums)

    def check(self, check: Callable[[], None]) -> None:
        """Call ``check`` in every process; what it raises as ValueError in one of them is raised in all."""
        if self.size == 1:
            return check()
        message = ""
        try:
            check()
        except ValueError as error:
            message = str(error)
        messages = self.join(np.frombuffer(f"{message}\0".encode(), np.uint8).copy()).tobytes().decode().split("\0")
        if any(messages):
            raise DataError(next(filter(None, messages)))

    def exchange(self, rows: Tensor, counts: list[int], incoming: list[int] | None = None) -> tuple[Tensor, list[int]]:
        """Give the first ``counts[0]`` rows to process 0, the next ``counts[1]`` to process 1 and so on.

        Return the rows that have come here, in the order of the processes, and how many of each: ``incoming``, which
        need not be asked for where it is known.
        """
        if self.size == 1:
            return rows, counts
        with _talking():
            if incoming is None:
                asked = torch.tensor(counts, device=self.device)
                answer = torch.empty_like(asked)
                dist.all_to_all_single(answer, asked)
                incoming = answer.tolist()
            found = rows.new_empty(sum(incoming), *rows.shape[1:])
            dist.all_to_all_single(found, rows.contiguous(), incoming, counts)
        return found, incoming

    def gather(self, own: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, of equal shapes, in the first one, and nothing in the others."""
        if self.size == 1:
            return [own]
        parts = [torch.empty_like(own) for _ in range(self.size)] if self.is_first else []
        with _talking():
            dist.gather(own, parts or None)
        return parts

    def average_gradients(self, parameters: Iterable[nn.Parameter], loss: Tensor, n_samples: int) -> Tensor:
        """Replace every gradient by that of the global batch, and return the global batch's loss, shape ``()``.

        Both are means over samples, so a process counts by its share of them. Dense gradients are summed; the rows
        of sparse ones (embedding tables) are gathered in the order of the processes, which is that of the batch.

        Args:
            parameters: the same ones in the same order in every process.
            loss: mean over this process's samples; ignored if it has none.
            n_samples: of this process; 0 is allowed, its gradients then count for nothing.
        """
        parameters = list(parameters)
        own = torch.tensor([n_samples, *map(_rows_of, parameters)], device=self.device)
        with _talking():
            summaries = [torch.empty_like(own) for _ in range(self.size)]
            dist.all_gather(summaries, own)
            table = torch.stack(summaries).cpu()
            kinds, n_rows = table[:, 1:].amax(0), table[:, 1:].clamp(min=0)
            share = n_samples / int(table[:, 0].sum())
            dense = [parameter for parameter, kind in zip(parameters, kinds, strict=True) if kind == _DENSE]
            sparse = [parameter for parameter, kind in zip(parameters, kinds, strict=True) if kind > _DENSE]
            loss = _sum_dense(dense, loss, share)
            if sparse:
                _gather_rows(sparse, n_rows[:, kinds > _DENSE].tolist(), share)
        return loss


@contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, and leave them at the end; without torchrun, a process alone.

    They talk by gloo on CPUs and NCCL on GPUs, where ``cuda`` is the GPU of the process's number on its machine.

    Raises ValueError if it has no such GPU, or several processes are to share ``cuda:N``.
    """
    size = int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1
    if size == 1:
        yield World(device=device)
        return
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda:
        if torch.device(device).index is not None:
            raise ValueError(f"device is {device!r}; under torchrun say cuda, and each process takes a GPU of its own")
        device = check_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
    # torchrun's store outlives its processes, and those that it starts anew would call on the addresses of the dead.
    store, rank, _ = next(iter(rendezvous("env://")))
    store = dist.PrefixStore(f"start {n_restarts()[0]}", store)  # type: ignore[attr-defined]
    dist.init_process_group("nccl" if is_cuda else "gloo", store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    try:
        yield World(rank=rank, size=size, device=device)
    finally:
        dist.destroy_process_group()
        # PyTorch keeps gloo's threads, and one that lets go of the last message's tensors while Python ends would abort
        # the process, as was seen once ("terminate called without an active exception").
        time.sleep(_LETTING_GO)


def n_restarts() -> tuple[int, int]:
    """How often torchrun has started this training anew since a process died, and how often it may; else 0 and 0."""
    if not dist.is_torchelastic_launched():
        return 0, 0
    done, most = (int(os.environ.get(f"TORCHELASTIC_{name}", 0)) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return done, most


def _rows_of(parameter: nn.Parameter) -> int:
    if parameter.grad is None:
        return _NO_GRADIENT
    return parameter.grad._nnz() if parameter.grad.is_sparse else _DENSE


def _sum_dense(parameters: list[nn.Parameter], loss: Tensor, share: float) -> Tensor:
    """Sum the loss and the gradients, each times its process's share, in one exchange."""
    parts = [loss.detach().reshape(1).float()]
    parts += [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
    flat = torch.cat(parts).mul_(share) if share else torch.zeros_like(torch.cat(parts))
    dist.all_reduce(flat)
    for parameter, grad in zip(parameters, torch.split(flat[1:], [p.numel() for p in parameters]), strict=True):
        parameter.grad = grad.view(parameter.shape)
    return flat[0]


def _gather_rows(tables: list[nn.Parameter], n_rows: list[list[int]], share: float) -> None:
    """Give every process all rows of all gradients; ``n_rows`` has a list for each process."""
    sizes = [table.shape[1] for table in tables]
    own = [table.grad for table in tables if table.grad is not None]
    rows = [grad._indices()[0] for grad in own]
    values = [grad._values().reshape(-1) * share for grad in own]
    device = tables[0].device
    all_rows = _gather(
        torch.cat(rows) if own else torch.empty(0, dtype=torch.int64, device=device), [sum(counts) for counts in n_rows]
    )
    all_values = _gather(
        torch.cat(values) if own else torch.empty(0, device=device),
        [sum(count * size for count, size in zip(counts, sizes, strict=True)) for counts in n_rows],
    )
    split_rows = [torch.split(part, counts) for part, counts in zip(all_rows, n_rows, strict=True)]
    split_values = [
        torch.split(part, [count * size for count, size in zip(counts, sizes, strict=True)])
        for part, counts in zip(all_values, n_rows, strict=True)
    ]
    for number, (table, size) in enumerate(zip(tables, sizes, strict=True)):
        indices = torch.cat([parts[number] for parts in split_rows])
        grads = torch.cat([parts[number] for parts in split_values]).view(-1, size)
        table.grad = torch.sparse_coo_tensor(indices[None], grads, table.shape, check_invariants=False)


def _gather(own: Tensor, lengths: list[int]) -> list[Tensor]:
    """Every process's vector; exchanged at the longest one's length, since the backends want equal shapes."""
    padded = own.new_zeros(max(lengths))
    padded[: len(own)] = own
    gathered = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(gathered, padded)
    return [part[:length] for part, length in zip(gathered, lengths, strict=True)]


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"another process of this training has ended ({reason}); see what it said") from None
