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
