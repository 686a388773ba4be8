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
    offsets, items, positive_users, n_items, n_negatives, shuffle_keys, draw_key, start,
    out_users, out_items, out_labels,
):  # fmt: skip
    """Samples ``start ..`` of one shuffled epoch of (1 + n_negatives) samples for each positive.

    Sample n of the epoch is the n-th image of a permutation of 0 .. n_samples - 1: `permute_word` permutes a power of
    two, and an image outside the range is permuted again until it falls inside (cycle walking: Black, Rogaway 2002),
    twice at most on average. A negative is the free item that `free_item` finds.

    A block of samples goes through each stage together, so that their loads and multiplications overlap: five times
    as fast as sample after sample. Unsigned indices spare the check for negative ones; the sign of a difference
    stands in for a comparison, which LLVM would turn into a branch to mispredict.
    """
    block_size = 128
    group = n_negatives + 1
    n_samples = len(items) * group
    limit = np.uint64(n_samples)
    bits = permutation_bits(n_samples)
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
            samples[lane] = permute_word(np.uint64(start + first_row + lane), bits, shuffle_keys)
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

        for lane in range(size):
            sample = np.int64(samples[lane])
            quotient = np.int64(sample * inverse)  # sample // group, or one next to it
            rest = sample - quotient * group
            positives[lane] = quotient + (rest >= group) - (rest < 0)

        n_chosen = 0
        longest = 0
        for lane in range(size):
            positive = np.uint64(positives[lane])
            user = np.uint64(positive_users[positive])
            row = np.uint64(first_row + lane)
            out_users[row] = user
            out_items[row] = items[positive]
            out_labels[row] = np.float32(1)
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
def fill_negatives_with_replacement(offsets, items, n_items, key, out):
    """Independent uniform draws for each user from the items the user has not taken, unsorted."""
    n_draws = out.shape[1]
    for user in prange(out.shape[0]):
        first = offsets[user]
        degree = offsets[user + 1] - first
        for draw in range(n_draws):
            rank = below(random_word(key, np.uint64(user * n_draws + draw)), n_items - degree)
            out[user, draw] = free_item(items, first, degree, rank)


