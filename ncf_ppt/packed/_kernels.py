"""The kernels that score pairs by a packed network: private, unchecked, arrays in and results in ``out``.

Pairs go through the network in blocks of 512 whose bits are *sliced*: a row of 8 words holds one channel's bit of each
pair of the block (bit b of word w: pair 64 w + b). A product with signs is then a count of ones down the rows, and one
vector instruction counts for 512 pairs. Counts are sliced too: plane p holds bit p of each pair's count. Pair after
pair, with popcounts of words, the network of MLPerf took 83 ns a pair on one thread with AVX-512 and VPOPCNTDQ; so it
takes 36. And this needs and, or, xor alone, which every machine has.

A score is a function of its pair alone: neither threads nor blocks nor the other pairs change a bit of it.

The vector instructions stand in this file, too: Numba compiles a cached kernel again when its own file changes, and not
when a file that it calls into does.
"""
# Numba's decorators carry no types, and annotations would not reach the compiled code.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

BLOCK = 512
ROW = BLOCK // 64  # words
LEVELS = 6
STEP = 1 << LEVELS  # rows that are counted at a time
MAX_PLANES = 16
ODD, FLIP, CONSTANTS = MAX_PLANES, MAX_PLANES + 1, MAX_PLANES + 2  # columns of a channel's constants

_USERS_PER_TASK = 128  # they share a tile while it is in the second-level cache
_GATHERED = BLOCK + 16  # length of a row of gathered values: with 512, every row would meet in one set of the cache

_I32, _I64, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_ROW_TYPE = ir.VectorType(_I64, ROW)


# The vector instructions that Numba has no names for, as LLVM's portable ones.


def _addresses(context, builder, signature, arguments):
    """The arguments of an intrinsic, arrays (contiguous ones) as the addresses of their data."""
    return [
        context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, arguments, strict=True)
    ]


def _load(builder, data, index, kind, align):
    value = builder.load(builder.bitcast(builder.gep(data, [index]), kind.as_pointer()))
    value.align = align
    return value


def _store(builder, value, data, index, align):
    builder.store(value, builder.bitcast(builder.gep(data, [index]), value.type.as_pointer())).align = align


def _splat(builder, value, count):
    vector = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    zeros = ir.Constant(ir.VectorType(_I32, count), [0] * count)
    return builder.shuffle_vector(builder.insert_element(vector, value, _I32(0)), vector, zeros)


def _has(context, feature):
    """Whether code is compiled for a processor with this feature, by LLVM's name of it."""
    return f"+{feature}" in context.codegen().magic_tuple()[2].split(",")


def _call(builder, name, kind, *operands):
    signature = ir.FunctionType(kind, [operand.type for operand in operands])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), operands)


def _table(context, builder, function, operands):
    """Apply a function of three bits to three rows in one AVX-512 instruction; None where there is none.

    LLVM 22 does not find that instruction for a majority, and a full adder would take three instead of two.
    """
    if not _has(context, "avx512f"):
        return None
    values = sum(function(index >> 2, index >> 1 & 1, index & 1) << index for index in range(8))
    return _call(builder, "llvm.x86.avx512.pternlog.q.512", _ROW_TYPE, *operands, _I32(values))


def _multiply_add(builder, x, y, z):
    """``x * y + z`` rounded once, on every processor (where there is no such instruction, slowly)."""
    return _call(builder, f"llvm.fma.v{x.type.count}f32", x.type, x, y, z)


def _parity(context, builder, a, b, c):
    in_one = _table(context, builder, lambda a, b, c: a ^ b ^ c, (a, b, c))
    return builder.xor(builder.xor(a, b), c) if in_one is None else in_one


def _majority(context, builder, a, b, c):
    in_one = _table(context, builder, lambda a, b, c: int(a + b + c >= 2), (a, b, c))
    return builder.xor(a, builder.and_(builder.xor(a, b), builder.xor(a, c))) if in_one is None else in_one


