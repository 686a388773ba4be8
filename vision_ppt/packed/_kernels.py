"""The residual blocks of a packed network in one call: private, unchecked, arrays in and results in ``out``."""
# Numba's decorators carry no types, and annotations would not reach the compiled code.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls, allow-subclassing-any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, prange, types
from numba.extending import intrinsic

from ppt_core.bits._kernels import LANES, convolve_block

# SHA-256 of ppt_core/bits/_kernels.py, whose code is compiled into that of this file. Numba compiles a cached kernel
# again when its own file changes, so this line changes with that one.
# cd4362e9243bf136cae8efecab1a0fdbdd06131b00f72e14044ab4d90898a65f

_ZERO = np.float32(0)
_PIXELS = 64


@intrinsic
def _above(typing_context, values, index, threshold):
    """Bits ``values[index : index + LANES] > threshold`` as a word: left to itself LLVM takes one after the other."""

    def generate(context, builder, signature, arguments):
        values, index, threshold = arguments
        vector = ir.VectorType(ir.FloatType(), LANES)
        data = context.make_array(signature.args[0])(context, builder, values).data
        some = builder.load(builder.bitcast(builder.gep(data, [index]), vector.as_pointer()), align=4)
        undefined = ir.Constant(vector, ir.Undefined)
        first = builder.insert_element(undefined, threshold, ir.IntType(32)(0))
        order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        bits = builder.fcmp_ordered(">", some, builder.shuffle_vector(first, undefined, order))
        return builder.zext(builder.bitcast(bits, ir.IntType(LANES)), ir.IntType(64))

    return types.uint64(values, index, types.float32), generate


@intrinsic
def _fused(typing_context, x, factor, shift):
    """``x * factor + shift``, rounded once."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * 3)
        return builder.call(builder.module.declare_intrinsic("llvm.fma", [ir.FloatType()], kind), arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@njit(cache=True)
def lines(x, factors, shifts, is_fused, out):
    """``x[r] * factors[c] + shifts[c]`` into ``out`` (rows, channels), rounded once or after each operation."""
    for row in range(len(x)):
        for channel in range(len(factors)):
            if is_fused:
                out[row, channel] = _fused(x[row], factors[channel], shifts[channel])
            else:
                out[row, channel] = x[row] * factors[channel] + shifts[channel]


@njit
def _pack_above(sums, step, threshold, bits):
    """Bits ``sums > threshold`` of pixels of ``step`` channels, a word each."""
    step = np.uint64(step)
    for pixel in range(np.uint64(len(bits))):
        word = np.uint64(0)
        for channel in range(np.uint64(0), step, np.uint64(LANES)):
            word |= _above(sums, pixel * step + channel, threshold) << channel
        bits[pixel] = word


@njit
def _add_shortcut(sums, width, old_step, stride, n_shared, threshold, alpha, out, new_width, new_step):
    """Add to ``out`` what the shortcut carries of ``sums``: its ReLU, or with an ``alpha`` above 0 its bits' values."""
    n_rows = len(out) // (new_width * new_step)
    for row in range(np.uint64(n_rows)):
        for column in range(np.uint64(new_width)):
            old = (row * np.uint64(stride * width) + column * np.uint64(stride)) * np.uint64(old_step)
            new = (row * np.uint64(new_width) + column) * np.uint64(new_step)
            for channel in range(np.uint64(n_shared)):
                value = sums[old + channel]
                if alpha > _ZERO:
                    value = alpha if value > threshold else _ZERO
                elif value <= _ZERO:
                    value = _ZERO
                out[new + channel] += value


