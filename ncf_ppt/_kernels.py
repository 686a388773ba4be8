"""Every Numba kernel of the package: private, unchecked, arrays in and results in ``out``.

Mixing int64 and uint64 gives float64 in Numba, hence the casts.
"""

import numpy as np
from numba import njit, prange

from ncf_ppt._heap_kernels import enter, sort_best_first


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
    """Find the distinct values of ``indices`` and chain the positions of each, in ascending order; skip those below 0.

    ``slots`` has one entry for each possible value, all -1, and is left so. Value ``out_rows[s]`` stands first at
    ``out_heads[s]`` and then at ``out_next[position]``, until that is -1. Returns the number of distinct values.
    """
    n_rows = 0
    for position in range(len(indices) - 1, -1, -1):
        row = indices[position]
        if row < 0:
            continue
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


@njit(parallel=True, nogil=True, cache=True)
def fill_weighted_means(table, weights, recent, out, out_totals):
    """Row r: sum over places of weights[place] * table[recent[r, place]], divided by the sum of these weights.

    Entries of ``recent`` below 0 do not count; a row of nothing else is 0. ``out_totals`` are the sums of weights, at
    least 1e-30.
    """
    for row in prange(len(recent)):
        mean = out[row]
        mean[:] = np.float32(0)
        total = np.float32(0)
        for place in range(recent.shape[1]):
            item = recent[row, place]
            if item >= 0:
                weight = weights[place]
                total += weight
                values = table[item]
                for column in range(len(mean)):
                    mean[column] += weight * values[column]
        total = max(total, np.float32(1e-30))
        out_totals[row] = total
        for column in range(len(mean)):
            mean[column] /= total


@njit(parallel=True, cache=True, fastmath={"reassoc"})
def fill_weight_gradients(table, recent, means, totals, grads, out):
    """Gradients of the weights of `fill_weighted_means`, those by each row alone: (rows, places).

    By place: <grad of the mean, vector of the place - mean> / total. The compiler chooses the order of a product's
    terms, once for all.
    """
    for row in prange(len(recent)):
        grad = grads[row]
        mean = means[row]
        of_mean = np.float32(0)
        for column in range(len(grad)):
            of_mean += grad[column] * mean[column]
        for place in range(recent.shape[1]):
            item = recent[row, place]
            change = np.float32(0)
            if item >= 0:
                values = table[item]
                for column in range(len(grad)):
                    change += grad[column] * values[column]
                change = (change - of_mean) / totals[row]
            out[row, place] = change


@njit(parallel=True, cache=True)
def fill_row_gradients(heads, following, weights, totals, grads, out):
    """Gradients of the table's distinct rows under `fill_weighted_means`, the terms of each added in order of position.

    ``heads`` and ``following`` chain the positions of a row in the flat histories, see `group_rows`.
    """
    n_places = len(weights)
    for number in prange(len(heads)):
        total = out[number]
        total[:] = np.float32(0)
        position = heads[number]
        while position >= 0:
            row = position // n_places
            share = weights[position - row * n_places] / totals[row]
            grad = grads[row]
            for column in range(len(total)):
                total[column] += share * grad[column]
            position = following[position]


@njit(parallel=True, nogil=True, cache=True)
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


