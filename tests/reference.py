"""Slow, obvious versions of what the packages compute fast; tests compare the two."""

import itertools
import math
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[Any]


def binarize_activation(x: Floats, alpha: float, grad: Floats) -> tuple[Floats, Floats, float]:
    """Return (output, gradient of x, gradient of alpha) of one-bit PACT, an element at a time.

    PACT's forward is clip(x, 0, alpha), whose derivative by x is 1 between the two bounds and whose derivative by
    alpha is 1 above the upper one; quantizing to one bit rounds it to the nearer of 0 and alpha, a tie to 0.
    """
    output, grad_x, grad_alpha = np.zeros_like(x), np.zeros_like(x), []
    for index in np.ndindex(x.shape):
        clipped = min(max(float(x[index]), 0.0), alpha)
        # max(nan, 0.0) is nan and min(nan, alpha) is nan: it is nearer to nothing, and stays 0.
        output[index] = alpha if alpha - clipped < clipped - 0.0 else 0.0
        if not (x[index] < 0 or x[index] > alpha or math.isnan(x[index])):
            grad_x[index] = grad[index]
        if float(x[index]) - alpha >= 0:
            grad_alpha.append(float(grad[index]))
    return output, grad_x, math.fsum(grad_alpha)


def binarize_weight(weight: Floats, grad: Floats) -> tuple[Floats, Floats]:
    """Return (output, gradient) of the sign that is never 0 and of clip(weight, -1, 1), its stand-in backwards."""
    output, grad_weight = np.zeros_like(weight), np.zeros_like(weight)
    for index in np.ndindex(weight.shape):
        output[index] = 1 if weight[index] > 0 else -1
        grad_weight[index] = grad[index] if np.clip(weight[index], -1, 1) == weight[index] else 0
    return output, grad_weight


def binary_linear(bits: NDArray[np.int64], weight: Floats) -> NDArray[np.int64]:
    """Integer product of ``bits`` (rows, inputs) in {0, 1} with the signs of ``weight`` (outputs, inputs)."""
    product = np.zeros((len(bits), len(weight)), np.int64)
    for row, output in np.ndindex(product.shape):
        for bit, w in zip(bits[row], weight[output], strict=True):
            product[row, output] += int(bit) * (1 if w > 0 else -1)
    return product


