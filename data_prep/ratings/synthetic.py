"""Synthetic interactions that look like MovieLens: planted tastes, popular items, busy users."""

import math

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings import _kernels
from data_prep.ratings.raw_ratings import Ratings
from ppt_core.errors import DataError
from ppt_core.random_words import check_seed

# The built-in sample. Large enough for 999 strict negatives of every user: the busiest takes half of the items.
SAMPLE: dict[str, int] = {"n_users": 1_000, "n_items": 2_000, "n_interactions": 80_000}

_N_FACTORS = 12
_UNIFORM_SHARE = 0.02  # of each taste: noise, and what bounds the work of rejection
# Dirichlet parameters: the smaller, the fewer factors share a user or an item. At the sample's size HR@10 is .4 of
# ALS and .2 of popularity (999 negatives).
_TASTE_SHAPE = 0.05
_APPEAL_SHAPE = 0.1
_POPULARITY_EXPONENT = 1.6  # Zipf-Mandelbrot, flat over the first hundredth of the items
_ACTIVITY_SPREAD = 1.38  # of a lognormal: median 68 at a mean of 144 ratings, as in MovieLens-20M
_LEAST_ACTIVITY = 20
_FIRST_TIME = 946_684_800  # 2000-01-01, in seconds since 1970
_TIME_SPAN = 15 * 365 * 86_400
_MEAN_GAP = 40.0  # seconds between two ratings; rounding down leaves 2.5% of neighbours with equal times


def synthesize(n_users: int, n_items: int, n_interactions: int, *, in_order: float = 0, seed: int) -> Ratings:
    """Draw implicit interactions whose structure is known: low rank, long tails, leave-one-out by time.

    User u takes item i with a probability proportional to sum over k of taste[u, k] * appeal[k, i], never twice.
    A taste is a sparse mixture of 12 factors; a factor's items have Zipf-like popularity. The number of items a
    user takes is lognormal, at least 20 where the average allows it (else the average, rounded down), at most
    half of the items where that is enough.

    With ``in_order`` above 0 time says something, too. All items lie on a ring, without relation to anything else. Each
    user takes that share of the same items in the order of the ring, from a place of the user's own, and the rest at
    any time between. So the last few items tell where on the ring the next one lies, and a user's items as a set do
    not.

    Args:
        n_users: users that appear, each at least once; ids 1, 2, ...
        n_items: items that appear, each at least once; ids 1, 2, ... without relation to popularity.
        n_interactions: number of rows, all distinct pairs.
        in_order: probability of each interaction to be in its place on the ring, 0 .. 1.
        seed: 0 .. 2**63 - 1.

    Returns:
        Rows user by user, each user's in the order of time; times are seconds. The same for any number of threads.

    Raises:
        DataError: the sizes contradict each other.
        ValueError: ``in_order`` is not between 0 and 1.
    """
    if not 0 <= in_order <= 1:
        raise ValueError(f"in_order is {in_order}; it must be between 0 and 1")
    _check_sizes(n_users, n_items, n_interactions, seed)
    activity_seed, popularity_seed, taste_seed, time_seed, key_seed, repair_seed, order_seed = np.random.SeedSequence(
        [seed, int.from_bytes(b"synthesize", "little")]
    ).spawn(7)
    offsets = np.zeros(n_users + 1, np.int64)
    np.cumsum(_draw_activity(n_users, n_items, n_interactions, activity_seed), out=offsets[1:])
    items = np.empty(n_interactions, np.int32)
    times = np.empty(n_interactions, np.int64)
    _kernels.fill_histories(
        offsets,
        _draw_tastes(n_users, taste_seed),
        _draw_appeals(n_items, popularity_seed),
        _MEAN_GAP,
        key_seed.generate_state(1, np.uint64)[0],
        np.random.default_rng(time_seed).integers(_FIRST_TIME, _FIRST_TIME + _TIME_SPAN, n_users),
        items,
        times,
    )
    _include_every_item(items, n_items, np.random.default_rng(repair_seed))
    if in_order:
        _follow_the_ring(items, offsets, n_items, in_order, np.random.default_rng(order_seed))
    numbers = np.empty(n_items, np.int32)
    _kernels.number_by_appearance(items, np.full(n_items, -1, np.int32), numbers)
    return Ratings(
        users=np.repeat(np.arange(n_users, dtype=np.int32), np.diff(offsets)),
        items=items,
        times=times,
        user_ids=np.arange(1, n_users + 1, dtype=np.int64),
        item_ids=numbers.astype(np.int64) + 1,
    )