@intrinsic
def _count_ones(typing_context, x, rows, first, last, initial, initial_index, n_planes, out):
    """Planes ``out`` of the number of ones in the rows of ``x`` that ``rows[first:last]`` name, plus a constant.

    ``rows`` holds word numbers, a multiple of `STEP` of them. Plane p of the constant is the word
    ``initial[initial_index + p]``, repeated. There are at least `LEVELS` planes.

    A full adder turns three bits of one weight into one of that weight and one of twice the weight (carry-save
    addition: Warren 2013, Hacker's Delight, section 5-1; Muła, Kurz and Lemire 2018).
    """

    def generate(context, builder, signature, arguments):
        x, rows, first, last, initial, initial_index, n_planes, out = _addresses(context, builder, signature, arguments)

        def constant(plane):
            return _splat(builder, builder.load(builder.gep(initial, [builder.add(initial_index, plane)])), ROW)

        def word_of(plane):
            return builder.mul(plane, _I64(ROW))

        low_planes = [cgutils.alloca_once_value(builder, constant(_I64(level))) for level in range(LEVELS)]
        with cgutils.for_range(builder, n_planes, start=_I64(LEVELS)) as loop:
            _store(builder, constant(loop.index), out, word_of(loop.index), 8)
        with cgutils.for_range_slice(builder, first, last, _I64(STEP)) as (position, _):
            entries = builder.gep(rows, [position])
            numbers = iter(range(STEP))

            def add_rows(level):
                """Add 2**level rows to the planes below ``level``; return what carries out of them."""
                if level == 0:
                    row = builder.load(builder.gep(entries, [_I64(next(numbers))]))
                    return _load(builder, x, builder.zext(row, _I64), _ROW_TYPE, 64)
                operands = builder.load(low_planes[level - 1]), add_rows(level - 1), add_rows(level - 1)
                builder.store(_parity(context, builder, *operands), low_planes[level - 1])
                return _majority(context, builder, *operands)

            carry = cgutils.alloca_once(builder, _ROW_TYPE)
            builder.store(add_rows(LEVELS), carry)
            with cgutils.for_range(builder, n_planes, start=_I64(LEVELS)) as loop:
                plane, carried = _load(builder, out, word_of(loop.index), _ROW_TYPE, 8), builder.load(carry)
                _store(builder, builder.xor(plane, carried), out, word_of(loop.index), 8)
                builder.store(builder.and_(plane, carried), carry)
        for level, plane in enumerate(low_planes):
            _store(builder, builder.load(plane), out, word_of(_I64(level)), 8)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(x, rows, i64, i64, initial, i64, i64, out), generate


@intrinsic
def _compare_counts(typing_context, a, b, n_planes, odd, flip, out, out_index):
    """Row ``out[out_index:]`` of the bits ``2 a + odd >= b``, those of ``flip`` inverted.

    ``a`` has ``n_planes`` planes and ``b`` one more; ``odd`` and ``flip`` are all zeros or all ones.
    """

    def generate(context, builder, signature, arguments):
        a, b, n_planes, odd, flip, out, out_index = _addresses(context, builder, signature, arguments)
        ones = ir.Constant(_ROW_TYPE, [-1] * ROW)

        def inverted(plane):
            return builder.xor(_load(builder, b, builder.mul(plane, _I64(ROW)), _ROW_TYPE, 8), ones)

        # The carry out of 2 a + odd + ~b + 1.
        carry = cgutils.alloca_once_value(builder, builder.or_(inverted(_I64(0)), _splat(builder, odd, ROW)))
        with cgutils.for_range(builder, n_planes) as loop:
            plane = _load(builder, a, builder.mul(loop.index, _I64(ROW)), _ROW_TYPE, 8)
            other = inverted(builder.add(loop.index, _I64(1)))
            builder.store(_majority(context, builder, plane, other, builder.load(carry)), carry)
        _store(builder, builder.xor(builder.load(carry), _splat(builder, flip, ROW)), out, out_index, 64)
        return context.get_dummy_value()

    i64, u64 = types.int64, types.uint64
    return types.void(a, b, i64, u64, u64, out, i64), generate