@njit(parallel=True, cache=True)
def fill_distinct_negatives(offsets, items, held_out, n_items, key, out):
    """Distinct draws for each user from what is neither taken nor held out, every set of them as likely.

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
            rank = below(random_word(key, np.uint64(user * n_draws + draw)), last + 1)
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


@njit(parallel=True, cache=True)
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


@njit(cache=True)
def group_rows(indices, slots, out_rows, out_heads, out_next):
    """Find the distinct values of ``indices`` and chain the positions of each, in ascending order.

    ``slots`` has one entry for each possible value, all -1, and is left so. Value ``out_rows[s]`` stands first at
    ``out_heads[s]`` and then at ``out_next[position]``, until that is -1. Returns the number of distinct values.
    """
    n_rows = 0
    for position in range(len(indices) - 1, -1, -1):
        row = indices[position]
        slot = slots[row]
        if slot < 0:
            slot = n_rows
            slots[row] = slot
            out_rows[slot] = row
            out_next[position] = -1
            n_rows += 1
        else:
            out_next[position] = out_heads[slot]
        out_heads[slot] = position
    for slot in range(n_rows):
        slots[out_rows[slot]] = -1
    return n_rows


@njit(inline="always")
def two_nodes(moments, first_step, step, beta1, beta2):
    """Return (total, x1, x2, mean): Gauss's two nodes for the steps ``first_step + 1 .. step`` of a row at rest.

    ``moments`` (4, length) are those of `ncf_ppt.row_adam.infinite_moments`; its last column stands for all later
    ones.
    """
    last = moments.shape[1] - 1
    head = min(first_step, last)
    tail = min(step, last)
    n_steps = step - first_step
    root = np.sqrt(beta2)
    total = moments[0, head] - beta1**n_steps * moments[0, tail]
    mean = (moments[1, head] - (beta1 / root) ** n_steps * moments[1, tail]) / total
    second = (moments[2, head] - (beta1 / beta2) ** n_steps * moments[2, tail]) / total
    variance = second - mean * mean
    if variance < 1e-9 * mean * mean:  # one step, or too many to tell them apart
        return total, mean, mean, mean
    third = (moments[3, head] - (beta1 / (beta2 * root)) ** n_steps * moments[3, tail]) / total
    skew = (third - 3 * mean * second + 2 * mean * mean * mean) / variance
    spread = np.sqrt(skew * skew / 4 + variance)
    return total, mean + skew / 2 - spread, mean + skew / 2 + spread, mean


@njit(parallel=True, cache=True)
def catch_up_rows(rows, weights, means, squares, last_steps, step, learning_rate, beta1, beta2, eps, moments):
    """Apply to distinct ``rows`` the Adam steps ``last_step + 1 .. step``, whose gradients were 0, at once."""
    for number in prange(len(rows)):
        row = rows[number]
        first_step = last_steps[row]
        n_steps = step - first_step
        if n_steps > 0:
            total, x1, x2, x_mean = two_nodes(moments, first_step, step, beta1, beta2)
            # The two terms weight * x / (deviation + eps * x) over one denominator.
            slope = np.float32(learning_rate * total * x_mean)
            constant = np.float32(learning_rate * total * eps * x1 * x2)
            floor1 = np.float32(eps * x1)
            floor2 = np.float32(eps * x2)
            decay1 = beta1**n_steps
            decay2 = beta2**n_steps
            # What is left is far below the smallest gradient; as denormals it would slow every later step.
            keep1 = np.float32(decay1 if decay1 > 1e-20 else 0.0)
            keep2 = np.float32(decay2 if decay2 > 1e-20 else 0.0)
            weight = weights[row]
            mean = means[row]
            square = squares[row]
            for column in range(len(weight)):
                deviation = np.sqrt(square[column])
                weight[column] -= (
                    mean[column] * (slope * deviation + constant) / ((deviation + floor1) * (deviation + floor2))
                )
                mean[column] *= keep1
                square[column] *= keep2
            last_steps[row] = step


@njit(parallel=True, cache=True)
def update_rows(
    rows, heads, following, grads, weights, means, squares, last_steps, step, learning_rate, beta1, beta2, eps
):  # fmt: skip
    """Take Adam step number ``step`` (from 1) on distinct ``rows``, which are up to date with the step before.

    The gradient of a row is the sum of ``grads`` at its positions, see `group_rows`.
    """
    step_size = np.float32(learning_rate / (1 - beta1**step))
    scale = np.float32(1 / np.sqrt(1 - beta2**step))
    n_columns = weights.shape[1]
    b1 = np.float32(beta1)
    b2 = np.float32(beta2)
    c1 = np.float32(1 - beta1)
    c2 = np.float32(1 - beta2)
    floor = np.float32(eps)
    for number in prange(len(rows)):
        row = rows[number]
        weight = weights[row]
        mean = means[row]
        square = squares[row]
        position = heads[number]
        grad = grads[position]
        if following[position] >= 0:
            total = grad.copy()
            position = following[position]
            while position >= 0:
                for column in range(n_columns):
                    total[column] += grads[position, column]
                position = following[position]
            grad = total
        for column in range(n_columns):
            g = grad[column]
            m = b1 * mean[column] + c1 * g
            v = b2 * square[column] + c2 * g * g
            mean[column] = m
            square[column] = v
            weight[column] -= step_size * m / (np.sqrt(v) * scale + floor)
        last_steps[row] = step


@njit(parallel=True, cache=True)
def fill_candidate_products(user_vectors, item_vectors, candidates, out):
    """Inner products of row r's user vector with the vectors of ``candidates[r]``, their terms added in order."""
    for row in prange(candidates.shape[0]):
        for column in range(candidates.shape[1]):
            item = candidates[row, column]
            total = np.float32(0)
            for factor in range(user_vectors.shape[1]):
                total += user_vectors[row, factor] * item_vectors[item, factor]
            out[row, column] = total


