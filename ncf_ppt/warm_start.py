"""Start a network from the factors of ALS: a first phase that takes seconds."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.baselines import ALSConfig, MatrixFactorization, fit_baseline


@dataclass(frozen=True, kw_only=True)
class ALSStart:
    """How the factors are fitted that a network starts from.

    Attributes:
        factors: their number, at most the network's, which None takes; the components beyond start at 0. Embeddings
            that become 1-bit are rotated first, so these give them more bits than ALS has factors.
        regularization: see `ncf_ppt.baselines.ALSConfig`.
        alpha: see `ncf_ppt.baselines.ALSConfig`.
        iterations: sweeps over users and items.
    """

    regularization: float = 30.0
    alpha: float = 5.0
    iterations: int = 15
    factors: int | None = None

    def __post_init__(self) -> None:
        self.als(1 if self.factors is None else self.factors)

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values; ``factors`` only if chosen, since older runs have no such key."""
        values = asdict(self)
        if self.factors is None:
            del values["factors"]
        return values

    def n_fitted(self, factors: int) -> int:
        """How many factors ALS has for a network of ``factors``. Raises ValueError if it has more."""
        if self.factors is not None and self.factors > factors:
            raise ValueError(
                f"ALS is to start with {self.factors} factors, and the network has {factors}; give ALS no more"
            )
        return factors if self.factors is None else self.factors

    def als(self, factors: int) -> ALSConfig:
        """The baseline of this start."""
        return ALSConfig(
            factors=factors, regularization=self.regularization, alpha=self.alpha, iterations=self.iterations
        )


def balanced_factors(start: ALSStart, data: PreparedData, factors: int, *, seed: int) -> MatrixFactorization:
    """Fit ALS and give users' and items' vectors the same root mean square length, which leaves their products alone.

    Vectors have ``factors`` components; those beyond the start's own are 0. The result is a function of the arguments;
    only the train positives of ``data`` are read.

    Raises ValueError if the start has more factors.
    """
    n_fitted = start.n_fitted(factors)
    fitted = fit_baseline(start.als(n_fitted), data, seed=seed)
    assert isinstance(fitted, MatrixFactorization)
    users, items = _mean_length(fitted.user_vectors), _mean_length(fitted.item_vectors)
    ratio = np.float32(math.sqrt(items / users)) if users and items else np.float32(1)
    beyond = (0, 0), (0, factors - n_fitted)
    return MatrixFactorization(
        user_vectors=np.pad(fitted.user_vectors * ratio, beyond),
        item_vectors=np.pad(fitted.item_vectors / ratio, beyond),
    )


def _mean_length(vectors: NDArray[np.float32]) -> float:
    return math.sqrt(float(np.mean(np.square(vectors, dtype=np.float64).sum(axis=1))))
