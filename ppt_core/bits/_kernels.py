"""Kernels of bits, in training and in packed layers: private, unchecked, arrays in and results in ``out``."""
# Numba's decorators carry no types, and annotations would not reach the compiled code.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls, allow-subclassing-any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from ppt_core.popcount import popcount

LANES = 16  # channels side by side: two vectors of 512 bits, four of 256
_WORDS = ir.VectorType(ir.IntType(64), LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_BLOCK_ROWS = 64
_BLOCK = 1 << 16  # operations on words of a task: a few microseconds, and rows at an edge, merged twice, do not count
_SMALL = 1 << 19  # operations that take one thread the 50 us in which another wakes


class WordLanes(types.Type):
    """Type of `LANES` words in registers: left to itself LLVM uses half of a register, and memory for the sums."""


class FloatLanes(types.Type):
    """Type of `LANES` float32 in registers."""


@register_model(WordLanes)
class _WordLanesModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _WORDS)


@register_model(FloatLanes)
class _FloatLanesModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _FLOATS)


word_lanes = WordLanes("WordLanes")
float_lanes = FloatLanes("FloatLanes")


def load_lanes(context, builder, kind, array, index, vector):
    """In an intrinsic: a vector of a flat array, from ``index`` on."""
    return builder.load(_pointer(context, builder, kind, array, index, vector), align=4)


