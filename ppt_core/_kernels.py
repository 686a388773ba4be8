"""Kernels of full precision and of activations: private, unchecked, arrays in and results in ``out``.

Sums run over blocks of rows of a fixed size and then over the blocks in order, so a result does not depend on the
number of threads. Blocks also keep the working set in the second-level cache: a pass over a batch costs memory
traffic, hardly any arithmetic.
"""
# Numba's decorators carry no types, and annotations would not reach the compiled code.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls

import numpy as np
from numba import njit, prange

BLOCK_ROWS = 64
BLOCK_VALUES = 1 << 14


@njit(parallel=True, cache=True)
def batch_moments(x, block_sums, block_squares, out_mean, out_variance):
    """Mean and biased variance of each column of ``x`` (rows, channels).

    Each block sums its values and then the squares of their distances from its own mean; blocks are merged by
    Chan, Golub and LeVeque's formula (1979). The difference of two large sums of squares would cancel.
    """
    n_rows, n_channels = x.shape
    for block in prange(len(block_sums)):
        first = block * BLOCK_ROWS
        last = min(first + BLOCK_ROWS, n_rows)
        sums = block_sums[block]
        squares = block_squares[block]
        sums[:] = 0
        squares[:] = 0
        for row in range(first, last):
            for channel in range(n_channels):
                sums[channel] += x[row, channel]
        inverse = np.float32(1.0 / (last - first))
        for row in range(first, last):
            for channel in range(n_channels):
                distance = x[row, channel] - sums[channel] * inverse
                squares[channel] += distance * distance
    for channel in range(n_channels):
        count = 0.0
        mean = 0.0
        square = 0.0
        for block in range(len(block_sums)):
            n = float(min(BLOCK_ROWS, n_rows - block * BLOCK_ROWS))
            distance = block_sums[block, channel] / n - mean
            total = count + n
            mean += distance * n / total
            square += block_squares[block, channel] + distance * distance * count * n / total
            count = total
        out_mean[channel] = mean
        out_variance[channel] = square / count


@njit(parallel=True, cache=True)
def scale_and_activate(x, factor, shift, alpha, low, out):
    """Write z = x * factor + shift (rows, channels) after its activation: ReLU, or 0 and ``alpha`` if ``low``."""
    n_rows, n_channels = x.shape
    half = alpha * np.float32(0.5)
    zero = np.float32(0)
    for block in prange((n_rows + BLOCK_ROWS - 1) // BLOCK_ROWS):
        for row in range(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, n_rows)):
            if low:
                for channel in range(n_channels):
                    out[row, channel] = alpha if x[row, channel] * factor[channel] + shift[channel] > half else zero
            else:
                for channel in range(n_channels):
                    z = x[row, channel] * factor[channel] + shift[channel]
                    out[row, channel] = zero if z <= zero else z  # NaN stays: a diverged network must not look sane


