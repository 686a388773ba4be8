"""Rows of float32 components in fewer bytes."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ppt_core.errors import DataError

Dtype = Literal["float32", "float16", "int8", "binary"]

MEANINGS = {
    "float32": "components as they are",
    "float16": "components rounded to the nearest float16",
    "int8": "component = value * scale of the row, values -127 to 127: off by scale / 2 at most",
    "binary": "component = scale of the row where its bit is 1, else -scale; eight bits a byte, the first in its "
    "highest bit, as numpy.packbits; 0 bits fill the last byte",
}


def encode(vectors: NDArray[np.float32], dtype: Dtype) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Encode float32 (n, size) as `MEANINGS` says.

    Returns:
        What is stored, (n, width), width being size or, for ``binary``, size / 8 rounded up; for ``int8`` and it the
        scales, float32 (n,), 0 for a row of zeros. ``int8`` is symmetric; the scale of signs is the mean of |row|, the
        one that errs least (Rastegari et al. 2016).

    Raises `DataError` if a component is beyond float16.
    """
    largest = np.abs(vectors).max(axis=1, initial=0)
    if dtype == "binary":
        return np.packbits(vectors > 0, axis=1), np.abs(vectors).mean(axis=1)
    if dtype == "int8":
        scales = largest / np.float32(127)
        divisors = np.where(scales > 0, scales, np.float32(1))[:, np.newaxis]
        return np.clip(np.rint(vectors / divisors), -127, 127).astype(np.int8), scales
    if dtype == "float16" and largest.max(initial=0) >= 65520:  # from here on it rounds to infinity
        raise DataError(f"a component of size {largest.max()} is beyond the range of float16; choose float32")
    return vectors.astype(dtype), None


def decode(values: NDArray[Any], scales: NDArray[Any] | None, size: int) -> NDArray[np.float32]:
    """Rows (n, size) of what `encode` returned, float32; bits without scales, as Faiss has them, become -1 and +1."""
    if values.dtype == np.uint8:
        bits = np.unpackbits(values, axis=1, count=size).astype(bool)
        sizes = np.ones((len(values), 1), np.float32) if scales is None else scales[:, np.newaxis].astype(np.float32)
        return np.where(bits, sizes, -sizes)
    if scales is None:
        return values.astype(np.float32, copy=False)
    return values * scales[:, np.newaxis].astype(np.float32)
