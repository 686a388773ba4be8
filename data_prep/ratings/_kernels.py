"""Every Numba kernel of data preparation: private, unchecked, arrays in and results in ``out``.

Randomness is a hash of (key, user, counter), so a result depends on neither the number of threads nor their order.
"""
# Numba's decorators carry no types, and annotations would not reach the compiled code.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls

import numpy as np
from numba import njit, prange

from ncf_ppt._kernels import below, random_word

_WORDS_PER_USER = np.uint64(1) << np.uint64(36)  # streams of two users never meet


@njit(inline="always")
def _uniform(word):
    """Map a 64-bit word to a float64 in (0, 1), both ends excluded."""
    return (np.float64(word >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@njit(inline="always")
def _first_above(ascending, value, n):
    """Position of the first of ``n`` ascending numbers that is above ``value``, at most n - 1."""
    low = 0
    high = n - 1
    while low < high:
        middle = (low + high) >> 1
        if ascending[middle] > value:
            high = middle
        else:
            low = middle + 1
    return low


@njit(parallel=True)
def fill_histories(offsets, taste_sums, appeal_sums, mean_gap, key, start_times, out_items, out_times):
    """Draw each user's distinct items and their times.

    An item is drawn by its probability for the user, sum over k of taste[user, k] * appeal[k, item], among those
    not drawn yet (Plackett-Luce). ``taste_sums`` (n_users, n_factors) and ``appeal_sums`` (n_factors, n_items) are
    cumulative sums along the last axis, each row ending at 1. The items are then shuffled, so that what a user
    takes last is as typical as the rest, and the times ascend by gaps that are exponential before rounding down.
    """
    n_factors, n_items = appeal_sums.shape
    for user in prange(len(offsets) - 1):
        first = offsets[user]
        n_taken = offsets[user + 1] - first
        counter = np.uint64(user) * _WORDS_PER_USER
        if n_taken * 8 <= n_items:
            # Rejection: the uniform share of every taste keeps a fresh item likely enough (see `synthesize`).
            taken = np.zeros(n_items, np.bool_)
            n = 0
            while n < n_taken:
                factor = _first_above(taste_sums[user], _uniform(random_word(key, counter)), n_factors)
                counter += np.uint64(1)
                item = _first_above(appeal_sums[factor], _uniform(random_word(key, counter)), n_items)
                counter += np.uint64(1)
                if not taken[item]:
                    taken[item] = True
                    out_items[first + n] = item
                    n += 1
        else:
            # The same distribution in one pass: the smallest of exponential times with these rates. It costs
            # n_items logarithms and a sort, and cannot stall when nearly everything is taken.
            arrivals = np.empty(n_items, np.float64)
            for item in range(n_items):
                rate = 0.0
                for factor in range(n_factors):
                    taste = taste_sums[user, factor]
                    appeal = appeal_sums[factor, item]
                    if factor > 0:
                        taste -= taste_sums[user, factor - 1]
                    if item > 0:
                        appeal -= appeal_sums[factor, item - 1]
                    rate += taste * appeal
                arrivals[item] = -np.log(_uniform(random_word(key, counter))) / rate
                counter += np.uint64(1)
            order = np.argsort(arrivals)
            for n in range(n_taken):
                out_items[first + n] = order[n]
        for n in range(n_taken - 1, 0, -1):
            other = first + below(random_word(key, counter), n + 1)
            counter += np.uint64(1)
            out_items[first + n], out_items[other] = out_items[other], out_items[first + n]
        time = start_times[user]
        for n in range(n_taken):
            out_times[first + n] = time
            time += np.int64(-mean_gap * np.log(_uniform(random_word(key, counter))))
            counter += np.uint64(1)


@njit
def number_by_appearance(values, codes, out_order):
    """Replace ``values`` by 0, 1, ... in order of first appearance; ``codes`` arrives filled with -1.

    ``out_order[code]`` becomes the value; returns how many there are.
    """
    n_seen = 0
    for row in range(len(values)):
        value = values[row]
        if codes[value] < 0:
            codes[value] = n_seen
            out_order[n_seen] = value
            n_seen += 1
        values[row] = codes[value]
    return n_seen
