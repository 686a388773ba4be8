"""What computes: the device, the number format it multiplies fastest, and kernels or PyTorch's own operations."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

Arithmetic = Literal["fp32", "bf16"]
_kernels_in_use = True


def check_device(name: str) -> str:
    """Return ``name`` (cpu, cuda or cuda:N) if it can be computed on here; raise ValueError if not."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {name!r}; it must be cpu, cuda or cuda:N")
    n_devices = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= n_devices:
        found = f"there are {n_devices} CUDA devices" if n_devices else "PyTorch finds no CUDA device"
        raise ValueError(f"device is {name!r}, but {found} here; use cpu")
    return name


def choose_arithmetic(wanted: Literal["auto", "fp32", "bf16"], device: str) -> Arithmetic:
    """Return ``wanted``, or for ``auto`` bf16 where ``device`` multiplies it faster than fp32.

    Those are processors with AMX and GPUs with bf16 units. AVX-512's bf16 instructions alone do not count: there a
    product in bf16 ran at half the speed of one in fp32.
    """
    if wanted != "auto":
        return wanted
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


def has_kernels(x: Tensor) -> bool:
    """Whether a kernel of this project computes on ``x``: it is float32 and on a CPU."""
    return _kernels_in_use and x.device.type == "cpu" and x.dtype == torch.float32


@contextmanager
def plain_operations() -> Iterator[None]:
    """Let PyTorch's own operations do in the block what kernels of this project do, in all threads.

    That is how a binarized network is usually simulated, and what the kernels are measured against. Results are the
    same up to rounding.
    """
    global _kernels_in_use
    before, _kernels_in_use = _kernels_in_use, False
    try:
        yield
    finally:
        _kernels_in_use = before
