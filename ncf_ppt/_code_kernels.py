"""Kernels of a search among codes of bits: private, unchecked, arrays in and results in ``out``.

Items come in descending order of their scales and in blocks. A block is counted as a whole: one word of a user against
the same word of many items is a loop that becomes vector instructions, with those that count ones where a processor has
them and by tables of half bytes elsewhere. The best count of a block, times its largest scale, bounds the scores of its
items, so that most blocks are done with then; and where the largest scale at no distance is not enough, all later ones
are. Rounding never turns an order round, so bounds that are rounded as scores are stay bounds.
"""
# Numba's decorators carry no types, and annotations would not reach the compiled code.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls

import numpy as np
from numba import njit, prange

from ncf_ppt._heap_kernels import enter, sort_best_first
from ppt_core.popcount import popcount

BLOCK = 256  # items: setting up the loops over a block costs as much as counting 64 of them
_TILE = 8 * BLOCK  # items that a task's users share while their words are in the second-level cache
_USERS_PER_TASK = 16


@njit(inline="always")
def _score(count, scale, user_scale, bias):
    """Inner product of two codes; ``count`` is their equal bits less the others. Each operation rounds to float32."""
    return np.float32(np.float32(np.float32(count) * scale) * user_scale) + bias


@njit(inline="always")
def _bound(n_bits, distance, largest, smallest, user_scale, bias):
    """The best score of items that differ in ``distance`` bits or more, whose scales lie between these two."""
    count = n_bits - 2 * np.int64(distance)
    return _score(count, largest if count > 0 else smallest, user_scale, bias)


@njit(inline="always")
def _fill_distances(words, first, length, user_words, distances):
    """``distances[:length]``: how many bits of each item from ``first`` on differ from the user's."""
    n_words = len(user_words)
    distances[:] = 0
    word = 0
    while word + 4 <= n_words:  # sums of four words at a time take a quarter of the loads and stores
        a, b, c, d = user_words[word], user_words[word + 1], user_words[word + 2], user_words[word + 3]
        row_a, row_b = words[word, first : first + length], words[word + 1, first : first + length]
        row_c, row_d = words[word + 2, first : first + length], words[word + 3, first : first + length]
        for item in range(length):
            distances[item] += np.int32(
                popcount(row_a[item] ^ a) + popcount(row_b[item] ^ b)
                + popcount(row_c[item] ^ c) + popcount(row_d[item] ^ d)
            )  # fmt: skip
        word += 4
    while word < n_words:
        a = user_words[word]
        row_a = words[word, first : first + length]
        for item in range(length):
            distances[item] += np.int32(popcount(row_a[item] ^ a))
        word += 1


@njit(inline="always")
def _place_of(seen_items, first, last, item):
    while first < last:
        middle = (first + last) >> 1
        if seen_items[middle] < item:
            first = middle + 1
        else:
            last = middle
    return first


@njit(parallel=True, nogil=True, cache=True)
def fill_top_codes(
    user_words, user_scales, words, scales, numbers, lowest, n_bits, bias, seen_items, seen_first, seen_last,
    out_items, out_scores, out_lengths,
):  # fmt: skip
    """Best items of each user, best first and the lower number first among equals; how many in ``out_lengths``.

    ``user_words`` is (users, words), ``words`` (words, items); scales are not negative, those of items descend.
    ``numbers`` are the items' own, ``lowest`` the lowest of each block. ``seen_items[seen_first[row]:seen_last[row]]``,
    ascending, are left out.
    """
    k = out_items.shape[1]
    n_users, n_items = len(user_words), words.shape[1]
    for task in prange((n_users + _USERS_PER_TASK - 1) // _USERS_PER_TASK):
        distances = np.empty(BLOCK, np.int32)
        users = range(task * _USERS_PER_TASK, min(n_users, (task + 1) * _USERS_PER_TASK))
        for row in users:
            out_lengths[row] = 0
        for tile in range(0, n_items, _TILE):
            for row in users:
                length = out_lengths[row]
                best, items = out_scores[row], out_items[row]
                own_scale = user_scales[row]
                for first in range(tile, min(tile + _TILE, n_items), BLOCK):
                    if length == k and _score(n_bits, scales[first], own_scale, bias) < best[0]:
                        break
                    width = min(BLOCK, n_items - first)
                    _fill_distances(words, first, width, user_words[row], distances)
                    least = distances[0]
                    for place in range(width):
                        least = min(least, distances[place])
                    limit = n_bits  # by more bits no item may differ
                    if length == k:
                        largest, smallest = scales[first], scales[first + width - 1]
                        bound = _bound(n_bits, least, largest, smallest, own_scale, bias)
                        if bound < best[0] or (bound == best[0] and lowest[first // BLOCK] > items[0]):
                            continue
                        limit = np.int64(least)
                        while limit < n_bits and bound >= best[0]:
                            limit += 1
                            bound = _bound(n_bits, limit, largest, smallest, own_scale, bias)
                    for place in range(width):
                        if distances[place] > limit:
                            continue
                        score = _score(n_bits - 2 * np.int64(distances[place]), scales[first + place], own_scale, bias)
                        item = numbers[first + place]
                        if length == k and (score < best[0] or (score == best[0] and item > items[0])):
                            continue
                        found = _place_of(seen_items, seen_first[row], seen_last[row], item)
                        if found < seen_last[row] and seen_items[found] == item:
                            continue
                        length = enter(best, items, length, score, item)
                out_lengths[row] = length
        for row in users:
            sort_best_first(out_scores[row], out_items[row], out_lengths[row])


@njit(parallel=True, nogil=True, cache=True)
def fill_code_scores(user_words, user_scales, words, scales, n_bits, bias, out):
    """Scores ``out`` (users, items) of `fill_top_codes`, items in the order of ``words`` (words, items)."""
    n_users, n_items = out.shape
    for task in prange((n_users + _USERS_PER_TASK - 1) // _USERS_PER_TASK):
        distances = np.empty(BLOCK, np.int32)
        for first in range(0, n_items, BLOCK):
            width = min(BLOCK, n_items - first)
            for row in range(task * _USERS_PER_TASK, min(n_users, (task + 1) * _USERS_PER_TASK)):
                _fill_distances(words, first, width, user_words[row], distances)
                for place in range(width):
                    count = n_bits - 2 * np.int64(distances[place])
                    out[row, first + place] = _score(count, scales[first + place], user_scales[row], bias)


@njit(parallel=True, nogil=True, cache=True)
def fill_code_pairs(user_words, user_scales, words, scales, candidates, n_bits, bias, out):
    """Scores ``out`` (users, m) of `fill_top_codes` of the items ``candidates`` (users, m)."""
    for row in prange(len(candidates)):
        for column in range(candidates.shape[1]):
            item = candidates[row, column]
            distance = np.int64(0)
            for word in range(len(words)):
                distance += np.int64(popcount(words[word, item] ^ user_words[row, word]))
            out[row, column] = _score(n_bits - 2 * distance, scales[item], user_scales[row], bias)