def binary_conv2d(bits: NDArray[np.int64], weight: Floats, *, stride: int, padding: int) -> NDArray[np.int64]:
    """Integer convolution of ``bits`` (batch, inputs, height, width) with the signs of ``weight``, bit 0 around it."""
    size = weight.shape[2]
    padded = np.pad(bits, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    height, width = ((n - size) // stride + 1 for n in padded.shape[2:])
    product = np.zeros((len(bits), len(weight), height, width), np.int64)
    for row, output, y, x in np.ndindex(product.shape):
        patch = padded[row, :, y * stride : y * stride + size, x * stride : x * stride + size]
        product[row, output, y, x] = binary_linear(patch.reshape(1, -1), weight[[output]].reshape(1, -1)).item()
    return product


def above_chance(hits: float, n: int, p: float, *, errors: float = 4) -> bool:
    """Whether ``hits`` of ``n`` tries are far more than guessing gives, each try being right with probability ``p``.

    Guesses that do not depend on each other give n p hits with a standard error of sqrt(n p (1 - p)); more than 4
    errors above it is what one guesser in 30,000 reaches. What a training learns lies far beyond on every processor;
    how far depends on the last bits of sums, and no test may ask for it.
    """
    return bool(hits > n * p + errors * math.sqrt(n * p * (1 - p)))


def guessed_hit_ratio(n_negatives: int, k: int = 10) -> float:
    """Probability that guessed scores put an item among the first ``k`` of itself and ``n_negatives`` others."""
    return min(1.0, k / (n_negatives + 1))


def free_items(taken: Iterable[int], n_items: int) -> list[int]:
    """The items of 0 .. n_items - 1 that are not taken, ascending."""
    return [item for item in range(n_items) if item not in set(taken)]


def random_word(key: int, counter: int) -> int:
    """Output number ``counter`` (from 0) of SplitMix64 seeded with ``key``, in integers without a limit."""
    value = (key + (counter + 1) * 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


def permute(index: int, n: int, keys: list[int]) -> int:
    """Image of ``index`` in 0 .. n - 1: rounds that change one half of its digits by a hash of the other half."""
    n_bits = max(10, (n - 1).bit_length())
    n_high = n_bits // 2
    n_low = n_bits - n_high
    while True:
        high, low = divmod(index, 2**n_low)
        for number, key in enumerate(keys):
            word = ((high if number % 2 else low) ^ key) * 0xBF58476D1CE4E5B9 % 2**64
            word = (word ^ (word >> 32)) * 0x94D049BB133111EB % 2**64
            if number % 2:
                low ^= word >> (64 - n_low)
            else:
                high ^= word >> (64 - n_high)
        index = high * 2**n_low + low
        if index < n:
            return index


def training_sample(
    histories: list[list[int]],
    n_items: int,
    n_negatives: int,
    *,
    seed: int,
    epoch: int,
    number: int,
    grouped: bool = False,
) -> tuple[int, int, float]:
    """Sample ``number`` of an epoch as (user, item, label), in integers without a limit."""

    def keys(purpose: bytes, n: int) -> list[int]:
        entropy = [seed, int.from_bytes(purpose, "little"), epoch]
        return [int(key) for key in np.random.SeedSequence(entropy).generate_state(n, np.uint64)]

    pairs = [(user, item) for user, history in enumerate(histories) for item in sorted(history)]
    if grouped:
        group, place = divmod(number, 1 + n_negatives)
        sample = permute(group, len(pairs), keys(b"shuffle", 6)) * (1 + n_negatives) + place
    else:
        sample = permute(number, len(pairs) * (1 + n_negatives), keys(b"shuffle", 6))
    user, item = pairs[sample // (1 + n_negatives)]
    if sample % (1 + n_negatives) == 0:
        return user, item, 1.0
    free = free_items(histories[user], n_items)
    return user, free[(random_word(keys(b"draw", 1)[0], sample) >> 32) * len(free) // 2**32], 0.0


def ranks_in_all_orders(positive_score: float, negative_scores: Iterable[float]) -> list[int]:
    """Rank from 0 of the positive in every order of the list that sorts by score, best first."""
    negative_scores = list(negative_scores)
    above = sum(score > positive_score for score in negative_scores)
    tied = ["positive"] + ["negative"] * sum(score == positive_score for score in negative_scores)
    return [above + order.index(0) for order in itertools.permutations(range(len(tied)))]


def split_rows(users: Any, items: Any, times: Any, ties: Any) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Of each user: items but the last one, ascending; the same in the order of time; the last one."""
    ascending, histories, last = [], [], []
    for user in range(max(users) + 1):
        rows = [row for row in range(len(users)) if users[row] == user]
        rows.sort(key=lambda row: (times[row], 0 if ties is None else ties[row], row))
        kept = [
            row for place, row in enumerate(rows) if items[row] not in [items[other] for other in rows[place + 1 :]]
        ]
        histories.append([int(items[row]) for row in kept[:-1]])
        ascending.append(sorted(histories[-1]))
        last.append(int(items[kept[-1]]))
    return ascending, histories, last


def leave_one_out(table: pd.DataFrame, min_ratings: int) -> dict[Any, tuple[list[Any], Any, bool]]:
    """Map each user that is kept to (train items by time, held-out item, whether the last two are tied in time).

    ``table`` has the columns user, item and time, its rows in the order of the file.
    """
    split = {}
    for user, rows in table.groupby("user", sort=False):
        history = rows.sort_values("time", kind="stable").drop_duplicates("item", keep="last")
        if len(rows) >= min_ratings and len(history) > 1:
            *others, last = history["item"]
            split[user] = (others, last, history["time"].iloc[-1] == history["time"].iloc[-2])
    return split


def item_similarities(histories: list[list[int]], n_items: int, idf_power: float) -> Floats:
    """Weighted cosines of all pairs of items, (items, items), a pair at a time; 0 for an item that nobody has."""
    weights = np.array([math.log((n_items + 1) / max(len(history), 1)) ** idf_power for history in histories])
    columns = np.array([[item in history for history in histories] for item in range(n_items)]) * weights
    cosines = np.zeros((n_items, n_items))
    for item, other in np.ndindex(cosines.shape):
        norm = np.linalg.norm(columns[item]) * np.linalg.norm(columns[other])
        cosines[item, other] = columns[item] @ columns[other] / norm if norm else 0.0
    return cosines


def item_knn_scores(histories: list[list[int]], n_items: int, idf_power: float) -> Floats:
    """Sums of the weighted cosines of an item and each item of a user, (users, items); all items are neighbours."""
    cosines = item_similarities(histories, n_items, idf_power)
    return np.array([cosines[history].sum(axis=0) for history in histories])


def pad_crop_flip(
    image: NDArray[np.uint8], top: int, left: int, is_flipped: bool, padding: int, color: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Return the window of one padded image (height, width, 3), a pixel at a time."""
    height, width, _ = image.shape
    result = np.empty_like(image)
    for row in range(height):
        for column in range(width):
            source_row = row + top - padding
            source_column = (width - 1 - column if is_flipped else column) + left - padding
            inside = 0 <= source_row < height and 0 <= source_column < width
            result[row, column] = image[source_row, source_column] if inside else color
    return result


def recommended_items(scores: list[float], seen: list[int], k: int) -> list[int]:
    """The first ``k`` items that are not seen when all that have a score are sorted, best first, then by number."""
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], item))
    return [item for item in order if item not in seen and scores[item] > -math.inf][:k]


def recent_mean(state: dict[str, Floats], recent: Iterable[int]) -> Floats:
    """Mean of the rows of the recent items that there are (not -1), each weighted by softplus of its place's number."""
    total, weights = np.zeros(state["recent.weight"].shape[1]), 0.0
    for place, item in enumerate(recent):
        if item >= 0:
            weight = math.log1p(math.exp(float(state["recent.places"][place])))
            total, weights = total + weight * state["recent.weight"][item], weights + weight
    return total / weights if weights else total


def recent_mean_gradients(
    table: Floats, weights: Floats, recent: list[list[int]], grads: Floats
) -> tuple[Floats, Floats]:
    """Gradients of the table and of the places' weights from those of the means of ``recent``, by the quotient rule."""
    of_table, of_weights = np.zeros(table.shape), np.zeros(len(weights))
    for row, grad in zip(recent, grads, strict=True):
        there = [(place, item) for place, item in enumerate(row) if item >= 0]
        total = sum(weights[place] for place, _ in there)
        weighted = sum(weights[place] * table[item] for place, item in there)
        for place, item in there:
            of_table[item] += grad * weights[place] / total
            of_weights[place] += grad @ (table[item] * total - weighted) / total**2
    return of_table, of_weights


def ncf_logit(state: dict[str, Floats], user: int, item: int, recent: Iterable[int] = ()) -> float:
    """Logit of one pair, at full precision and in evaluation, from the state_dict of `ncf_ppt.model.NCF`."""
    parts, more = [], 0.0
    mean = recent_mean(state, recent) if "recent.weight" in state else np.empty(0)
    if "next_item.weight" in state:
        more = float(mean @ state["next_item.weight"][item] + state["item_bias.weight"][item, 0])
    if "gmf_user.weight" in state:
        parts.append(state["gmf_user.weight"][user] * state["gmf_item.weight"][item])
    if "mlp_user.weight" in state:
        joined = [state["mlp_user.weight"][user], mean, state["mlp_item.weight"][item]]
        x = state["first.weight"] @ np.concatenate(joined)
        x = x + state.get("first.bias", 0)
        # Activations stand at the even places, each behind a Linear; without BatchNorm they have no parameters.
        n_linear = sum(key.startswith("mlp.") and values.ndim == 2 for key, values in state.items())
        for place in range(0, 2 * n_linear + 1, 2):
            if place:
                x = state[f"mlp.{place - 1}.weight"] @ x + state.get(f"mlp.{place - 1}.bias", 0)
            norm = {key.split(".")[2]: values for key, values in state.items() if key.startswith(f"mlp.{place}.")}
            if norm:
                x = (x - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5) * norm["weight"] + norm["bias"]
            x = np.maximum(x, 0)
        parts.append(x)
    return float(state["last.weight"][0] @ np.concatenate(parts) + state["last.bias"][0]) + more


def top_codes(
    user: Floats, user_scale: Any, items: Floats, scales: Floats, k: int, bias: float, seen: set[int]
) -> list[tuple[int, Any]]:
    """Best ``k`` (item, score) of signs (n_items, n_bits), -1 or +1, times scales; of equals the lower number first."""
    scores = []
    for item in range(len(items)):
        count = np.float32(sum(int(a) * int(b) for a, b in zip(user, items[item], strict=True)))
        score = np.float32(np.float32(np.float32(count * scales[item]) * np.float32(user_scale)) + np.float32(bias))
        scores.append((-score, item))
    return [(item, -negated) for negated, item in sorted(scores) if item not in seen][:k]


def bootstrap_interval(differences: list[float], n_resamples: int, seed: int) -> tuple[float, float]:
    """Draw as many users as there are, with replacement, again and again: the middle 95% of the means."""
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(differences, k=len(differences))) / len(differences) for _ in range(n_resamples))
    return means[round(0.025 * n_resamples)], means[round(0.975 * n_resamples) - 1]


def sign_flip_p_value(differences: list[float]) -> float:
    """Share of all ways to give each difference a sign whose mean is at least as far from 0."""
    found = abs(sum(differences))
    signs = itertools.product([-1, 1], repeat=len(differences))
    sums = [sum(sign * each for sign, each in zip(row, differences, strict=True)) for row in signs]
    return sum(abs(each) >= found - 1e-12 for each in sums) / len(sums)


def corrected_together(p_values: list[float]) -> list[float]:
    """Holm's correction as a closed test: a hypothesis falls if each set that holds it falls by Bonferroni."""
    numbers = range(len(p_values))
    subsets = [[n for n in numbers if chosen >> n & 1] for chosen in range(1, 1 << len(p_values))]
    worst = {tuple(subset): min(1.0, len(subset) * min(p_values[n] for n in subset)) for subset in subsets}
    return [max(p for subset, p in worst.items() if n in subset) for n in numbers]