@intrinsic
def _compare_values(typing_context, values, index, threshold, out, out_index):
    """Row ``out[out_index:]`` of the bits ``values[index:index + BLOCK] >= threshold``, float or unsigned."""
    width = values.dtype.bitwidth
    lanes = BLOCK // width  # their bits are stored as they come; gathering words of 64 first took twice the time

    def generate(context, builder, signature, arguments):
        values, index, threshold, out, out_index = _addresses(context, builder, signature, arguments)
        target = builder.bitcast(builder.gep(out, [out_index]), ir.IntType(lanes).as_pointer())
        thresholds = _splat(builder, threshold, lanes)
        compare = builder.fcmp_ordered if threshold.type == _FLOAT else builder.icmp_unsigned
        for part in range(width):
            row = _load(builder, values, builder.add(index, _I64(lanes * part)), thresholds.type, width // 8)
            bits = builder.bitcast(compare(">=", row, thresholds), ir.IntType(lanes))
            builder.store(bits, builder.gep(target, [_I64(part)]))
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(values, i64, values.dtype, out, i64), generate


@intrinsic
def _weigh_rows(typing_context, values, index, stride, weights, weights_index, n_rows, bias, out):
    """``out[:BLOCK]``: bias plus rows ``values[index + row * stride:]``, each times its weight, in order."""
    vector = ir.VectorType(_FLOAT, 128)

    def generate(context, builder, signature, arguments):
        values, index, stride, weights, weights_index, n_rows, bias, out = _addresses(
            context, builder, signature, arguments
        )
        weights = builder.gep(weights, [weights_index])
        for first in range(0, BLOCK, vector.count):
            total = cgutils.alloca_once_value(builder, _splat(builder, bias, vector.count))
            with cgutils.for_range(builder, n_rows) as loop:
                position = builder.add(builder.add(index, _I64(first)), builder.mul(loop.index, stride))
                row = _load(builder, values, position, vector, 4)
                weight = _splat(builder, builder.load(builder.gep(weights, [loop.index])), vector.count)
                builder.store(_multiply_add(builder, row, weight, builder.load(total)), total)
            _store(builder, builder.load(total), out, _I64(first), 4)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(values, i64, i64, weights, i64, i64, types.float32, out), generate


def _octets(context, builder, planes, index):
    """Yield the numbers that 8 planes from ``planes[index:]`` hold, 16 floats at a time, and the pair of the first."""
    octets, floats = ir.VectorType(ir.IntType(8), 64), ir.VectorType(_FLOAT, 16)
    rows = [_load(builder, planes, builder.add(index, _I64(plane * ROW)), _ROW_TYPE, 64) for plane in range(8)]
    if _has(context, "gfni") and _has(context, "avx512bw"):
        vectors, stride = _transpose_octets(builder, [builder.bitcast(row, octets) for row in rows]), (16, 128)
    else:
        vectors, stride = [], (64, 16)
        for word in range(ROW):
            number = ir.Constant(octets, [0] * 64)
            for plane in range(8):
                bits = builder.bitcast(
                    builder.extract_element(rows[plane], _I32(word)), ir.VectorType(ir.IntType(1), 64)
                )
                larger = builder.add(number, ir.Constant(octets, [-128 if plane == 7 else 1 << plane] * 64))
                number = builder.select(bits, larger, number)
            vectors.append(number)
    for place, vector in enumerate(vectors):
        for quarter in range(4):
            part = ir.Constant(ir.VectorType(_I32, 16), list(range(16 * quarter, 16 * quarter + 16)))
            part = builder.shuffle_vector(vector, vector, part)
            number = builder.sitofp(builder.zext(part, ir.VectorType(_I32, 16)), floats)
            yield number, place * stride[0] + quarter * stride[1]


def _transpose_octets(builder, rows):
    """Turn 8 planes into vectors of octets by AVX-512 and GFNI; a quarter of octets belongs to 16 neighbouring pairs.

    Bytes of the planes are brought together, plane 7 first, and each eight by eight bits are transposed.
    """

    def interleave(x, y, half):
        order = [
            16 * lane + 8 * half + place + 64 * side for lane in range(4) for place in range(8) for side in range(2)
        ]
        return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, 64), order))

    vectors = [[plane] for plane in reversed(rows)]
    while len(vectors) > 1:
        half = len(vectors) // 2
        vectors = [
            [interleave(x, y, side) for x, y in zip(*pair, strict=True) for side in range(2)]
            for pair in zip(vectors[:half], vectors[half:], strict=True)
        ]
    unit = ir.Constant(rows[0].type, [1, 2, 4, 8, 16, 32, 64, -128] * 8)
    return [
        _call(builder, "llvm.x86.vgf2p8affineqb.512", vector.type, unit, vector, ir.Constant(ir.IntType(8), 0))
        for vector in vectors[0]
    ]