@njit(parallel=True, cache=True)
def fill_first_activations(user_half, item_half, users, items, factor, shift, alpha, low, out):
    """The first hidden layer of pairs: ReLU, or 0 and ``alpha`` if ``low``, of (user + item) * factor + shift.

    ``items`` is (rows, columns), a row for each of ``users``; ``out`` is (rows * columns, channels). One pass: to
    gather, add, scale and activate one by one costs four passes over memory.
    """
    n_columns = items.shape[1]
    n_pairs = items.shape[0] * n_columns
    n_channels = user_half.shape[1]
    half = alpha * np.float32(0.5)
    zero = np.float32(0)
    for block in prange((n_pairs + 63) // 64):
        for pair in range(block * 64, min(block * 64 + 64, n_pairs)):
            row = pair // n_columns
            user_sums = user_half[users[row]]
            item_sums = item_half[items[row, pair - row * n_columns]]
            if low:
                for channel in range(n_channels):
                    z = (user_sums[channel] + item_sums[channel]) * factor[channel] + shift[channel]
                    out[pair, channel] = alpha if z > half else zero
            else:
                for channel in range(n_channels):
                    z = (user_sums[channel] + item_sums[channel]) * factor[channel] + shift[channel]
                    out[pair, channel] = zero if z <= zero else z  # NaN stays


@njit(parallel=True, cache=True, fastmath={"reassoc"})
def fill_logits(user_factors, item_factors, users, items, hidden, factor, shift, weights, bias, out):
    """Inner products of pairs, plus ``weights`` times ReLU of the pair's row of hidden * factor + shift, plus ``bias``.

    ``items`` is (rows, columns), ``hidden`` (rows * columns, channels), ``out`` (rows, columns). The compiler chooses
    the order in which a pair's terms are added, once for all pairs: in the written order it took five times as long.
    """
    n_columns = items.shape[1]
    n_pairs = items.shape[0] * n_columns
    zero = np.float32(0)
    for block in prange((n_pairs + 63) // 64):
        for pair in range(block * 64, min(block * 64 + 64, n_pairs)):
            row = pair // n_columns
            column = pair - row * n_columns
            user = user_factors[users[row]]
            item = item_factors[items[row, column]]
            values = hidden[pair]
            total = bias
            for number in range(len(user)):
                total += user[number] * item[number]
            for channel in range(len(values)):
                z = values[channel] * factor[channel] + shift[channel]
                total += (zero if z <= zero else z) * weights[channel]
            out[row, column] = total


@njit(parallel=True, cache=True)
def add_catalogue_products(user_vectors, item_vectors, out):
    """Add to ``out``, all 0, every user's inner products with every item: bits as `fill_candidate_products`.

    ``item_vectors`` is (factors, n_items), so that the innermost loop vectorizes over items without reordering
    a sum; 16 users share a tile of it while it is in the second-level cache.
    """
    n_users, n_items = out.shape
    for block in prange((n_users + 15) // 16):
        for first in range(0, n_items, 512):
            width = min(512, n_items - first)
            for row in range(block * 16, min(block * 16 + 16, n_users)):
                sums = out[row, first : first + width]  # indices from 0 are what lets LLVM vectorize
                for factor in range(user_vectors.shape[1]):
                    value = user_vectors[row, factor]
                    values = item_vectors[factor, first : first + width]
                    for item in range(width):
                        sums[item] += value * values[item]


@njit(parallel=True, cache=True)
def fill_top_items(scores, seen_items, seen_first, seen_last, out_items, out_scores, out_lengths):
    """Best items of each row, best first and the lower number first among equals; how many in ``out_lengths``.

    ``seen_items[seen_first[row]:seen_last[row]]``, ascending, are left out, as is what has minus infinity. Scores hold
    no NaN.
    """
    k = out_items.shape[1]
    for row in prange(scores.shape[0]):
        seen = seen_first[row]
        length = 0
        for item in range(scores.shape[1]):
            if seen < seen_last[row] and seen_items[seen] == item:
                seen += 1
                continue
            score = scores[row, item]
            if score == -np.inf or (length == k and score <= out_scores[row, k - 1]):
                continue
            place = min(length, k - 1)
            while place > 0 and out_scores[row, place - 1] < score:
                out_scores[row, place] = out_scores[row, place - 1]
                out_items[row, place] = out_items[row, place - 1]
                place -= 1
            out_scores[row, place] = score
            out_items[row, place] = item
            length = min(length + 1, k)
        out_lengths[row] = length


@njit(parallel=True, cache=True)
def count_above_and_equal_in_catalogue(
    scores, seen_items, seen_first, seen_last, positives, out_above, out_equal, out_is_nan
):  # fmt: skip
    """For each row of a catalogue's scores, count the items above the positive's score and the others that equal it.

    ``seen_items[seen_first[row]:seen_last[row]]`` do not count. Rows that hold NaN are marked; they have no counts.
    """
    for row in prange(scores.shape[0]):
        positive = positives[row]
        positive_score = scores[row, positive]
        n_above = 0
        n_equal = -1
        n_nan = 0
        for item in range(scores.shape[1]):
            score = scores[row, item]
            n_above += score > positive_score
            n_equal += score == positive_score
            n_nan += score != score
        for place in range(seen_first[row], seen_last[row]):
            score = scores[row, seen_items[place]]
            if seen_items[place] != positive:
                n_above -= score > positive_score
                n_equal -= score == positive_score
        out_above[row] = n_above
        out_equal[row] = n_equal
        out_is_nan[row] = n_nan > 0


@njit(parallel=True, cache=True)
def fill_recent_items(history, firsts, ends, out):
    """Row r: the entries of ``history`` before ``ends[r]`` and from ``firsts[r]`` on, the last one first, then -1."""
    for row in prange(len(out)):
        for place in range(out.shape[1]):
            source = ends[row] - 1 - place
            out[row, place] = history[source] if source >= firsts[row] else -1
