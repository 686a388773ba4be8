"""The device that computes, and the number format it multiplies fastest."""

from typing import Literal

import torch

Arithmetic = Literal["fp32", "bf16"]


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
