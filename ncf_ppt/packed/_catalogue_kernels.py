"""Kernels that prepare a catalogue and users for scoring: private, unchecked, arrays in and results in ``out``.

BLOCK is the number of items of a tile, `ncf_ppt.packed._kernels.BLOCK`; it is read from the shape of ``out``.
"""
# Numba's decorators carry no types, and annotations would not reach the compiled code.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls

import numpy as np
from numba import njit, prange


@njit(parallel=True, nogil=True, cache=True)
def fill_tiles(vectors, out):
    """Turn (items, channels) into (tiles, channels, BLOCK); the last tile is filled up with zeros."""
    n_items, n_channels = vectors.shape
    block = out.shape[2]
    for tile in prange(len(out)):
        first = tile * block
        for channel in range(n_channels):
            out[tile, channel] = 0
        for item in range(first, min(first + block, n_items)):
            for channel in range(n_channels):
                out[tile, channel, item - first] = vectors[item, channel]


@njit(parallel=True, nogil=True, cache=True)
def fill_least_addends(x, thresholds, out):
    """The least float y, in the order of floats, for which the rounded sum x + y reaches the threshold.

    ``x`` and ``out`` are (rows, channels), ``thresholds`` (channels,), none of them NaN. There is such a y: infinity.
    Found by bisection over all floats, numbered in ascending order: rounding is monotone, and what rounding
    does is left to the addition itself.
    """
    n_channels = len(thresholds)
    infinity = np.int64(0x7F800000)
    for row in prange(len(x)):
        low = np.full(n_channels, -infinity - 2, np.int64)  # below the number of minus infinity
        high = np.full(n_channels, infinity, np.int64)
        bits = np.empty(n_channels, np.int32)
        floats = bits.view(np.float32)
        for _ in range(32):
            for channel in range(n_channels):
                number = (low[channel] + high[channel]) >> 1
                bits[channel] = np.int32(number if number >= 0 else number ^ 0x7FFFFFFF)
            for channel in range(n_channels):
                number = (low[channel] + high[channel]) >> 1
                reaches = x[row, channel] + floats[channel] >= thresholds[channel]
                high[channel] = number if reaches else high[channel]
                low[channel] = low[channel] if reaches else number
        for channel in range(n_channels):
            number = high[channel]
            bits[channel] = np.int32(number if number >= 0 else number ^ 0x7FFFFFFF)
            out[row, channel] = floats[channel]


@njit
def _count_below(levels, value):
    """Number of ``levels`` (ascending, at least one) that are below ``value``, without a branch to mispredict."""
    position = 0
    length = len(levels)
    while length > 1:
        half = length >> 1
        position += half if levels[position + half - 1] < value else 0
        length -= half
    return position + np.int64(levels[position] < value)


@njit(parallel=True, nogil=True, cache=True)
def fill_ranks(columns, levels, out):
    """Ranks (tiles, channels, BLOCK) of the values ``columns`` (channels, items) among ``levels``, the same sorted."""
    n_channels, n_items = columns.shape
    block = out.shape[2]
    for task in prange(len(out) * n_channels):
        tile = task // n_channels
        channel = task % n_channels
        first = tile * block
        out[tile, channel] = 0
        for item in range(first, min(first + block, n_items)):
            out[tile, channel, item - first] = _count_below(levels[channel], columns[channel, item])


@njit(parallel=True, nogil=True, cache=True)
def rank_thresholds(thresholds, levels, out):
    """Ranks (users, channels) of ``thresholds`` (users, channels) among ``levels`` (channels, items)."""
    for channel in prange(len(levels)):  # the levels of a channel stay in the second-level cache
        for user in range(len(thresholds)):
            out[user, channel] = _count_below(levels[channel], thresholds[user, channel])
