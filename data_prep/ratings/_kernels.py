"""Every Numba kernel of ratings: private, unchecked, arrays in and results in ``out``.

Mixing int64 and uint64 gives float64 in Numba, hence the casts. Randomness is a hash of (key, counter), so a
result depends neither on the number of threads nor on the order of the calls.
"""
# Numba's decorators carry no types, and annotations would not reach the compiled code.
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls

import numpy as np
from numba import njit, prange

from ppt_core import random_words

random_word = njit(inline="always")(random_words.random_word)
below = njit(inline="always")(random_words.below)

POSITIVES_PER_MARK = 64
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


@njit(parallel=True, cache=True)
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


@njit(cache=True)
def tally_rows(
    users, items, first_row, keeps_user, keeps_item,
    user_counts, item_counts, user_rows, item_rows, some_items, n_some,
):  # fmt: skip
    """Count the rows of the users and items that are kept, and note where each comes first; more blocks may follow.

    ``some_items`` (n_users, 2) receives the first two distinct items of a user, ``n_some`` how many there are, up to
    three. Returns the number that the next row would have: rows that are not kept have none.
    """
    row = first_row
    for n in range(len(users)):
        user, item = users[n], items[n]
        if not (keeps_user[user] and keeps_item[item]):
            continue
        if user_counts[user] == 0:
            user_rows[user] = row
        if item_counts[item] == 0:
            item_rows[item] = row
        user_counts[user] += 1
        item_counts[item] += 1
        row += 1
        found = n_some[user]
        if found < 3 and (found < 1 or some_items[user, 0] != item) and (found < 2 or some_items[user, 1] != item):
            if found < 2:
                some_items[user, found] = item
            n_some[user] = found + 1
    return row


@njit(cache=True)
def count_distinct(users, items, places, keeps_item, seen, degrees):
    """Count each pair once, of users with a place (not -1) alone: ``seen`` (n_places, words) holds a bit an item."""
    for n in range(len(users)):
        place = places[users[n]]
        if place < 0 or not keeps_item[items[n]]:
            continue
        word = items[n] >> 6
        bit = np.uint64(1) << np.uint64(items[n] & 63)
        if not seen[place, word] & bit:
            seen[place, word] |= bit
            degrees[place] += 1


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


@njit(inline="always")
def permutation_bits(n):
    """Width in bits of the words in which `fill_samples` permutes 0 .. n - 1.

    Ten at least: over halves of one or two bits six rounds prefer some images (by 10% at n = 5, by 5% at n = 17;
    from 8 bits on nothing was seen in two million draws).
    """
    bits = np.uint64(10)
    while (np.uint64(1) << bits) < np.uint64(n):
        bits += np.uint64(1)
    return bits


@njit(inline="always")
def permute_word(word, bits, keys):
    """Image of a word below 2**bits under a keyed permutation; ``keys`` holds six 64-bit words.

    A Feistel network of six rounds, its halves swapped between bits // 2 and the rest (Luby, Rackoff 1988).
    """
    small = bits >> np.uint64(1)
    large = bits - small
    for pair in range(3):
        # The low `large` bits choose what is added to the high `small` bits, and the other way round.
        low = word & ((np.uint64(1) << large) - np.uint64(1))
        word ^= (_round(low, keys[2 * pair]) >> (np.uint64(64) - small)) << large
        high = word >> large
        word ^= _round(high, keys[2 * pair + 1]) >> (np.uint64(64) - large)
    return word


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


