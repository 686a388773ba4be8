"""What computes: the device, and kernels or PyTorch's own operations."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_kernels_in_use = True
_simulated_as_usual = False


def check_device(name: str) -> str:
    """Return ``name`` (cpu, cuda or cuda:N) if it can be computed on here; raise ValueError if not."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise ValueError(f"device is {name!r}; it must be cpu, cuda or cuda:N")
    n_devices = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= n_devices:
        found = f"there are {n_devices} CUDA devices" if n_devices else "PyTorch finds no CUDA device"
        raise ValueError(f"device is {name!r}, but {found} here; use cpu")
    return name


def has_kernels(x: Tensor) -> bool:
    """Whether a kernel of this project computes on ``x``: it is float32 and on a CPU."""
    return _kernels_in_use and x.device.type == "cpu" and x.dtype == torch.float32


@contextmanager
def plain_operations() -> Iterator[None]:
    """Let PyTorch's own operations do in the block what kernels of this project do, in all threads.

    That is what other devices have. Results are the same up to rounding.
    """
    global _kernels_in_use
    before, _kernels_in_use = _kernels_in_use, False
    try:
        yield
    finally:
        _kernels_in_use = before


def is_simulated_as_usual() -> bool:
    """Whether 1-bit layers multiply floats that are scaled before, see `usual_simulation`."""
    return _simulated_as_usual


@contextmanager
def usual_simulation() -> Iterator[None]:
    """Let 1-bit layers be simulated in the block as research code does, by PyTorch's own operations, in all threads.

    They multiply the activation's 0 or alpha with the signs times their scale: ``F.linear(pact(x), sign(w) * s)``. That
    is what the kernels of this project are measured against; results are the same up to rounding.
    """
    global _simulated_as_usual
    before, _simulated_as_usual = _simulated_as_usual, True
    try:
        with plain_operations():
            yield
    finally:
        _simulated_as_usual = before


@contextmanager
def repeatable_convolutions() -> Iterator[None]:
    """Let a GPU compute the gradients of convolutions in the block by algorithms that give the same bits every time."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before
