"""Whether values of the same users differ by more than chance: a bootstrap interval, a permutation test, Holm."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 10_000
_DRAWS_PER_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """A mean difference over users, of the second model over the first.

    Attributes:
        mean: above 0 where the second is better.
        lower: of the 95% percentile interval when users are drawn anew, with replacement.
        upper: likewise.
        p_value: two-sided, of a permutation test: how often a mean at least as far from 0 arises when each user's
            two values change places at random. At least 1 / (resamples + 1).
        p_holm: the same after `holm` over all that were tested together; None for one that was tested alone.
    """

    mean: float
    lower: float
    upper: float
    p_value: float
    p_holm: float | None = None


def paired_difference(
    first: NDArray[np.float64], second: NDArray[np.float64], *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> PairedDifference:
    """Compare two models' values for the same users, each (n_users,).

    Both the interval and the test are over users, for these trained models: another seed of training is another model,
    and no number of users says how those vary.

    Few differences are distinct, since a rank has few values, so what is drawn is how many users have each of them, by
    a multinomial for the interval, and how many of them change sign, by binomials for the test.

    Raises ValueError if the shapes differ, are empty, or ``n_resamples`` is below 1.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"values of shapes {first.shape} and {second.shape} are not pairs; give one of each user")
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}; it must be at least 1")
    rng = np.random.default_rng(np.random.SeedSequence([seed, int.from_bytes(b"comparison", "little")]))
    differences = second - first
    n_users, mean = len(differences), differences.mean()
    values, n_with = np.unique(differences, return_counts=True)
    sizes, n_of_size = np.unique(np.abs(differences), return_counts=True)
    means, flipped = np.empty(n_resamples), np.empty(n_resamples)
    n_rows = max(1, _DRAWS_PER_BLOCK // len(values))
    for start in range(0, n_resamples, n_rows):
        rows = slice(start, min(start + n_rows, n_resamples))
        shape = rows.stop - rows.start
        means[rows] = rng.multinomial(n_users, n_with / n_users, shape) @ values / n_users
        n_positive = rng.binomial(n_of_size, 0.5, (shape, len(sizes)))
        flipped[rows] = (2 * n_positive - n_of_size) @ sizes / n_users
    lower, upper = np.percentile(means, [2.5, 97.5])
    as_far = np.abs(flipped) >= abs(mean) - 1e-12  # equal sums in another order
    return PairedDifference(
        mean=float(mean),
        lower=float(lower),
        upper=float(upper),
        p_value=float((1 + as_far.sum()) / (1 + n_resamples)),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values of several tests that are read together (Holm 1979).

    The smallest is multiplied by their number, the next by one less, and so on; none falls below one before it, or
    rises above 1. Rejecting what stays below 0.05 then errs anywhere with a chance of 5% at most, however the tests
    depend on each other.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.minimum(1.0, np.maximum.accumulate(factors * np.asarray(p_values, np.float64)[order]))
    result = np.empty(len(p_values))
    result[order] = corrected
    return [float(value) for value in result]