@njit
def _normalize(values, step, factors, shifts, is_fused):
    """BatchNorm of pixels of ``step`` channels, in place."""
    step = np.uint64(step)
    for pixel in range(np.uint64(len(values)) // step):
        for channel in range(step):
            place = pixel * step + channel
            if is_fused:
                values[place] = _fused(values[place], factors[channel], shifts[channel])
            else:
                values[place] = values[place] * factors[channel] + shifts[channel]


@njit
def _copy(source, by_channel, by_pixel, target, to_channel, to_pixel, n_channels, n_pixels):
    """Values of pixels and channels from one order in memory into another, by the steps of both.

    By blocks of pixels: all pixels of a channel at a time would go through the first cache once for each channel.
    """
    for first in range(0, n_pixels, _PIXELS):
        n_here = min(_PIXELS, n_pixels - first)
        for channel in range(n_channels):
            old = np.uint64(channel * by_channel + first * by_pixel)
            new = np.uint64(channel * to_channel + first * to_pixel)
            for pixel in range(np.uint64(n_here)):
                target[new + pixel * np.uint64(to_pixel)] = source[old + pixel * np.uint64(by_pixel)]


@njit
def _lanes(n_channels):
    return -(-n_channels // LANES) * LANES


@njit
def _run_image(image, size, is_channels_last, blocks, words, levels, floats, is_fused, out):
    """One image through all blocks, by one thread: what it needs stays in the caches of a core."""
    height, width = size
    n_channels = blocks[0, 0]
    step = _lanes(n_channels)
    sums = np.zeros(height * width * step, np.float32)
    to_channel, to_pixel = (1, n_channels) if is_channels_last else (height * width, 1)
    _copy(image, to_channel, to_pixel, sums, 1, step, n_channels, height * width)
    word, level, number = 0, 0, 0
    for block in range(len(blocks)):
        n_in, n_out, stride = blocks[block]
        new_height, new_width, new_step = (height - 1) // stride + 1, (width - 1) // stride + 1, _lanes(n_out)
        threshold, alpha, factor = floats[number : number + 3]
        factors = floats[number + 3 : number + 3 + new_step]
        shifts = floats[number + 3 + new_step : number + 3 + 2 * new_step]
        number += 3 + 2 * new_step

        bits = np.empty((1, height, width, 1), np.int64)
        _pack_above(sums, step, threshold, bits.reshape(-1))
        middle = np.empty((1, new_height, new_width, 1), np.int64)
        n_words = 3 * -(-3 * n_in // 64)
        weights = words[word : word + n_words * new_step].reshape(new_step // LANES, n_words, LANES)
        word += n_words * new_step
        geometry = (3, 3, stride, stride, 1, 1)
        bounds, flipped = levels[level : level + new_step], levels[level + new_step : level + new_step + 1]
        level += new_step + 1
        convolve_block(0, new_height, bits, n_in, geometry, weights, bounds, flipped, np.float32(1), middle)

        products = np.empty((1, new_height, new_width, new_step), np.float32)
        n_words = 3 * -(-3 * n_out // 64)
        weights = words[word : word + n_words * new_step].reshape(new_step // LANES, n_words, LANES)
        word += n_words * new_step
        n_ones = levels[level : level + new_step]
        level += new_step
        geometry = (3, 3, 1, 1, 1, 1)
        convolve_block(0, new_height, middle, n_out, geometry, weights, n_ones, None, factor, products)

        values = products.reshape(-1)
        _normalize(values, new_step, factors, shifts, is_fused)
        _add_shortcut(sums, width, step, stride, n_in, threshold, alpha, values, new_width, new_step)
        sums, height, width, step = values, new_height, new_width, new_step
    n_channels = len(out) // (height * width)
    to_channel, to_pixel = (1, n_channels) if is_channels_last else (height * width, 1)
    _copy(sums, 1, step, out, to_channel, to_pixel, n_channels, height * width)


@njit(parallel=True, cache=True)
def run_blocks(images, size, is_channels_last, blocks, words, levels, floats, is_fused, out):
    """Sums of the last residual block from those behind the stem.

    ``images`` is (n, height * width * channels) and ``out`` (n, height' * width' * channels'), both with the channels
    first or last; ``size`` is height and width. ``blocks`` (blocks, 3) holds channels in and out, and stride. The other
    numbers of a block follow each other, channels rounded up to `LANES`. In ``words``: the signs of its two
    convolutions, by lanes. In ``levels``: bounds and flipped bits of the first, ones of the second. In ``floats``: the
    threshold of the bits that it reads, the alpha of a 1-bit shortcut or 0, the scale of the second convolution's
    products, factors and shifts of BatchNorm.
    """
    if len(images) == 1:
        _run_image(images[0], size, is_channels_last, blocks, words, levels, floats, is_fused, out[0])
    else:
        for image in prange(len(images)):
            _run_image(images[image], size, is_channels_last, blocks, words, levels, floats, is_fused, out[image])