@njit(parallel=True, cache=True)
def scale_and_activate_backward(
    grad, x, mean, inverse_deviation, factor, shift, alpha, low, block_sums,
    out_grad_x, out_grad_weight, out_grad_bias, out_grad_alpha,
):  # fmt: skip
    """Gradients of batch normalization and its activation; ``block_sums`` is (blocks, 3, channels) of scratch.

    ``factor`` is weight * inverse_deviation. z is computed again: reading it back would cost more.
    """
    n_rows, n_channels = x.shape
    zero = np.float32(0)
    for block in prange(len(block_sums)):
        sums = block_sums[block]
        sums[:] = 0
        for row in range(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, n_rows)):
            if low:
                for channel in range(n_channels):
                    z = x[row, channel] * factor[channel] + shift[channel]
                    g = grad[row, channel]
                    passed = g if (z >= zero) & (z <= alpha) else zero
                    sums[0, channel] += passed
                    sums[1, channel] += passed * ((x[row, channel] - mean[channel]) * inverse_deviation[channel])
                    sums[2, channel] += g if z >= alpha else zero
            else:
                for channel in range(n_channels):
                    z = x[row, channel] * factor[channel] + shift[channel]
                    passed = zero if z <= zero else grad[row, channel]
                    sums[0, channel] += passed
                    sums[1, channel] += passed * ((x[row, channel] - mean[channel]) * inverse_deviation[channel])
    total_alpha = 0.0
    for channel in range(n_channels):
        total_bias = 0.0
        total_weight = 0.0
        for block in range(len(block_sums)):
            total_bias += block_sums[block, 0, channel]
            total_weight += block_sums[block, 1, channel]
            total_alpha += block_sums[block, 2, channel]
        out_grad_bias[channel] = total_bias
        out_grad_weight[channel] = total_weight
    out_grad_alpha[0] = total_alpha
    inverse = np.float32(1.0 / n_rows)
    for block in prange(len(block_sums)):
        for row in range(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, n_rows)):
            for channel in range(n_channels):
                z = x[row, channel] * factor[channel] + shift[channel]
                inside = ((z >= zero) & (z <= alpha)) if low else not z <= zero
                passed = grad[row, channel] if inside else zero
                normalized = (x[row, channel] - mean[channel]) * inverse_deviation[channel]
                common = out_grad_bias[channel] + normalized * out_grad_weight[channel]
                out_grad_x[row, channel] = (passed - common * inverse) * factor[channel]


@njit(parallel=True, cache=True)
def binarize_activations(x, alpha, out, out_codes, out_real):
    """``out`` is 0 or ``alpha`` (n,), and ``out_real``, if it is no None, the ReLU of x.

    A code is a byte for the backward pass in the place of x: it reads a quarter. Bit 0 says that the gradient of
    ``out`` reaches x, bit 1 that it reaches alpha, bit 2 that the gradient of ``out_real`` reaches x.
    """
    n = len(x)
    half = alpha * np.float32(0.5)
    zero = np.float32(0)
    for block in prange((n + BLOCK_VALUES - 1) // BLOCK_VALUES):
        first, last = block * BLOCK_VALUES, min((block + 1) * BLOCK_VALUES, n)
        values, binary, codes = x[first:last], out[first:last], out_codes[first:last]
        for i in range(last - first):
            value = values[i]
            binary[i] = alpha if value > half else zero
            to_x = np.uint8(1) if (value >= zero) & (value <= alpha) else np.uint8(0)
            to_alpha = np.uint8(2) if value >= alpha else np.uint8(0)
            codes[i] = to_x | to_alpha | (np.uint8(0) if value <= zero else np.uint8(4))
        if out_real is not None:
            real = out_real[first:last]
            for i in range(last - first):
                real[i] = zero if values[i] <= zero else values[i]


# Within a block the sum may take any order that makes it vector instructions; it is the same one each time.


@njit(parallel=True, cache=True, fastmath={"reassoc", "nsz"})
def binarize_activations_backward(grad, codes, grad_real, block_sums, out_grad_x, out_grad_alpha):
    """Gradients of `binarize_activations` (n,), ``grad_real`` or None; ``block_sums`` is (blocks,) of scratch."""
    n = len(grad)
    zero = np.float32(0)
    for block in prange(len(block_sums)):
        first, last = block * BLOCK_VALUES, min((block + 1) * BLOCK_VALUES, n)
        grads, block_codes, passed = grad[first:last], codes[first:last], out_grad_x[first:last]
        total = zero
        for i in range(last - first):
            value = grads[i]
            code = block_codes[i]
            passed[i] = value if code & np.uint8(1) else zero
            total += value if code & np.uint8(2) else zero
        if grad_real is not None:
            reals = grad_real[first:last]
            for i in range(last - first):
                passed[i] += reals[i] if block_codes[i] & np.uint8(4) else zero
        block_sums[block] = total
    grad_alpha = 0.0
    for block in range(len(block_sums)):
        grad_alpha += block_sums[block]
    out_grad_alpha[0] = grad_alpha