def spread(builder, value, vector):
    """In an intrinsic: a vector of the same value."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.IntType(32)(0))
    order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, undefined, order)


def bits_of(builder, conditions):
    """In an intrinsic: a vector of conditions as a word."""
    return builder.zext(builder.bitcast(conditions, ir.IntType(LANES)), ir.IntType(64))


def _pointer(context, builder, kind, array, index, vector):
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


@intrinsic
def load(typing_context, values, index):
    """Lanes ``values[index : index + LANES]`` of words or float32."""

    def generate(context, builder, signature, arguments):
        values, index = arguments
        vector = _FLOATS if signature.return_type == float_lanes else _WORDS
        return load_lanes(context, builder, signature.args[0], values, index, vector)

    return (float_lanes if values.dtype == types.float32 else word_lanes)(values, index), generate


@intrinsic
def subtract_differing(typing_context, left, word, words, index):
    """Lanes ``left - popcount(word ^ words[index : index + LANES])``."""

    def generate(context, builder, signature, arguments):
        left, word, words, index = arguments
        some = load_lanes(context, builder, signature.args[2], words, index, _WORDS)
        kind = ir.FunctionType(_WORDS, [_WORDS])
        popcount = cgutils.get_or_insert_function(builder.module, kind, f"llvm.ctpop.v{LANES}i64")
        differing = builder.xor(spread(builder, word, _WORDS), some)
        return builder.sub(left, builder.call(popcount, [differing]))

    return left(left, word, words, index), generate


@intrinsic
def not_negative(typing_context, left):
    """Bits ``left >= 0`` of lanes as a word."""

    def generate(context, builder, signature, arguments):
        return bits_of(builder, builder.icmp_signed(">=", arguments[0], ir.Constant(_WORDS, [0] * LANES)))

    return types.uint64(left), generate


@intrinsic
def scaled(typing_context, left, factor):
    """Lanes of floats ``left * factor``."""

    def generate(context, builder, signature, arguments):
        left, factor = arguments
        small = builder.trunc(left, ir.VectorType(ir.IntType(32), LANES))  # few processors convert words to floats
        return builder.fmul(builder.sitofp(small, _FLOATS), spread(builder, factor, _FLOATS))

    return float_lanes(left, types.float32), generate


@intrinsic
def store(typing_context, floats, index, lanes):
    """Store lanes from ``index`` on."""

    def generate(context, builder, signature, arguments):
        floats, index, lanes = arguments
        builder.store(lanes, _pointer(context, builder, signature.args[0], floats, index, _FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(floats, index, lanes), generate


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
            n_ones += np.int64(popcount(ones))
            for channel in range(n_channels):
                counts[channel] += np.int64(popcount(ones & signs[word, channel]))
        out[row] = 0
        for channel in range(n_channels):
            bit = np.uint64((2 * counts[channel] - n_ones >= thresholds[channel]) != flipped[channel])
            out[row, channel >> 6] |= bit << np.uint64(channel & 63)


@njit(cache=True)
def fill_scaled_signs(weight, scale, out):
    """``out = scale`` where ``weight`` (rows, columns) is above 0, else ``-scale``."""
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            out[row, column] = scale if weight[row, column] > 0 else -scale


@njit(cache=True)
def pass_straight_through(weight, scale, grad):
    """Multiply ``grad`` (rows, columns) in place by ``scale`` where ``weight`` is in [-1, 1], by 0 elsewhere."""
    one = np.float32(1)
    zero = np.float32(0)
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            grad[row, column] *= scale if abs(weight[row, column]) <= one else zero


@njit(parallel=True, cache=True)
def multiply_bits(bits, weights, scale, bias, out):
    """``out = scale * ({0, 1} @ {-1, +1}) + bias`` from packed operands.

    ``bits`` is (rows, words), ``weights`` (words, channels): a set bit is +1. With x the bits of a row and w those
    of a channel, the product is 2 * popcount(w & x) - popcount(x).
    """
    n_rows, n_words = bits.shape
    n_channels = weights.shape[1]
    for block in prange((n_rows + _BLOCK_ROWS - 1) // _BLOCK_ROWS):
        counts = np.empty(n_channels, np.int64)
        for row in range(block * _BLOCK_ROWS, min((block + 1) * _BLOCK_ROWS, n_rows)):
            counts[:] = 0
            n_ones = np.int64(0)
            for word in range(n_words):
                ones = bits[row, word]
                n_ones += np.int64(popcount(ones))
                for channel in range(n_channels):
                    counts[channel] += np.int64(popcount(ones & weights[word, channel]))
            for channel in range(n_channels):
                out[row, channel] = np.float32(2 * counts[channel] - n_ones) * scale + bias[channel]


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


@njit
def or_shifted(source, start, step, left, right, target, place, n):
    """Shift every ``step``-th word and or it into its place. A step of 1 has a loop of its own, which vectorizes."""
    if step == _ONE:
        for column in range(n):
            target[place + column] |= source[start + column] << left >> right
    else:
        for column in range(n):
            target[place + column] |= source[start + column * step] << left >> right


@njit
def _merge_columns(bits, n_channels, width, stride, padding, image, top, merged):
    """Bits of ``width`` neighbouring columns side by side: a window's row, without gaps, once for all rows it serves.

    ``bits`` is (n, height, columns, words), ``merged`` (rows from ``top`` on, words of a window's row, columns'). Rows
    and columns beyond the edge are 0.
    """
    n_rows, n_words, n_columns = merged.shape
    _, height, old_width, old_words = bits.shape
    source, target = bits.view(np.uint64).reshape(-1), merged.reshape(-1)
    target[:] = 0
    step = np.uint64(stride * old_words)
    for row in range(max(0, -top), min(n_rows, height - top)):
        for tap in range(width):
            first = max(0, -((tap - padding) // stride))
            last = min(n_columns, (old_width - 1 + padding - tap) // stride + 1)
            n = np.uint64(max(0, last - first))
            left = ((image * height + top + row) * old_width + first * stride - padding + tap) * old_words
            for word in range(old_words):
                bit = tap * n_channels + 64 * word
                start, shift = np.uint64(left + word), np.uint64(bit & 63)
                place = np.uint64((row * n_words + (bit >> 6)) * n_columns + first)
                or_shifted(source, start, step, shift, _ZERO, target, place, n)
                if shift and (bit >> 6) + 1 < n_words:
                    place += np.uint64(n_columns)
                    or_shifted(source, start, step, _ZERO, np.uint64(64) - shift, target, place, n)


@njit
def by_lanes(signs):
    """Signs (rows, words, channels) as (groups of channels, rows * words, lanes), and the ones of each channel."""
    n_rows, n_words, n_channels = signs.shape
    n_groups = -(-n_channels // LANES)
    weights = np.zeros((n_groups, n_rows * n_words, LANES), np.uint64)
    n_ones = np.zeros(n_groups * LANES, np.int64)
    for group in range(n_groups):
        first = group * LANES
        for row in range(n_rows):
            for word in range(n_words):
                for lane in range(min(LANES, n_channels - first)):
                    ones = np.uint64(signs[row, word, first + lane])
                    weights[group, row * n_words + word, lane] = ones
                    n_ones[first + lane] += np.int64(popcount(ones))
    return weights, n_ones


@njit
def most_differing(n_ones, thresholds):
    """The most bits that differ where ``ones - differing >= threshold``; lanes of no channel have more."""
    bounds = np.full(len(n_ones), -1, np.int64)
    for channel in range(len(thresholds)):
        bounds[channel] = n_ones[channel] - thresholds[channel]
    return bounds


@njit
def convolve_block(task, n_rows, bits, n_channels, geometry, weights, levels, flipped, factor, out):
    """What `convolve` does, for some rows of one image.

    Indices are unsigned and arrays flat: wrapping indices and counting references to slices took longer than the work.
    """
    kernel, stride, padding = geometry[:2], geometry[2:4], geometry[4:]
    n_groups, n_words, _ = weights.shape
    n_blocks = -(-out.shape[1] // n_rows)
    image, first = task // n_blocks, task % n_blocks * n_rows
    n_rows = min(n_rows, out.shape[1] - first)
    merged = np.empty(((n_rows - 1) * stride[0] + kernel[0], n_words // kernel[0], out.shape[2]), np.uint64)
    _merge_columns(bits, n_channels, kernel[1], stride[1], padding[1], image, first * stride[0] - padding[0], merged)
    windows, weights, results = merged.reshape(-1), weights.reshape(-1), out.reshape(-1)
    n_columns, step = np.uint64(out.shape[2]), np.uint64(out.shape[3])
    for row in range(n_rows):
        corner = np.uint64(row * stride[0] * merged.shape[1]) * n_columns
        place = np.uint64(image * out.shape[1] + first + row) * n_columns * step
        if flipped is not None:
            for column in range(n_columns):
                for word in range(step):
                    results[place + column * step + word] = flipped[word]
        for group in range(np.uint64(n_groups)):
            channel = group * np.uint64(LANES)
            weight = channel * np.uint64(n_words)
            for column in range(n_columns):
                left = load(levels, channel)
                for word in range(np.uint64(n_words)):
                    ones = windows[corner + word * n_columns + column]
                    left = subtract_differing(left, ones, weights, weight + word * np.uint64(LANES))
                if flipped is None:
                    store(results, place + column * step + channel, scaled(left, factor))
                else:
                    found = np.int64(not_negative(left) << (channel & np.uint64(63)))
                    results[place + column * step + (channel >> np.uint64(6))] ^= found


@njit(parallel=True, cache=True)
def convolve(bits, n_channels, geometry, signs, thresholds, flipped, factor, out):
    """Bits ``(product >= thresholds) != flipped`` of packed operands; without these two ``factor * product``.

    Words are int64. ``bits`` is (n, height, width, words) of ``n_channels``, ``geometry`` kernel, stride and padding
    in one tuple, ``signs`` (rows of a window, words of such a row, channels): a set bit is +1; int64 ``thresholds``;
    ``flipped`` a word for 64 channels. ``out`` is (n, height', width', words), or floats (n, height', width', channels
    rounded up to a multiple of 16). With x the bits of a window and w those of a channel, the product is
    2 * popcount(w & x) - popcount(x) = popcount(w) - popcount(w ^ x), which wants no count of x.
    """
    weights, levels = by_lanes(signs)
    if thresholds is not None:
        levels = most_differing(levels, thresholds)
    work = max(1, weights.size * out.shape[2])  # of a row
    n_rows = min(out.shape[1], max(1, _BLOCK // work))
    n_tasks = len(out) * -(-out.shape[1] // n_rows)
    if len(out) * out.shape[1] * work < _SMALL:
        for task in range(n_tasks):
            convolve_block(task, n_rows, bits, n_channels, geometry, weights, levels, flipped, factor, out)
    else:
        for task in prange(n_tasks):
            convolve_block(np.int64(task), n_rows, bits, n_channels, geometry, weights, levels, flipped, factor, out)


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