@intrinsic
def _to_floats(typing_context, planes, index, scale, out):
    """``out[:BLOCK]``: the numbers in 8 planes from ``planes[index:]``, times ``scale``."""

    def generate(context, builder, signature, arguments):
        planes, index, scale, out = _addresses(context, builder, signature, arguments)
        factor = _splat(builder, scale, 16)
        for number, first in _octets(context, builder, planes, index):
            _store(builder, builder.fmul(number, factor), out, _I64(first), 4)
        return context.get_dummy_value()

    return types.void(planes, types.int64, types.float32, out), generate


@intrinsic
def _add_unit(typing_context, planes, index, halves, gain, offset, sign, out):
    """Add to ``out[:BLOCK]`` a hidden unit, ``sign * max(gain * (n - half) + offset, 0)``.

    n is what 8 planes from ``planes[index:]`` hold.
    """

    def generate(context, builder, signature, arguments):
        planes, index, halves, gain, offset, sign, out = _addresses(context, builder, signature, arguments)
        gain, offset, sign = (_splat(builder, value, 16) for value in (gain, offset, sign))
        zero = ir.Constant(gain.type, [0.0] * 16)
        for number, first in _octets(context, builder, planes, index):
            half, total = (_load(builder, row, _I64(first), gain.type, 4) for row in (halves, out))
            unit = _multiply_add(builder, builder.fsub(number, half), gain, offset)
            unit = builder.select(builder.fcmp_ordered(">", zero, unit), zero, unit)  # NaN stays
            _store(builder, _multiply_add(builder, unit, sign, total), out, _I64(first), 4)
        return context.get_dummy_value()

    i64, f32 = types.int64, types.float32
    return types.void(planes, i64, halves, f32, f32, f32, out), generate


@njit(inline="always")
def _aligned(n_words):
    """Scratch whose rows are cache lines."""
    memory = np.empty(n_words + ROW, np.uint64)
    skipped = np.int64((np.uint64(64) - np.uint64(memory.ctypes.data) % np.uint64(64)) % np.uint64(64)) >> 3
    return memory[skipped : skipped + n_words]


@njit
def _hidden_layer(x, layer, rows, starts, constants, planes, ones, y):
    """Bits ``y`` of a hidden layer of the bits ``x``, both sliced; a row of zeros is put behind them.

    ``layer`` is (channels in, channels out, number of the first counter, planes). The first counter counts all rows.
    """
    n_outputs, first, n_planes = layer[1], layer[2], layer[3]
    for counter in range(first, first + n_outputs + 1):
        at = counter * CONSTANTS
        is_first = counter == first
        out = ones if is_first else planes
        _count_ones(x, rows, starts[counter], starts[counter + 1], constants, at, n_planes + np.int64(is_first), out)
        if not is_first:
            row = (counter - first - 1) * ROW
            _compare_counts(planes, ones, n_planes, constants[at + ODD], constants[at + FLIP], y, row)
    y[n_outputs * ROW : (n_outputs + 1) * ROW] = 0


@njit
def _add_last_layer(x, layer, rows, starts, constants, lines, planes, halves, others, out):
    """Add to ``out`` what the last 1-bit layer of the sliced bits ``x``, ReLU and the last layer make of them.

    ``lines`` (units, 3) holds gain and offset, times the size of the unit's weight in the last layer, and its sign.
    """
    n_units, first, n_planes = layer[1], layer[2], layer[3]
    for counter in range(first, first + n_units + 1):
        start, stop = starts[counter], starts[counter + 1]
        if counter == first:
            _count_ones(x, rows, start, stop, constants, counter * CONSTANTS, 16, planes)
            _to_floats(planes, 0, np.float32(0.5), halves)
            _to_floats(planes, 8 * ROW, np.float32(128), others)
            for pair in range(BLOCK):
                halves[pair] += others[pair]
        else:
            _count_ones(x, rows, start, stop, constants, counter * CONSTANTS, n_planes, planes)
            gain, offset, sign = lines[counter - first - 1]
            if n_planes == 8:
                _add_unit(planes, 0, halves, gain, offset, sign, out)
            else:
                _to_floats(planes, 8 * ROW, np.float32(256), others)
                for pair in range(BLOCK):
                    others[pair] = halves[pair] - others[pair]
                _add_unit(planes, 0, others, gain, offset, sign, out)


