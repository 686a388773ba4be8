"""A packed network up to its last block's sum in one call: private, unchecked, arrays in and results in ``out``."""
# Numba's decorators carry no types, and annotations would not reach the compiled code.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from ppt_core.bits._kernels import (
    LANES,
    bits_of,
    float_lanes,
    load,
    load_lanes,
    not_negative,
    or_shifted,
    scaled,
    spread,
    store,
    subtract_differing,
)

# SHA-256 of ppt_core/bits/_kernels.py, whose code is compiled into that of this file. Numba compiles a cached kernel
# again when its own file changes, so this line changes with that one.
# 044849a1e1649efa36c33896026de9d9a87b049f667f872cf6c0d2406d7dc8a1

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_LANES = np.uint64(LANES)
_ZERO, _ONE, _TWO, _THREE, _COLUMNS = (np.uint64(number) for number in range(5))
_PIXELS = 64


@intrinsic
def _no_sums(typing_context):
    """Lanes of 0."""

    def generate(context, builder, signature, arguments):
        return ir.Constant(_FLOATS, [0.0] * LANES)

    return float_lanes(), generate


def _operands(context, builder, signature, arguments):
    """``x`` (a number or lanes), ``factors[index : index + LANES]`` and ``shifts``."""
    x, factors, index, shifts = arguments
    x = spread(builder, x, _FLOATS) if signature.args[0] == types.float32 else x
    return x, load_lanes(context, builder, signature.args[1], factors, index, _FLOATS), shifts


