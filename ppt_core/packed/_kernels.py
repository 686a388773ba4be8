"""Every Numba kernel of packed layers: private, unchecked, arrays in and results in ``out``."""
# Numba's decorators carry no types, and annotations would not reach the compiled code.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls

import numpy as np
from numba import njit, prange, types
from numba.extending import intrinsic


@intrinsic
def _popcount(typing_context, word):
    """Number of ones of a 64-bit word; LLVM turns a loop of them into vector instructions where there are any."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@njit(parallel=True, cache=True)
def threshold_products(bits, signs, thresholds, flipped, out):
    """Bits of ``({0, 1} @ {-1, +1} >= thresholds) != flipped`` from packed operands.

    ``bits`` is (rows, words in), ``signs`` (words in, channels): a set bit is +1; ``out`` is (rows, words out). With x
    the bits of a row and w those of a channel, the product is 2 * popcount(w & x) - popcount(x).
    """
    n_words, n_channels = signs.shape
    for row in prange(len(bits)):
        counts = np.zeros(n_channels, np.int64)
        n_ones = np.int64(0)
        for word in range(n_words):
            ones = bits[row, word]
            n_ones += np.int64(_popcount(ones))
            for channel in range(n_channels):
                counts[channel] += np.int64(_popcount(ones & signs[word, channel]))
        out[row] = 0
        for channel in range(n_channels):
            bit = np.uint64((2 * counts[channel] - n_ones >= thresholds[channel]) != flipped[channel])
            out[row, channel >> 6] |= bit << np.uint64(channel & 63)


@njit(parallel=True, cache=True)
def pack_above(x, threshold, out):
    """Bits ``x > threshold`` of rows (n, channels) as words (n, words)."""
    n_rows, n_channels = x.shape
    for row in prange(n_rows):
        for word in range(out.shape[1]):
            first = 64 * word
            bits = np.uint64(0)
            for bit in range(min(64, n_channels - first)):
                bits |= np.uint64(x[row, first + bit] > threshold) << np.uint64(bit)
            out[row, word] = bits


@njit(parallel=True, cache=True)
def merge_columns(bits, n_channels, width, stride, padding, out):
    """Bits of ``width`` neighbouring columns side by side: a window's row, without gaps, once for all rows it serves.

    ``bits`` is (n, height, columns, words), ``out`` (n, height, columns', words of a window's row). Columns beyond the
    edge are 0.
    """
    _, n_rows, n_columns, n_words = bits.shape
    for task in prange(len(out) * n_rows):
        image = task // n_rows
        row = task % n_rows
        merged, source = out[image, row], bits[image, row]
        merged[:] = 0
        for tap in range(width):  # columns innermost, or nothing would vectorize
            first = max(0, -((tap - padding) // stride))
            last = min(out.shape[2], (n_columns - 1 + padding - tap) // stride + 1)
            for word in range(n_words):
                place = tap * n_channels + 64 * word
                shift = np.uint64(place & 63)
                for column in range(first, last):
                    merged[column, place >> 6] |= source[column * stride - padding + tap, word] << shift
                if shift and (place >> 6) + 1 < merged.shape[1]:
                    for column in range(first, last):
                        ones = source[column * stride - padding + tap, word]
                        merged[column, (place >> 6) + 1] |= ones >> (np.uint64(64) - shift)


@njit(inline="always")
def _multiply_window(merged, image, top, column, signs, products):
    """Products (channels,) of the window whose first row is ``top``; ``signs`` is (rows, words of a row, channels)."""
    n_ones = np.int64(0)
    products[:] = 0
    for row in range(max(0, -top), min(len(signs), merged.shape[1] - top)):
        for word in range(signs.shape[1]):
            ones = merged[image, top + row, column, word]
            n_ones += np.int64(_popcount(ones))
            for channel in range(len(products)):
                products[channel] += np.int64(_popcount(ones & signs[row, word, channel]))
    for channel in range(len(products)):
        products[channel] = 2 * products[channel] - n_ones


@njit(parallel=True, cache=True)
def threshold_convolution(merged, signs, thresholds, flipped, stride, padding, out):
    """Bits ``(convolution >= thresholds) != flipped`` of packed operands.

    ``merged`` is what `merge_columns` made, ``signs`` (rows of a window, words of a row, channels), int64
    ``thresholds``, ``flipped`` a word for 64 channels; ``out`` is (n, height', width', words).
    """
    n_outputs = signs.shape[2]
    n_rows = out.shape[1]
    for task in prange(len(out) * n_rows):
        image = task // n_rows
        row = task % n_rows
        products = np.empty(n_outputs, np.int64)
        for column in range(out.shape[2]):
            _multiply_window(merged, image, row * stride - padding, column, signs, products)
            for word in range(out.shape[3]):
                some, levels = products[64 * word : 64 * word + 64], thresholds[64 * word : 64 * word + 64]
                found = np.uint64(0)
                for bit in range(len(some)):
                    found |= np.uint64(some[bit] >= levels[bit]) << np.uint64(bit)
                out[image, row, column, word] = found ^ flipped[word]


@njit(parallel=True, cache=True)
def convolve_bits(merged, signs, stride, padding, out):
    """Products of the same operands, integers, as floats ``out`` (n, height', width', channels)."""
    n_rows = out.shape[1]
    for task in prange(len(out) * n_rows):
        image = task // n_rows
        row = task % n_rows
        products = np.empty(signs.shape[2], np.int64)
        for column in range(out.shape[2]):
            _multiply_window(merged, image, row * stride - padding, column, signs, products)
            for channel in range(len(products)):
                out[image, row, column, channel] = np.float32(products[channel])


@njit(parallel=True, cache=True)
def max_pool_bits(bits, kernel, stride, padding, out):
    """The maximum of bits is their or: ``bits`` (n, height, width, words), ``out`` (n, height', width', words)."""
    n_rows = out.shape[1]
    for task in prange(len(out) * n_rows):
        image = task // n_rows
        row = task % n_rows
        top = row * stride[0] - padding[0]
        for column in range(out.shape[2]):
            left = column * stride[1] - padding[1]
            for word in range(out.shape[3]):
                found = np.uint64(0)
                for y in range(max(top, 0), min(top + kernel[0], bits.shape[1])):
                    for x in range(max(left, 0), min(left + kernel[1], bits.shape[2])):
                        found |= bits[image, y, x, word]
                out[image, row, column, word] = found