@njit(parallel=True, nogil=True, cache=True)
def add_catalogue_products(user_vectors, item_vectors, out):
    """Add to ``out``, all 0, every user's inner products with every item: bits as `fill_candidate_products`.

    ``item_vectors`` is (factors, n_items), so that the innermost loop vectorizes over items without reordering
    a sum; 16 users share a tile of it while it is in the second-level cache. Eight factors at a time load and store a
    sum once, 1.4 times as fast as eight times.
    """
    n_users, n_items = out.shape
    n_factors = user_vectors.shape[1]
    in_eights = n_factors - n_factors % 8
    for block in prange((n_users + 15) // 16):
        for first in range(0, n_items, 512):
            width = min(512, n_items - first)
            for row in range(block * 16, min(block * 16 + 16, n_users)):
                sums = out[row, first : first + width]  # indices from 0 are what lets LLVM vectorize
                user = user_vectors[row]
                for factor in range(0, in_eights, 8):
                    u0, u1, u2, u3 = user[factor], user[factor + 1], user[factor + 2], user[factor + 3]
                    u4, u5, u6, u7 = user[factor + 4], user[factor + 5], user[factor + 6], user[factor + 7]
                    v0 = item_vectors[factor, first : first + width]
                    v1 = item_vectors[factor + 1, first : first + width]
                    v2 = item_vectors[factor + 2, first : first + width]
                    v3 = item_vectors[factor + 3, first : first + width]
                    v4 = item_vectors[factor + 4, first : first + width]
                    v5 = item_vectors[factor + 5, first : first + width]
                    v6 = item_vectors[factor + 6, first : first + width]
                    v7 = item_vectors[factor + 7, first : first + width]
                    for item in range(width):
                        total = sums[item] + u0 * v0[item] + u1 * v1[item] + u2 * v2[item] + u3 * v3[item]
                        sums[item] = total + u4 * v4[item] + u5 * v5[item] + u6 * v6[item] + u7 * v7[item]
                for factor in range(in_eights, n_factors):
                    value = user[factor]
                    values = item_vectors[factor, first : first + width]
                    for item in range(width):
                        sums[item] += value * values[item]


@njit(parallel=True, nogil=True, cache=True)
def fill_top_items(scores, seen_items, seen_first, seen_last, out_items, out_scores, out_lengths):
    """Best items of each row, best first and the lower number first among equals; how many in ``out_lengths``.

    ``seen_items[seen_first[row]:seen_last[row]]``, ascending, are left out, as is what has minus infinity. Scores hold
    no NaN. Of 64 items at a time the vectorized question whether any can enter comes first; mostly none can.
    """
    k = out_items.shape[1]
    n_items = scores.shape[1]
    for row in prange(scores.shape[0]):
        seen = seen_first[row]
        length = 0
        lowest = np.float32(-np.inf)  # that a score must be above
        for first in range(0, n_items, 64):
            block = scores[row, first : min(first + 64, n_items)]
            n_above = 0
            for place in range(len(block)):
                n_above += block[place] > lowest
            if n_above == 0:
                continue
            while seen < seen_last[row] and seen_items[seen] < first:
                seen += 1
            for item in range(first, first + len(block)):
                if seen < seen_last[row] and seen_items[seen] == item:
                    seen += 1
                    continue
                score = scores[row, item]
                if score <= lowest:
                    continue
                length = enter(out_scores[row], out_items[row], length, score, np.int32(item))
                if length == k:
                    lowest = out_scores[row, 0]
        sort_best_first(out_scores[row], out_items[row], length)
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


@njit(cache=True)
def fill_is_known(offsets, items, n_items, users, candidates, out):
    """Row r, column c: whether ``candidates[c]`` is among the items of ``users[r]``.

    A table leads from an item to the last candidate that it is, and each candidate to the one before that is the same
    item: a lookup for each item of a user, where a search for each candidate took three times as long.
    """
    last = np.full(n_items, -1, np.int32)
    before = np.empty(len(candidates), np.int32)
    for column in range(len(candidates)):
        before[column] = last[candidates[column]]
        last[candidates[column]] = column
    for row in range(len(users)):
        out[row] = False
        for entry in range(offsets[users[row]], offsets[users[row] + 1]):
            column = last[items[entry]]
            while column >= 0:
                out[row, column] = True
                column = before[column]


@njit(parallel=True, cache=True)
def fill_places_in_history(offsets, history, out):
    """Place in ``history`` of each user's items in ascending order; the items of a user are distinct."""
    for user in prange(len(offsets) - 1):
        first = offsets[user]
        last = offsets[user + 1]
        out[first:last] = first + np.argsort(history[first:last])
