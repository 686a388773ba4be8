"""Whether values of the same users differ by more than chance: a bootstrap interval, a permutation test, Holm."""

from collections.abc import Iterator, Sequence
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


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over users, and the 95% percentile interval of it when users are drawn anew, with replacement."""

    mean: float
    lower: float
    upper: float


def mean_interval(values: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """The mean of one value of each user, (n_users,), and how far it would move with other users.

    Raises ValueError if there is none.
    """
    if not len(values):
        raise ValueError("there are no users, so there is no mean; give one value at least")
    lower, upper = np.percentile(_resampled_means(values, N_RESAMPLES, _generator(seed)), [2.5, 97.5])
    return Interval(mean=float(values.mean()), lower=float(lower), upper=float(upper))


def paired_difference(
    first: NDArray[np.float64], second: NDArray[np.float64], *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> PairedDifference:
    """Compare two models' values for the same users, each (n_users,).

    Both the interval and the test are over users, for these trained models: another seed of training is another model,
    and no number of users says how those vary.

    Few differences are distinct, since a rank has few values, so what is drawn for the test is how many of each change
    sign, by binomials, as the interval draws how many users have each, by a multinomial.

    Raises ValueError if the shapes differ, are empty, or ``n_resamples`` is below 1.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"values of shapes {first.shape} and {second.shape} are not pairs; give one of each user")
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}; it must be at least 1")
    rng = _generator(seed)
    differences = second - first
    n_users, mean = len(differences), differences.mean()
    lower, upper = np.percentile(_resampled_means(differences, n_resamples, rng), [2.5, 97.5])
    sizes, n_of_size = np.unique(np.abs(differences), return_counts=True)
    flipped = np.empty(n_resamples)
    for rows in _blocks(n_resamples, len(sizes)):
        n_positive = rng.binomial(n_of_size, 0.5, (rows.stop - rows.start, len(sizes)))
        flipped[rows] = (2 * n_positive - n_of_size) @ sizes / n_users
    as_far = np.abs(flipped) >= abs(mean) - 1e-12  # equal sums in another order
    return PairedDifference(
        mean=float(mean),
        lower=float(lower),
        upper=float(upper),
        p_value=float((1 + as_far.sum()) / (1 + n_resamples)),
    )


def _generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, int.from_bytes(b"comparison", "little")]))


def _resampled_means(values: NDArray[np.float64], n_resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Means of as many users drawn with replacement, (n_resamples,)."""
    distinct, n_with = np.unique(values, return_counts=True)
    means = np.empty(n_resamples)
    for rows in _blocks(n_resamples, len(distinct)):
        drawn = rng.multinomial(len(values), n_with / len(values), rows.stop - rows.start)
        means[rows] = drawn @ distinct / len(values)
    return means


def _blocks(n_resamples: int, n_distinct: int) -> Iterator[slice]:
    """Rows of a table of draws that are drawn together, so that memory stays bounded."""
    n_rows = max(1, _DRAWS_PER_BLOCK // n_distinct)
    for start in range(0, n_resamples, n_rows):
        yield slice(start, min(start + n_rows, n_resamples))


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
