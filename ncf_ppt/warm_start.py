"""Start a network from the factors of ALS: a first phase that takes seconds."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.baselines import ALSConfig, MatrixFactorization, fit_baseline


@dataclass(frozen=True, kw_only=True)
class ALSStart:
    """How the factors are fitted that a network starts from; their number is the network's.

    Attributes:
        regularization: see `ncf_ppt.baselines.ALSConfig`.
        alpha: see `ncf_ppt.baselines.ALSConfig`.
        iterations: sweeps over users and items.
    """

    regularization: float = 30.0
    alpha: float = 5.0
    iterations: int = 15

    def __post_init__(self) -> None:
        self.als(1)

    def als(self, factors: int) -> ALSConfig:
        """The baseline of this start."""
        return ALSConfig(
            factors=factors, regularization=self.regularization, alpha=self.alpha, iterations=self.iterations
        )


def balanced_factors(start: ALSStart, data: PreparedData, factors: int, *, seed: int) -> MatrixFactorization:
    """Fit ALS and give users' and items' vectors the same root mean square length, which leaves their products alone.

    The result is a function of the arguments; only the train positives of ``data`` are read.
    """
    fitted = fit_baseline(start.als(factors), data, seed=seed)
    assert isinstance(fitted, MatrixFactorization)
    users, items = _mean_length(fitted.user_vectors), _mean_length(fitted.item_vectors)
    ratio = np.float32(math.sqrt(items / users)) if users and items else np.float32(1)
    return MatrixFactorization(user_vectors=fitted.user_vectors * ratio, item_vectors=fitted.item_vectors / ratio)


def _mean_length(vectors: NDArray[np.float32]) -> float:
    return math.sqrt(float(np.mean(np.square(vectors, dtype=np.float64).sum(axis=1))))