@intrinsic
def _fused(typing_context, x, factors, index, shifts):
    """Lanes ``x * factors[index : index + LANES] + shifts``, rounded once; ``x`` is a number or lanes."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
        return builder.call(function, _operands(context, builder, signature, arguments))

    return float_lanes(x, factors, index, shifts), generate


@intrinsic
def _rounded_twice(typing_context, x, factors, index, shifts):
    """The same, rounded after each operation."""

    def generate(context, builder, signature, arguments):
        x, some, shifts = _operands(context, builder, signature, arguments)
        return builder.fadd(builder.fmul(x, some), shifts)

    return float_lanes(x, factors, index, shifts), generate


@intrinsic
def _add_positive(typing_context, x, sums, index):
    """Lanes ``x + relu(sums[index : index + LANES])``."""

    def generate(context, builder, signature, arguments):
        x, sums, index = arguments
        some = load_lanes(context, builder, signature.args[1], sums, index, _FLOATS)
        zero = ir.Constant(_FLOATS, [0.0] * LANES)
        return builder.fadd(x, builder.select(builder.fcmp_ordered("<=", some, zero), zero, some))

    return float_lanes(x, sums, index), generate


@intrinsic
def _add_bits(typing_context, x, sums, index, threshold, alpha):
    """Lanes ``x + alpha * (sums[index : index + LANES] > threshold)``."""

    def generate(context, builder, signature, arguments):
        x, sums, index, threshold, alpha = arguments
        some = load_lanes(context, builder, signature.args[1], sums, index, _FLOATS)
        is_above = builder.fcmp_ordered(">", some, spread(builder, threshold, _FLOATS))
        zero = ir.Constant(_FLOATS, [0.0] * LANES)
        return builder.fadd(x, builder.select(is_above, spread(builder, alpha, _FLOATS), zero))

    return float_lanes(x, sums, index, types.float32, types.float32), generate


@intrinsic
def _above(typing_context, x, threshold):
    """Bits ``x > threshold`` of lanes as a word."""

    def generate(context, builder, signature, arguments):
        x, threshold = arguments
        return bits_of(builder, builder.fcmp_ordered(">", x, spread(builder, threshold, _FLOATS)))

    return types.uint64(x, types.float32), generate


@njit
def _line(x, factors, shifts, channel, is_fused):
    if is_fused:
        return _fused(x, factors, channel, load(shifts, channel))
    return _rounded_twice(x, factors, channel, load(shifts, channel))


@njit(cache=True)
def lines(x, factors, shifts, is_fused, out):
    """``x * factors + shifts`` of flat ``x`` (rows, channels) into ``out``, rounded once or after each operation.

    The number of channels is a multiple of `LANES`.
    """
    n_channels = np.uint64(len(factors))
    for start in range(_ZERO, np.uint64(len(x)), n_channels):
        for channel in range(_ZERO, n_channels, _LANES):
            place = start + channel
            store(out, place, _line(load(x, place), factors, shifts, channel, is_fused))


@njit
def _write_bits(bits, place, channel, found, flipped):
    """Bits of a group of channels of a pixel, whose first group begins its word anew, with those that are flipped."""
    if channel == _ZERO:
        bits[place] = flipped ^ found
    else:
        bits[place] ^= found << channel


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
def _read_sums(image, size, is_channels_last, n_channels, threshold, sums, bits):
    """Sums behind the stem in our order, and their bits."""
    height, width = np.uint64(size[0]), np.uint64(size[1])
    step = np.uint64(_lanes(n_channels))
    n_pixels = size[0] * size[1]
    to_channel, to_pixel = (1, n_channels) if is_channels_last else (n_pixels, 1)
    _copy(image, to_channel, to_pixel, sums, 1, _lanes(n_channels), n_channels, n_pixels)
    for row in range(height):
        for column in range(width):
            place = (row + _ONE) * (width + _TWO) + column + _ONE
            for channel in range(_ZERO, step, _LANES):
                some = load(sums, (row * width + column) * step + channel)
                _write_bits(bits, place, channel, _above(some, threshold), _ZERO)


@njit
def _clear(sums, n_channels, step):
    """Lanes of no channel to 0: an infinite pixel times a weight of 0 is none."""
    if n_channels < step:
        for start in range(0, len(sums), step):
            sums[start + n_channels : start + step] = 0


@njit
def _pad(image, size, is_channels_last):
    """An image with its channels first and a frame of zeros, and a few numbers beyond its end."""
    height, width = size
    n_channels, n_pixels = len(image) // (height * width), height * width
    by_channel, by_pixel = (1, n_channels) if is_channels_last else (n_pixels, 1)
    padded = np.zeros(n_channels * (height + 2) * (width + 2) + _COLUMNS, np.float32)
    for channel in range(n_channels):
        for row in range(height):
            old = np.uint64(channel * by_channel + row * width * by_pixel)
            new = np.uint64((channel * (height + 2) + row + 1) * (width + 2) + 1)
            for column in range(np.uint64(width)):
                padded[new + column] = image[old + column * np.uint64(by_pixel)]
    return padded


@njit
def _run_stem(image, size, is_channels_last, taps, weights, norm, threshold, sums, bits):
    """Convolution and BatchNorm of an image, and the bits that the first block reads.

    ``taps`` holds input channel, row and column of the products of a sum, in the order in which they are added, and
    ``weights`` (taps, channels) those of each.
    """
    padded = _pad(image, size, is_channels_last)
    factors, shifts, is_fused = norm
    n_taps, step = np.uint64(len(taps)), np.uint64(len(factors))
    n_columns, pitch = np.uint64(size[1]), np.uint64(size[1] + 2)
    places = np.empty(len(taps), np.uint64)
    for tap in range(len(taps)):
        places[tap] = (taps[tap, 0] * (size[0] + 2) + taps[tap, 1]) * (size[1] + 2) + taps[tap, 2]
    for row in range(np.uint64(size[0])):
        for channel in range(_ZERO, step, _LANES):
            for column in range(_ZERO, n_columns, _COLUMNS):
                a, b, c, d = _no_sums(), _no_sums(), _no_sums(), _no_sums()
                for tap in range(n_taps):
                    left, at = places[tap] + row * pitch + column, tap * step + channel
                    a = _fused(padded[left], weights, at, a)
                    b = _fused(padded[left + _ONE], weights, at, b)
                    c = _fused(padded[left + _TWO], weights, at, c)
                    d = _fused(padded[left + _THREE], weights, at, d)
                for number, x in enumerate((a, b, c, d)):
                    here = column + np.uint64(number)
                    if here >= n_columns:
                        break
                    x = _line(x, factors, shifts, channel, is_fused)
                    store(sums, (row * n_columns + here) * step + channel, x)
                    _write_bits(bits, (row + _ONE) * pitch + here + _ONE, channel, _above(x, threshold), _ZERO)


@njit(cache=True)
def run_stem(image, size, is_channels_last, stem, out):
    """The sums that `run_blocks` has of the stem of an image: ``out`` (height * width * channels, up to `LANES`)."""
    taps, floats, is_fused = stem
    step = len(out) // (size[0] * size[1])
    norm = floats[-2 * step : -step], floats[-step:], is_fused
    bits = np.zeros((size[0] + 2) * (size[1] + 2), np.uint64)
    _run_stem(image, size, is_channels_last, taps, floats[: -2 * step], norm, np.float32(0), out, bits)


@njit
def _count(windows, start, step, places, weights, levels, channel):
    """Of `_COLUMNS` windows, levels less the bits that differ from the weights of `LANES` channels.

    Word number w of window number c is ``windows[start + places[w] + c * step]``. The weights are read once.
    """
    n_words, some = np.uint64(len(places)), load(levels, channel)
    a, b, c, d = some, some, some, some
    for word in range(n_words):
        place, signs = start + places[word], channel * n_words + word * _LANES
        a = subtract_differing(a, windows[place], weights, signs)
        b = subtract_differing(b, windows[place + step], weights, signs)
        c = subtract_differing(c, windows[place + _TWO * step], weights, signs)
        d = subtract_differing(d, windows[place + _THREE * step], weights, signs)
    return a, b, c, d


@njit
def _merge(bits, n_channels, stride):
    """Bits of each pixel and of the two behind it side by side without gaps: all first words, then all second ones."""
    n = len(bits)
    n_words = -(-3 * n_channels // 64)
    beyond = stride * np.int64(_COLUMNS)  # the last windows are read beyond the end, for nothing
    merged = np.zeros(n_words * n + beyond, np.uint64)
    for tap in range(3):
        word, shift = tap * n_channels >> 6, np.uint64(tap * n_channels & 63)
        n_pixels, start = np.uint64(n - tap), np.uint64(tap)
        or_shifted(bits, start, _ONE, shift, _ZERO, merged, np.uint64(word * n), n_pixels)
        if shift and word + 1 < n_words:
            or_shifted(bits, start, _ONE, _ZERO, np.uint64(64) - shift, merged, np.uint64((word + 1) * n), n_pixels)
    return merged


@njit
def _places(n, width, n_channels):
    """Where the words of a window lie in `_merge`'s of ``n`` pixels, from that of its upper left pixel on."""
    n_words = -(-3 * n_channels // 64)
    places = np.empty(3 * n_words, np.uint64)
    for row in range(3):
        for word in range(n_words):
            places[row * n_words + word] = word * n + row * (width + 2)
    return places


@njit
def _convolve_to_bits(bits, width, n_channels, stride, weights, levels, flipped, new_size, step, out):
    """The first convolution of a block, from padded pixels to padded pixels."""
    merged, places = _merge(bits, n_channels, stride), _places(len(bits), width, n_channels)
    stride, pitch, n_columns = np.uint64(stride), np.uint64(width + 2), np.uint64(new_size[1])
    for row in range(np.uint64(new_size[0])):
        begin = (row + _ONE) * (n_columns + _TWO) + _ONE
        for channel in range(_ZERO, np.uint64(step), _LANES):
            for column in range(_ZERO, n_columns, _COLUMNS):
                start = row * stride * pitch + column * stride
                four = _count(merged, start, stride, places, weights, levels, channel)
                for number, left in enumerate(four):
                    here = column + np.uint64(number)
                    if here >= n_columns:
                        break
                    _write_bits(out, begin + here, channel, not_negative(left), flipped)


@njit
def _convolve_to_sums(bits, size, n_channels, weights, ones, norm, shortcut, threshold, sums, out):
    """The second convolution of a block, BatchNorm and shortcut, and the bits that the next block reads."""
    height, width = size
    merged, places = _merge(bits, n_channels, 1), _places(len(bits), width, n_channels)
    factor, factors, shifts, is_fused = norm
    old_sums, old_row, old_column, n_shared, old_threshold, alpha = shortcut
    step, pitch, n_columns = np.uint64(len(factors)), np.uint64(width + 2), np.uint64(width)
    for row in range(np.uint64(height)):
        for channel in range(_ZERO, step, _LANES):
            for column in range(_ZERO, n_columns, _COLUMNS):
                four = _count(merged, row * pitch + column, _ONE, places, weights, ones, channel)
                for number, left in enumerate(four):
                    here = column + np.uint64(number)
                    if here >= n_columns:
                        break
                    x = _line(scaled(left, factor), factors, shifts, channel, is_fused)
                    if channel < np.uint64(n_shared):
                        old = row * old_row + here * old_column + channel
                        if alpha > np.float32(0):
                            x = _add_bits(x, old_sums, old, old_threshold, alpha)
                        else:
                            x = _add_positive(x, old_sums, old)
                    store(sums, (row * n_columns + here) * step + channel, x)
                    place = (row + _ONE) * pitch + here + _ONE
                    _write_bits(out, place, channel, _above(x, threshold), _ZERO)


@njit
def _run_image(image, size, is_channels_last, stem, blocks, words, levels, floats, is_fused, out):
    """One image, by one thread: what it needs stays in the caches of a core."""
    height, width = size
    taps, stem_floats, stem_is_fused = stem
    step = _lanes(blocks[0, 0])
    sums = np.zeros(height * width * step, np.float32)
    bits = np.zeros((height + 2) * (width + 2), np.uint64)
    if len(taps):
        weights, factors, shifts = stem_floats[: len(taps) * step], stem_floats[-2 * step : -step], stem_floats[-step:]
        stem_norm = factors, shifts, stem_is_fused
        _run_stem(image, size, is_channels_last, taps, weights, stem_norm, floats[0], sums, bits)
        _clear(sums, blocks[0, 0], step)
    else:
        _read_sums(image, size, is_channels_last, blocks[0, 0], floats[0], sums, bits)
    word, level, number = 0, 0, 0
    for block in range(len(blocks)):
        n_in, n_out, stride = blocks[block]
        new_size, new_step = ((height - 1) // stride + 1, (width - 1) // stride + 1), _lanes(n_out)
        threshold, alpha, factor = floats[number : number + 3]
        factors = floats[number + 3 : number + 3 + new_step]
        shifts = floats[number + 3 + new_step : number + 3 + 2 * new_step]
        number += 3 + 2 * new_step
        next_threshold = floats[number] if block + 1 < len(blocks) else np.float32(0)

        n_words = 3 * -(-3 * n_in // 64) * new_step
        weights, bounds = words[word : word + n_words], levels[level : level + new_step]
        flipped = np.uint64(levels[level + new_step])
        word, level = word + n_words, level + new_step + 1
        middle = np.zeros((new_size[0] + 2) * (new_size[1] + 2), np.uint64)
        _convolve_to_bits(bits, width, n_in, stride, weights, bounds, flipped, new_size, new_step, middle)

        n_words = 3 * -(-3 * n_out // 64) * new_step
        weights, ones = words[word : word + n_words], levels[level : level + new_step]
        word, level = word + n_words, level + new_step
        norm = factor, factors, shifts, is_fused
        shortcut = sums, np.uint64(stride * width * step), np.uint64(stride * step), n_in, threshold, alpha
        sums = np.empty(new_size[0] * new_size[1] * new_step, np.float32)
        bits = np.zeros(len(middle), np.uint64)
        _convolve_to_sums(middle, new_size, n_out, weights, ones, norm, shortcut, next_threshold, sums, bits)
        (height, width), step = new_size, new_step
    n_channels = len(out) // (height * width)
    to_channel, to_pixel = (1, n_channels) if is_channels_last else (height * width, 1)
    _copy(sums, 1, step, out, to_channel, to_pixel, n_channels, height * width)


@njit(parallel=True, cache=True)
def run_blocks(images, size, is_channels_last, stem, blocks, words, levels, floats, is_fused, out):
    """Sums of the last residual block from images, or from the sums behind a stem.

    ``images`` is (n, height * width * channels) and ``out`` (n, height' * width' * channels'), both with the channels
    first or last; ``size`` is height and width. ``blocks`` (blocks, 3) holds channels in and out, and stride. The other
    numbers of a block follow each other, channels rounded up to `LANES`. In ``words``: the signs of its two
    convolutions, by lanes. In ``levels``: bounds and flipped bits of the first, ones of the second. In ``floats``: the
    threshold of the bits that it reads, the alpha of a 1-bit shortcut or 0, the scale of the second convolution's
    products, factors and shifts of BatchNorm. ``stem`` holds the taps of the stem (`_run_stem`), its floats, namely the
    weights of each tap, factors and shifts of BatchNorm, and ``is_fused`` of that; without taps ``images`` are what is
    behind the stem.
    """
    if len(images) == 1:
        _run_image(images[0], size, is_channels_last, stem, blocks, words, levels, floats, is_fused, out[0])
    else:
        for image in prange(len(images)):
            _run_image(images[image], size, is_channels_last, stem, blocks, words, levels, floats, is_fused, out[image])
