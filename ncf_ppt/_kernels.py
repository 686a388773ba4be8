"""Every Numba kernel of the package: private, unchecked, arrays in and results in ``out``.

Mixing int64 and uint64 gives float64 in Numba, hence the casts. Randomness is a hash of (key, counter), so a
result depends neither on the number of threads nor on the order of the calls.
"""

import numpy as np
from numba import njit, prange

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@njit(inline="always")
def mix(value):
    """SplitMix64's output function: a bijection of 64-bit words (Steele, Lea, Flood 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(inline="always")
def random_word(key, counter):
    """Word number ``counter`` of the stream ``key``: SplitMix64 addressed at any position."""
    return mix(key + (counter + np.uint64(1)) * _GOLDEN)


@njit(inline="always")
def below(word, n):
    """Map a 64-bit word to 0 .. n - 1, n < 2**31, by multiply-shift on its upper half (Lemire 2019).

    The probability of a value is off by at most 2**-32, which no test of a catalogue's size could see.
    """
    return np.int64(((word >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@njit(inline="always")
def permute(index, n, bits, keys):
    """Image of ``index`` under a keyed permutation of 0 .. n - 1, where n <= 2**bits and bits >= 2.

    A Feistel network of six rounds, its halves swapped between bits // 2 and the rest, permutes 0 .. 2**bits - 1
    (Luby, Rackoff 1988); an image outside the range is permuted again until it falls inside (cycle walking:
    Black, Rogaway 2002), twice at most on average. ``keys`` holds one 64-bit word for each round.
    """
    small = bits >> np.uint64(1)
    large = bits - small
    value = np.uint64(index)
    while True:
        for pair in range(3):
            # The low `large` bits choose what is added to the high `small` bits, and the other way round.
            low = value & ((np.uint64(1) << large) - np.uint64(1))
            value ^= (_round(low, keys[2 * pair]) >> (np.uint64(64) - small)) << large
            high = value >> large
            value ^= _round(high, keys[2 * pair + 1]) >> (np.uint64(64) - large)
        if value < np.uint64(n):
            return np.int64(value)


@njit(inline="always")
def _round(half, key):
    word = (half ^ key) * np.uint64(0xBF58476D1CE4E5B9)
    return (word ^ (word >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)


@njit(inline="always")
def free_item(items, first, degree, rank):
    """Item number ``rank`` (from 0) among those that are not in ``items[first:first + degree]`` (ascending).

    The j-th taken item has items[j] - j free items below it, a non-decreasing sequence, so one binary search
    counts the taken items below the answer. It halves a length instead of moving two ends: without a branch to
    mispredict it took half the time.
    """
    below_answer = np.int64(0)
    length = degree
    while length > 0:
        half = (length + 1) >> 1
        probe = below_answer + half - 1
        below_answer = probe + 1 if items[first + probe] - probe <= rank else below_answer
        length -= half
    return rank + below_answer


@njit(parallel=True)
def fill_samples(
    offsets, items, positive_users, n_items, n_negatives, shuffle_keys, draw_key, bits, start,
    out_users, out_items, out_labels,
):  # fmt: skip
    """Samples ``start ..`` of one shuffled epoch of (1 + n_negatives) samples for each positive."""
    group = n_negatives + 1
    n_samples = len(items) * group
    for row in prange(len(out_users)):
        sample = permute(start + row, n_samples, bits, shuffle_keys)
        positive = sample // group
        user = positive_users[positive]
        out_users[row] = user
        if sample % group == 0:
            out_items[row] = items[positive]
            out_labels[row] = 1.0
        else:
            first = offsets[user]
            degree = offsets[user + 1] - first
            rank = below(random_word(draw_key, np.uint64(sample)), n_items - degree)
            out_items[row] = free_item(items, first, degree, rank)
            out_labels[row] = 0.0


@njit(parallel=True)
def fill_negatives_with_replacement(offsets, items, n_items, key, out):
    """Independent uniform draws for each user from the items the user has not taken."""
    n_draws = out.shape[1]
    for user in prange(out.shape[0]):
        first = offsets[user]
        degree = offsets[user + 1] - first
        for draw in range(n_draws):
            rank = below(random_word(key, np.uint64(user * n_draws + draw)), n_items - degree)
            out[user, draw] = free_item(items, first, degree, rank)
        out[user].sort()


@njit(parallel=True)
def fill_distinct_negatives(offsets, items, n_items, key, out):
    """Distinct draws for each user: the first ranks of a keyed permutation of the free items."""
    n_draws = out.shape[1]
    for user in prange(out.shape[0]):
        first = offsets[user]
        degree = offsets[user + 1] - first
        n_free = n_items - degree
        bits = np.uint64(2)
        while (np.int64(1) << np.int64(bits)) < n_free:
            bits += np.uint64(1)
        keys = np.empty(6, np.uint64)
        for number in range(6):
            keys[number] = random_word(key, np.uint64(user * 6 + number))
        for draw in range(n_draws):
            rank = permute(draw, n_free, bits, keys)
            out[user, draw] = free_item(items, first, degree, rank)
        out[user].sort()


@njit(parallel=True)
def count_above_and_equal(scores, candidates, positives, above, equal):
    """For each row, count the distinct negatives that score above the positive, and those that score equal.

    ``candidates`` rows ascend, so repetitions are neighbours and count once; a negative that is the positive
    itself does not count. ``scores`` is (rows, 1 + n_negatives), the positive first.
    """
    for row in prange(scores.shape[0]):
        positive_score = scores[row, 0]
        n_above = 0
        n_equal = 0
        previous = np.int64(-1)
        for column in range(candidates.shape[1]):
            item = np.int64(candidates[row, column])
            if item != previous and item != positives[row]:
                score = scores[row, column + 1]
                if score > positive_score:
                    n_above += 1
                elif score == positive_score:
                    n_equal += 1
            previous = item
        above[row] = n_above
        equal[row] = n_equal
