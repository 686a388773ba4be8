"""A training step as a CUDA graph: recorded once, then repeated by the GPU alone.

A step of a small network is some two hundred kernels that take a GPU 1 to 3 us each, and Python five times as long to
ask for.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_EAGER_STEPS = 3  # the optimizer makes its state in the first, and libraries theirs


def can_record(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step with this optimizer can be repeated by a GPU alone: all it does is on one, by fused kernels."""
    return type(optimizer) in (torch.optim.Adam, torch.optim.SGD) and all(
        group["fused"] and parameter.device.type == "cuda"
        for group in optimizer.param_groups
        for parameter in group["params"]
    )


def prepare(optimizer: torch.optim.Optimizer) -> None:
    """Keep the learning rates of an optimizer that `can_record` on the GPU, where a recorded step reads them."""
    for group in optimizer.param_groups:
        if not isinstance(group["lr"], Tensor):
            group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)
        if "capturable" in group:
            group["capturable"] = True  # a fused Adam is, but wants it said
    optimizer._warned_capturable_if_run_uncaptured = True


class StepGraph:
    """A step that is taken as it is a few times, then recorded and from then on repeated.

    The result is the same bit for bit. A batch of another shape than the first one's, as the last of an epoch, is taken
    as it is.

    Args:
        step: maps a batch, a tuple of tensors on either side, to its loss, detached, and leaves all else behind in
            tensors that stay where they are. It must never wait for the GPU.
        device: the GPU.
    """

    def __init__(self, step: Callable[[Any], Tensor], device: torch.device) -> None:
        self._step = step
        self._device = device
        self._shapes: list[torch.Size] = []
        self._n_taken = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: Any = None
        self._loss = torch.empty(0)

    def __call__(self, batch: Any) -> Tensor:
        """Take the step and return its loss."""
        shapes = [tensor.shape for tensor in batch]
        self._shapes = self._shapes or shapes
        if shapes != self._shapes or self._n_taken < _EAGER_STEPS:
            self._n_taken += shapes == self._shapes
            return self._step(batch)
        if self._graph is None:
            self._record(batch)
        assert self._graph is not None
        for kept, tensor in zip(self._batch, batch, strict=True):
            kept.copy_(tensor, non_blocking=True)
        self._graph.replay()
        return self._loss.clone()

    def _record(self, batch: Any) -> None:
        make: Callable[[Any], Any] = getattr(batch, "_make", tuple)
        self._batch = make([torch.empty_like(tensor, device=self._device) for tensor in batch])
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = self._step(self._batch)
