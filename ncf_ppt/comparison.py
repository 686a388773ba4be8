"""Whether one model ranks better than another for the same users: paired differences, their intervals and tests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ncf_ppt.ranking import Ranks
from ppt_core.errors import DataError
from ppt_core.identity import differences
from ppt_core.runs.run import Run

N_RESAMPLES = 2000
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
    """

    mean: float
    lower: float
    upper: float
    p_value: float


def paired_difference(
    first: NDArray[np.float64], second: NDArray[np.float64], *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> PairedDifference:
    """Compare two models' values for the same users, each (n_users,).

    Both the interval and the test are over users, for these trained models: another seed of training is another model,
    and no number of users says how those vary.

    Raises ValueError if the shapes differ, are empty, or ``n_resamples`` is below 1.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"values of shapes {first.shape} and {second.shape} are not pairs; give one of each user")
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}; it must be at least 1")
    rng = np.random.default_rng(np.random.SeedSequence([seed, int.from_bytes(b"comparison", "little")]))
    differences = second - first
    n_users, mean = len(differences), differences.mean()
    # Only users who differ move a sum; the others are counted, not drawn.
    moving = differences[differences != 0]
    means, flipped = np.empty(n_resamples), np.empty(n_resamples)
    n_rows = max(1, _DRAWS_PER_BLOCK // max(1, len(moving)))
    for start in range(0, n_resamples, n_rows):
        rows = slice(start, min(start + n_rows, n_resamples))
        shape = rows.stop - rows.start
        n_drawn = rng.binomial(n_users, len(moving) / n_users, shape)
        for row, n in enumerate(n_drawn, rows.start):
            means[row] = moving[rng.integers(len(moving), size=n)].sum() / n_users if n else 0.0
        signs = rng.integers(0, 2, (shape, len(moving)), np.int8)
        flipped[rows] = (2.0 * (signs @ moving) - moving.sum()) / n_users
    lower, upper = np.percentile(means, [2.5, 97.5])
    as_far = np.abs(flipped) >= abs(mean) - 1e-12  # equal sums in another order
    return PairedDifference(
        mean=float(mean),
        lower=float(lower),
        upper=float(upper),
        p_value=float((1 + as_far.sum()) / (1 + n_resamples)),
    )


def per_user(ranks: Ranks, k: int = 10) -> dict[str, NDArray[np.float64]]:
    """Each user's part of HR@k and NDCG@k, (n_users,): their means are the metrics."""
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    hits = ranks.pessimistic < k
    gains = np.where(hits, np.log(2) / np.log(ranks.pessimistic + 2), 0.0)
    return {"hit_ratio": hits.astype(np.float64), "ndcg": gains}


def refuse_incomparable(runs: Sequence[Run]) -> None:
    """Raise `DataError` unless all runs were trained on the same data and are measured by the same protocol."""
    first = runs[0]
    for run in runs[1:]:
        found = differences(first.config["data"], run.config["data"], "data")
        for name, old, new in sorted(found, key=lambda each: each[0] != "protocol"):  # it says more than a checksum
            what = "protocol" if name == "protocol" else "data (checksum)"
            raise DataError(
                f"{first.path} and {run.path} cannot be compared: their {what} is {old} and {new}; compare runs on the "
                "same prepared set"
            )