@njit
def _scratch(layers):
    """Two sets of sliced bits, planes of a channel and of all rows, two numbers for each pair."""
    n_bits = np.max(layers[:, :2]) + 1
    return (
        _aligned(n_bits * ROW), _aligned(n_bits * ROW), _aligned(MAX_PLANES * ROW), _aligned(MAX_PLANES * ROW),
        _aligned(BLOCK // 2).view(np.float32), _aligned(BLOCK // 2).view(np.float32),
    )  # fmt: skip


@njit
def _copy_bits(x, n_channels, n_pairs, out, column):
    """Unslice: ``out[pair, column + channel]`` is 0 or 1."""
    for channel in range(n_channels):
        for pair in range(n_pairs):
            word = x[channel * ROW + (pair >> 6)]
            out[pair, column + channel] = np.uint8((word >> np.uint64(pair & 63)) & np.uint64(1))


@njit
def _transpose_bits(words):
    """Exchange bit b of word w with bit w of word b, of 64 words (Warren 2012, Hacker's Delight, 7-3)."""
    width = np.uint64(32)
    mask = np.uint64(0xFFFFFFFF)
    while width:
        n = np.int64(width)
        for start in range(0, 64, 2 * n):
            for word in range(start, start + n):
                change = ((words[word] >> width) ^ words[word + n]) & mask
                words[word] ^= change << width
                words[word + n] ^= change
        width >>= np.uint64(1)
        mask ^= mask << width


@njit
def _gather(items, first, n_pairs, values, thresholds, factors, n_factors, out_bits, out_factors):
    """The first layer's bits of up to BLOCK items, sliced, and ``out_factors[factor * _GATHERED + pair]``.

    They are the items from number ``first`` on, of which each user has ``n_pairs``. The bits of a pair are made side by
    side and then turned over, 64 pairs at a time: one by one they took three times as long.
    """
    n_channels = thresholds.shape[1]
    n_whole = n_channels // 64
    words = np.zeros((n_whole + 1, 64), np.uint64)
    for row in range((len(items) + 63) // 64):
        pairs = items[64 * row : 64 * row + 64]
        for place in range(len(pairs)):
            start = np.int64(pairs[place]) * n_channels
            user = (first + 64 * row + place) // n_pairs
            for word in range(n_whole):
                own = values[start + 64 * word : start + 64 * word + 64]
                limits = thresholds[user, 64 * word : 64 * word + 64]
                bits = np.uint64(0)
                for channel in range(64):  # a fixed number, or LLVM does not vectorize
                    bits |= np.uint64(own[channel] >= limits[channel]) << np.uint64(channel)
                words[word, place] = bits
            bits = np.uint64(0)
            for channel in range(64 * n_whole, n_channels):
                bits |= np.uint64(values[start + channel] >= thresholds[user, channel]) << np.uint64(channel & 63)
            words[n_whole, place] = bits
        for word in range(n_whole + 1):
            _transpose_bits(words[word])
            for channel in range(64 * word, min(64 * word + 64, n_channels)):
                out_bits[channel * ROW + row] = words[word, channel & 63]
        for part in range(0, len(pairs), 16):  # a line of the cache
            for factor in range(n_factors):
                for place in range(part, min(part + 16, len(pairs))):
                    value = factors[np.int64(pairs[place]) * n_factors + factor]
                    out_factors[factor * _GATHERED + 64 * row + place] = value


@njit
def _finish_block(scratch, n_pairs, layers, rows, starts, constants, lines, out_bits, out):
    """Add to ``out[:BLOCK]``, the products of a block of pairs, what the hidden layers make of the bits in ``scratch``.

    If ``out_bits`` has columns, they receive the bits of every 1-bit activation, layer after layer.
    """
    x, y, planes, ones, halves, others = scratch
    n_channels = layers[0, 0]
    x[n_channels * ROW : (n_channels + 1) * ROW] = 0
    column = 0
    for number in range(len(layers)):
        if out_bits.shape[1]:
            _copy_bits(x, layers[number, 0], n_pairs, out_bits, column)
            column += layers[number, 0]
        if number < len(layers) - 1:
            _hidden_layer(x, layers[number], rows, starts, constants, planes, ones, y)
            x, y = y, x
    _add_last_layer(x, layers[-1], rows, starts, constants, lines, planes, halves, others, out)


@njit(parallel=True, nogil=True, cache=True)
def score_pairs(
    candidates, values, thresholds, ranks, rank_thresholds, items_per_section, factors, weights,
    layers, rows, starts, constants, lines, bias, out_bits, out,
):  # fmt: skip
    """Logits ``out`` (users, m) of the items ``candidates`` (users, m) of each user, or of all items.

    Of the users are ``thresholds`` (users, channels) and ``weights`` (users, factors); of the items, flattened,
    ``values`` (items, channels) and ``factors`` (items, factors). For all items, where ``candidates`` is (0, 0),
    ``ranks`` (tiles, channels, BLOCK) and ``rank_thresholds`` (users, sections, channels) stand for values and
    thresholds, and ``factors`` are flattened tiles (tiles, factors, BLOCK). ``out_bits`` is (users, m, bits), see
    `_finish_block`, or (0, 0, 0). One kernel for both, since compiling it takes seconds.

    A block of candidates is filled by as many users as it takes: of one user's 48 it would be a tenth full.
    """
    n_users, n_pairs = out.shape
    n_channels, n_factors = layers[0, 0], weights.shape[1]
    must_gather = len(candidates) > 0
    flat_candidates, flat_ranks, flat_weights = candidates.reshape(-1), ranks.reshape(-1), weights.reshape(-1)
    flat_out, flat_bits = out.reshape(-1), out_bits.reshape(len(out_bits) * out_bits.shape[1], out_bits.shape[2])
    if must_gather:
        n_blocks = (n_users * n_pairs + BLOCK - 1) // BLOCK
        n_tasks = n_blocks
    else:
        n_blocks = (n_pairs + BLOCK - 1) // BLOCK
        n_tasks = n_blocks * ((n_users + _USERS_PER_TASK - 1) // _USERS_PER_TASK)
    for task in prange(n_tasks):
        scratch = _scratch(layers)
        x = scratch[0]
        scores = _aligned(BLOCK // 2).view(np.float32)
        bits = np.empty((0, 0), np.uint8)
        first = task % n_blocks * BLOCK
        if must_gather:
            last = min(first + BLOCK, n_users * n_pairs)
            gathered = np.empty(n_factors * _GATHERED, np.float32)
            _gather(
                flat_candidates[first:last], first, n_pairs, values, thresholds, factors, n_factors, x, gathered
            )  # fmt: skip
            products = _aligned(BLOCK // 2).view(np.float32)
            for user in range(first // n_pairs, (last - 1) // n_pairs + 1):
                own = slice(max(user * n_pairs, first) - first, min((user + 1) * n_pairs, last) - first)
                _weigh_rows(gathered, 0, _GATHERED, flat_weights, user * n_factors, n_factors, bias, products)
                scores[own] = products[own]
            if flat_bits.shape[1]:
                bits = flat_bits[first:last]
            _finish_block(scratch, last - first, layers, rows, starts, constants, lines, bits, scores)
            flat_out[first:last] = scores[: last - first]
        else:
            last = min(first + BLOCK, n_pairs)
            block = task % n_blocks
            section = first // items_per_section
            first_user = task // n_blocks * _USERS_PER_TASK
            for user in range(first_user, min(first_user + _USERS_PER_TASK, n_users)):
                for channel in range(n_channels):
                    position = (block * n_channels + channel) * BLOCK
                    _compare_values(flat_ranks, position, rank_thresholds[user, section, channel], x, channel * ROW)
                _weigh_rows(
                    factors, block * n_factors * BLOCK, BLOCK, flat_weights, user * n_factors, n_factors, bias, scores
                )  # fmt: skip
                if flat_bits.shape[1]:
                    bits = out_bits[user, first:last]
                _finish_block(scratch, last - first, layers, rows, starts, constants, lines, bits, scores)
                out[user, first:last] = scores[: last - first]


@njit(parallel=True, nogil=True, cache=True)
def fill_layer_bits(x, layers, number, rows, starts, constants, out):
    """Bits ``out`` (n, channels out) of hidden layer ``number`` for bits ``x`` (n, channels in), a byte each."""
    n_inputs = layers[number, 0]
    for block in prange((len(x) + BLOCK - 1) // BLOCK):
        first = block * BLOCK
        last = min(first + BLOCK, len(x))
        sliced, y, planes, ones, _, _ = _scratch(layers)
        sliced[: (n_inputs + 1) * ROW] = 0
        for pair in range(last - first):
            for channel in range(n_inputs):
                bit = np.uint64(x[first + pair, channel]) << np.uint64(pair & 63)
                sliced[channel * ROW + (pair >> 6)] |= bit
        _hidden_layer(sliced, layers[number], rows, starts, constants, planes, ones, y)
        _copy_bits(y, layers[number, 1], last - first, out[first:last], 0)
