"""Original ids in few bytes: the numbers 1 to 138,493 take a thousand, not a million."""

import zlib
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def ids_to_tensors(name: str, ids: NDArray[Any]) -> dict[str, Tensor]:
    """Compress ids, int64 or str objects (n,): integers as their differences, strings as lengths and UTF-8."""
    if ids.dtype.kind == "i":
        return {f"{name}.integers": _compress(_steps(ids.astype(np.int64)))}
    encoded = [str(each).encode() for each in ids]
    lengths = np.array([len(each) for each in encoded], np.int64)
    return {f"{name}.lengths": _compress(_planes(lengths)), f"{name}.utf8": _compress(b"".join(encoded))}


def ids_from_tensors(name: str, tensors: dict[str, Tensor], n: int) -> NDArray[Any]:
    """Read what `ids_to_tensors` wrote of ``n`` ids. Raises ValueError for anything else."""
    if f"{name}.integers" in tensors:
        steps = _from_planes(_decompress(tensors[f"{name}.integers"], 8 * n), n)
        integers: NDArray[np.int64] = np.cumsum(steps, dtype=np.uint64).view(np.int64)
        return integers
    lengths = _from_planes(_decompress(tensors[f"{name}.lengths"], 8 * n), n).tolist()
    octets = _decompress(tensors[f"{name}.utf8"], sum(lengths))
    ends = np.cumsum([0, *lengths], dtype=np.int64).tolist()
    ids = np.empty(n, object)
    ids[:] = [octets[start:stop].decode() for start, stop in pairwise(ends)]
    return ids


def _steps(ids: NDArray[np.int64]) -> bytes:
    """Differences modulo 2**64, the first from 0."""
    return _planes(np.diff(ids.view(np.uint64), prepend=np.uint64(0)))


def _planes(numbers: NDArray[Any]) -> bytes:
    """The lowest bytes of all numbers, then the next ones: what is nearly constant lies together."""
    return np.ascontiguousarray(numbers.astype("<u8").view(np.uint8).reshape(-1, 8).T).tobytes()


def _from_planes(octets: bytes, n: int) -> NDArray[np.uint64]:
    planes = np.frombuffer(octets, np.uint8).reshape(8, n)
    return np.ascontiguousarray(planes.T).view("<u8").reshape(n).astype(np.uint64)


def _compress(octets: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray(zlib.compress(octets, 9)), np.uint8))


def _decompress(tensor: Tensor, length: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        octets = stream.decompress(tensor.numpy().tobytes(), length + 1)
    except zlib.error as error:
        raise ValueError(f"ids are damaged ({error})") from None
    if len(octets) != length:
        raise ValueError(f"ids are damaged ({len(octets)} bytes in place of {length})")
    return octets
