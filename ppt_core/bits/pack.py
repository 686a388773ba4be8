"""Signs and bits in words of 64: bit b of word w in a row belongs to element 64 w + b, and bits of no element are 0."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppt_core.bits import _kernels

Words = NDArray[np.int64]


def pack_signs(weight: Tensor) -> NDArray[np.uint64]:
    """Pack the signs of ``weight`` (out_features, in_features) as uint64 (words, out_features): a set bit is +1."""
    words = np.empty((len(weight), -(-weight.shape[1] // 64)), np.uint64)
    _kernels.pack_above(weight.detach().contiguous().numpy(), np.float32(0), words)
    return np.ascontiguousarray(words.T)


def pack_rows(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Pack bool rows (n, channels) as uint64 (n, words)."""
    n_bytes = -(-bits.shape[1] // 64) * 8
    octets = np.zeros((len(bits), n_bytes), np.uint8)
    packed = np.packbits(bits, axis=1, bitorder="little")
    octets[:, : packed.shape[1]] = packed
    return octets.view("<u8").astype(np.uint64)


def unpack_signs(signs: NDArray[np.uint64], n_in: int) -> NDArray[np.bool_]:
    """Turn packed signs (words, channels) into bool (channels, n_in), True for +1."""
    octets = np.ascontiguousarray(signs.T).astype("<u8").view(np.uint8)
    return np.unpackbits(octets, axis=1, count=n_in, bitorder="little").astype(bool)


def pack_images(x: Tensor, threshold: float) -> Words:
    """Pack the bits ``x > threshold`` of float32 images (n, channels, height, width), of any layout.

    Returns:
        int64 (n, height, width, words): bit b of word w is channel 64 w + b; bits of no channel are 0.
    """
    n, n_channels, height, width = x.shape
    rows = x.detach().permute(0, 2, 3, 1).reshape(-1, n_channels).contiguous().numpy()
    out = np.empty((n, height, width, -(-n_channels // 64)), np.uint64)
    _kernels.pack_above(rows, np.float32(threshold), out.reshape(len(rows), out.shape[3]))
    return out.view(np.int64)


def pack_window_signs(weight: Tensor) -> Words:
    """Pack the signs of ``weight`` (out_channels, in_channels, height, width): a set bit is +1.

    Returns:
        int64 (rows of a window, words of such a row, out_channels). Bits of a row follow each other column by column,
        and a row begins with a word.
    """
    rows = weight.detach().permute(2, 0, 3, 1).flatten(2)  # (rows, out_channels, columns * in_channels)
    return np.stack([pack_signs(row) for row in rows]).view(np.int64)


def unpack_bits(bits: Tensor, n_channels: int) -> Tensor:
    """Turn bits (n, height, width, words) into bool (n, n_channels, height, width)."""
    octets = bits.contiguous().numpy().astype("<i8").view(np.uint8)
    unpacked = np.unpackbits(octets, axis=3, count=n_channels, bitorder="little").astype(bool)
    return torch.from_numpy(unpacked.transpose(0, 3, 1, 2))


def unpack_window_signs(signs: Words, kernel_size: tuple[int, int], in_channels: int) -> NDArray[np.bool_]:
    """Turn what `pack_window_signs` made into bool (out_channels, in_channels * rows * columns), True for +1."""
    n_rows, n_columns = kernel_size
    rows = np.ascontiguousarray(signs.transpose(2, 0, 1)).astype("<i8").view(np.uint8)
    bits = np.unpackbits(rows, axis=2, count=n_columns * in_channels, bitorder="little").astype(bool)
    window = bits.reshape(signs.shape[2], n_rows, n_columns, in_channels)
    return window.transpose(0, 3, 1, 2).reshape(signs.shape[2], -1)