@njit(parallel=True, cache=True)
def fill_samples(
    offsets, items, user_marks, n_items, n_negatives, n_together, shuffle_keys, draw_key, start,
    out_users, out_items, out_labels, out_positives,
):  # fmt: skip
    """Samples ``start ..`` of one shuffled epoch of (1 + n_negatives) samples for each positive.

    ``user_marks``, int32, holds the user of every POSITIVES_PER_MARK-th positive and of the last one: a positive's own
    lies between two of them and is mostly both, where a list of all would have as many bytes as the positives.

    ``out_positives`` may be empty: it is then left out.

    Sample n of the epoch is the n-th image of a permutation of 0 .. n_samples - 1: `permute_word` permutes a power of
    two, and an image outside the range is permuted again until it falls inside (cycle walking: Black, Rogaway 2002),
    twice at most on average. A negative is the free item that `free_item` finds. With ``n_together`` above 1, which
    divides a group, runs of so many samples are permuted and stay as they are within.

    A block of samples goes through each stage together, so that their loads and multiplications overlap: five times
    as fast as sample after sample. Unsigned indices spare the check for negative ones; the sign of a difference
    stands in for a comparison, which LLVM would turn into a branch to mispredict.
    """
    block_size = 128
    group = n_negatives + 1
    n_runs = len(items) * (group // n_together)
    limit = np.uint64(n_runs)
    bits = permutation_bits(n_runs)
    inverse = 1.0 / group
    n_rows = len(out_users)
    for block in prange((n_rows + block_size - 1) // block_size):
        first_row = block * block_size
        size = min(block_size, n_rows - first_row)
        samples = np.empty(block_size, np.uint64)
        positives = np.empty(block_size, np.int64)
        chosen = np.empty(block_size, np.int64)
        firsts = np.empty(block_size, np.int64)
        lengths = np.empty(block_size, np.int64)
        ranks = np.empty(block_size, np.int64)
        below_answer = np.empty(block_size, np.int64)

        n_outside = 0
        for lane in range(size):
            samples[lane] = permute_word(np.uint64((start + first_row + lane) // n_together), bits, shuffle_keys)
        for lane in range(size):
            chosen[n_outside] = lane
            n_outside += samples[lane] >= limit
        while n_outside:
            n_chosen = n_outside
            n_outside = 0
            for number in range(n_chosen):
                lane = chosen[number]
                samples[lane] = permute_word(samples[lane], bits, shuffle_keys)
                chosen[n_outside] = lane
                n_outside += samples[lane] >= limit
        if n_together > 1:
            for lane in range(size):
                place = np.uint64((start + first_row + lane) % n_together)
                samples[lane] = samples[lane] * np.uint64(n_together) + place

        for lane in range(size):
            sample = np.int64(samples[lane])
            quotient = np.int64(sample * inverse)  # sample // group, or one next to it
            rest = sample - quotient * group
            positives[lane] = quotient + (rest >= group) - (rest < 0)

        n_chosen = 0
        longest = 0
        for lane in range(size):
            positive = np.uint64(positives[lane])
            mark = positive // np.uint64(POSITIVES_PER_MARK)
            user = np.uint64(user_marks[mark])
            last_user = np.uint64(user_marks[mark + np.uint64(1)])
            while user < last_user:
                middle = (user + last_user + np.uint64(1)) >> np.uint64(1)
                if offsets[middle] <= positives[lane]:
                    user = middle
                else:
                    last_user = middle - np.uint64(1)
            row = np.uint64(first_row + lane)
            out_users[row] = user
            out_items[row] = items[positive]
            out_labels[row] = np.float32(1)
            if len(out_positives):
                out_positives[row] = positive
            first = offsets[user]
            degree = offsets[user + np.uint64(1)] - first
            longest = max(longest, degree)
            chosen[n_chosen] = lane
            firsts[n_chosen] = first
            lengths[n_chosen] = degree
            n_chosen += np.int64(samples[lane]) != positives[lane] * group

        for number in range(n_chosen):
            word = random_word(draw_key, samples[chosen[number]])
            ranks[number] = below(word, n_items - lengths[number])
            below_answer[number] = 0
        while longest > 0:
            for number in range(n_chosen):
                half = (lengths[number] + 1) >> 1
                probe = below_answer[number] + half
                item = np.int64(items[np.uint64(max(firsts[number] + probe - 1, 0))])
                below_answer[number] += half & ((item - probe - ranks[number]) >> 63)
                lengths[number] -= half
            longest -= (longest + 1) >> 1
        for number in range(n_chosen):
            row = np.uint64(first_row + chosen[number])
            out_items[row] = ranks[number] + below_answer[number]
            out_labels[row] = np.float32(0)


@njit(parallel=True, cache=True)
def fill_shuffled(n, shuffle_keys, start, out):
    """Entries ``start ..`` of a keyed permutation of 0 .. n - 1, that of `fill_samples`."""
    bits = permutation_bits(n)
    for row in prange(len(out)):
        word = permute_word(np.uint64(start + row), bits, shuffle_keys)
        while word >= np.uint64(n):
            word = permute_word(word, bits, shuffle_keys)
        out[row] = word


@njit(parallel=True, cache=True)
def fill_negatives_with_replacement(offsets, items, n_items, key, first_user, out):
    """Independent uniform draws for each user from the items the user has not taken, unsorted.

    The users are ``first_user ..`` of a larger set, and have the draws that they have in it.
    """
    n_draws = out.shape[1]
    for user in prange(out.shape[0]):
        first = offsets[user]
        degree = offsets[user + 1] - first
        for draw in range(n_draws):
            rank = below(random_word(key, np.uint64((first_user + user) * n_draws + draw)), n_items - degree)
            out[user, draw] = free_item(items, first, degree, rank)


@njit(parallel=True, cache=True)
def fill_distinct_negatives(offsets, items, held_out, n_items, key, first_user, out):
    """Distinct draws for each user from what is neither taken nor held out, every set of them as likely.

    The users are ``first_user ..`` of a larger set, and have the draws that they have in it.

    Floyd's algorithm (Bentley, Floyd 1987) takes one word a draw. It marks ranks in a bitmap, which is then read in
    ascending order: a quarter of the time that permuting, searching and sorting took at 999 of 26,744 items.
    """
    n_draws = out.shape[1]
    for user in prange(out.shape[0]):
        first = offsets[user]
        degree = offsets[user + 1] - first
        # The rank of the held-out item among the free ones, which every later rank steps over.
        skipped = held_out[user] - np.searchsorted(items[first : first + degree], held_out[user])
        n_candidates = n_items - degree - 1
        drawn = np.zeros((n_candidates + 63) >> 6, np.uint64)
        for draw in range(n_draws):
            last = n_candidates - n_draws + draw
            rank = below(random_word(key, np.uint64((first_user + user) * n_draws + draw)), last + 1)
            if (drawn[rank >> 6] >> np.uint64(rank & 63)) & np.uint64(1):
                rank = last
            drawn[rank >> 6] |= np.uint64(1) << np.uint64(rank & 63)
        n_written = 0
        n_below = np.int64(0)  # taken items below the next negative
        for word in range(len(drawn)):
            bits = drawn[word]
            rank = word << 6
            while bits:
                if bits & np.uint64(1):
                    free = rank + 1 if rank >= skipped else rank
                    while n_below < degree and items[first + n_below] - n_below <= free:
                        n_below += 1
                    out[user, n_written] = free + n_below
                    n_written += 1
                bits >>= np.uint64(1)
                rank += 1


@njit(cache=True)
def group_rows(users, ends, out_rows):
    """List the rows of each user in the order of the file; ``ends`` (n_users,) holds where a user's begin, then end."""
    for row in range(len(users)):
        user = users[row]
        out_rows[ends[user]] = row
        ends[user] += 1


@njit(parallel=True, cache=True)
def order_rows(starts, rows, times, ties, items, n_distinct, is_latest, ascending):
    """Bring each user's ``rows``, in the order of the file, into that of time, and find its distinct items.

    Rows of equal time keep their order, or come in that of ``ties``, (n,) or None. User u has the places
    ``starts[u]`` up to ``starts[u + 1]`` of all that follows: ``is_latest`` says which rows are the last of their
    item, and ``ascending`` holds the ``n_distinct[u]`` items first.
    """
    for user in prange(len(starts) - 1):
        first = starts[user]
        own = rows[first : starts[user + 1]]
        if ties is not None:
            own[:] = own[np.argsort(ties[own], kind="mergesort")]
        own[:] = own[np.argsort(times[own], kind="mergesort")]
        keys = np.empty(len(own), np.int64)  # by item, then by time: each once
        for place in range(len(own)):
            keys[place] = (np.int64(items[own[place]]) << 32) | place
        keys.sort()
        n = 0
        for place in range(len(keys)):
            item = keys[place] >> 32
            last = place + 1 == len(keys) or keys[place + 1] >> 32 != item
            is_latest[first + (keys[place] & 0xFFFFFFFF)] = last
            if last:
                ascending[first + n] = item
                n += 1
        n_distinct[user] = n


@njit(parallel=True, cache=True)
def split_last(starts, rows, times, items, n_distinct, is_latest, ascending, offsets, out_items, out_history, out_tied):
    """Leave each user's last row out of what `order_rows` found, and write the rest from ``offsets[user]`` on.

    ``out_tied`` (n_users,) says whether the row kept before the last one has its time.
    """
    for user in prange(len(starts) - 1):
        first, last = starts[user], starts[user + 1] - 1
        held_out = items[rows[last]]
        at = offsets[user]
        for place in range(first, first + n_distinct[user]):
            if ascending[place] != held_out:
                out_items[at] = ascending[place]
                at += 1
        at = offsets[user]
        before = last
        for place in range(first, last):
            if is_latest[place]:
                out_history[at] = items[rows[place]]
                at += 1
                before = place
        out_tied[user] = times[rows[before]] == times[rows[last]]