def _check_sizes(n_users: int, n_items: int, n_interactions: int, seed: int) -> None:
    check_seed(seed)
    for what, n in (("users", n_users), ("items", n_items)):
        if not 1 <= n < 2**31:
            raise DataError(f"synthetic data cannot have {n:,} {what}; ask for 1 to 2,147,483,647")
        if n_interactions < n:
            raise DataError(
                f"{n_interactions:,} interactions cannot cover {n:,} {what}; ask for at least as many interactions"
            )
    if n_interactions > n_users * n_items:
        raise DataError(
            f"{n_users:,} users and {n_items:,} items have {n_users * n_items:,} pairs, fewer than the "
            f"{n_interactions:,} interactions; ask for fewer interactions"
        )


def _draw_activity(n_users: int, n_items: int, n_interactions: int, seed: np.random.SeedSequence) -> NDArray[np.int64]:
    """How many items each user takes, int64 (n_users,): long-tailed, within bounds, of the exact sum."""
    least = min(_LEAST_ACTIVITY, n_interactions // n_users)
    most = min(n_items, max(n_items // 2, least, 2 * math.ceil(n_interactions / n_users)))
    weights = np.random.default_rng(seed).lognormal(sigma=_ACTIVITY_SPREAD, size=n_users)

    def share(scale: float) -> NDArray[np.float64]:
        return np.minimum(least + scale * weights, most)

    low, high = 0.0, 1.0
    while share(high).sum() < n_interactions and high < 1e18:
        high *= 2
    for _ in range(100):  # bisection to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle).sum() < n_interactions else (low, middle)
    counts = np.floor(share(low)).astype(np.int64)
    # What rounding down lost: one more for as many users as needed, the closest to their next integer first.
    nearest = np.argsort(counts - share(low), kind="stable")
    while lost := n_interactions - int(counts.sum()):
        open_users = nearest[counts[nearest] < most][:lost]
        counts[open_users] += 1
    return counts


def _draw_tastes(n_users: int, seed: np.random.SeedSequence) -> NDArray[np.float64]:
    """Cumulative mixture of the factors for each user, float64 (n_users, n_factors + 1); the last is uniform."""
    tastes = np.random.default_rng(seed).gamma(_TASTE_SHAPE, size=(n_users, _N_FACTORS)) + 1e-9
    tastes *= (1 - _UNIFORM_SHARE) / tastes.sum(axis=1, keepdims=True)
    return _cumulate(np.column_stack([tastes, np.full(n_users, _UNIFORM_SHARE)]))


def _draw_appeals(n_items: int, seed: np.random.SeedSequence) -> NDArray[np.float64]:
    """Cumulative distribution over items for each factor, float64 (n_factors + 1, n_items)."""
    rng = np.random.default_rng(seed)
    popularity = (rng.permutation(n_items) + 1 + n_items / 100) ** -_POPULARITY_EXPONENT
    shares = rng.gamma(_APPEAL_SHAPE, size=(_N_FACTORS, n_items)) + 1e-9
    # Divided first: a gamma that is not is so long-tailed that it would decide popularity.
    return _cumulate(np.vstack([popularity * shares / shares.sum(axis=0), np.ones(n_items)]))


def _cumulate(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = np.cumsum(weights, axis=1)
    sums /= sums[:, -1:].copy()
    return sums


def _include_every_item(items: NDArray[np.int32], n_items: int, rng: np.random.Generator) -> None:
    """Give each item that nobody took a random row whose item has another row.

    No user can then hold it twice. The tail of a catalogue needs this: at the size of MovieLens-20M a few items.
    """
    last_row = np.full(n_items, -1, np.int64)
    last_row[items] = np.arange(len(items))  # of equal indices the last assignment stands
    missing = np.flatnonzero(last_row < 0)
    if len(missing):
        is_spare = np.ones(len(items), np.bool_)
        is_spare[last_row[last_row >= 0]] = False
        items[rng.choice(np.flatnonzero(is_spare), len(missing), replace=False)] = missing


def _follow_the_ring(
    items: NDArray[np.int32], offsets: NDArray[np.int64], n_items: int, in_order: float, rng: np.random.Generator
) -> None:
    """Sort each user's items by how far round the ring they are, or, those that are not in order, by chance."""
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    places, starts = rng.random(n_items), rng.random(len(offsets) - 1)
    around = (places[items] - starts[users]) % 1
    moments = np.where(rng.random(len(items)) < in_order, around, rng.random(len(items)))
    items[:] = items[np.lexsort((moments, users))]
