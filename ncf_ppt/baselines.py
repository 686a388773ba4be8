"""Popularity, item-kNN, ALS, BPR and two that see the order in time: what a network must beat, by one evaluator.

The defaults are tuned, since weak baselines make bad comparisons (Ferrari Dacrema et al. 2019): on MovieLens-1M and
-100K each user's last train item was held out and ranked among 99 uniform negatives and in the whole catalogue.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions, PreparedData
from ncf_ppt import _kernels
from ncf_ppt.histories import histories_of, places_in_history
from ncf_ppt.item_knn import ItemKNNConfig, check_at_least, fit_item_knn, interaction_matrix
from ncf_ppt.sequence_baselines import MarkovConfig, RecentItemKNNConfig, fit_markov, fit_recent_item_knn
from ppt_core.errors import DataError
from ppt_core.threads import threads_in_use


@dataclass(frozen=True, kw_only=True)
class PopularConfig:
    """Score an item by the number of its train positives. Nothing to set."""


@dataclass(frozen=True, kw_only=True)
class ALSConfig:
    """Weighted matrix factorization by alternating least squares (Hu, Koren, Volinsky 2008).

    Attributes:
        factors: size of the vectors.
        regularization: L2 penalty, not scaled by the number of interactions; below 10 it overfits small sets.
        alpha: confidence of an interaction, where that of none is 1.
        iterations: sweeps over users and items.
    """

    factors: int = 64
    regularization: float = 30.0
    alpha: float = 5.0
    iterations: int = 15

    def __post_init__(self) -> None:
        check_at_least(self, {"factors": 1, "regularization": 0, "alpha": 0, "iterations": 1})


@dataclass(frozen=True, kw_only=True)
class BPRConfig:
    """Matrix factorization with an item bias by Bayesian personalized ranking (Rendle et al. 2009).

    `implicit` draws a negative as the item of a random interaction, so by popularity; a popular item that the
    user does not have counts as disliked more than uniform test negatives ask for.

    Attributes:
        factors: size of the vectors, the bias apart.
        learning_rate: of the stochastic gradient descent.
        regularization: L2 penalty for each sample.
        iterations: passes over the interactions; more of them overfit MovieLens.
    """

    factors: int = 64
    learning_rate: float = 0.02
    regularization: float = 0.01
    iterations: int = 50

    def __post_init__(self) -> None:
        check_at_least(self, {"factors": 1, "learning_rate": 0, "regularization": 0, "iterations": 1})


BaselineConfig = PopularConfig | ItemKNNConfig | ALSConfig | BPRConfig | RecentItemKNNConfig | MarkovConfig

BASELINES: dict[str, BaselineConfig] = {
    "popular": PopularConfig(),
    "item-knn": ItemKNNConfig(),
    "als": ALSConfig(),
    "bpr": BPRConfig(),
    "recent-item-knn": RecentItemKNNConfig(),
    "markov": MarkovConfig(),
}
"""The default config of each baseline, by its name."""


class Baseline(Protocol):
    """A fitted baseline: a `ncf_ppt.ranking.Scorer` that also scores whole catalogues.

    A pair's score is the same bits whichever method, block of users or number of threads computes it.
    """

    def __call__(self, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """Score candidates (n, m) of users (n,): float32 (n, m); higher is better."""

    def score_catalogue(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score every item for users (n,): float32 (n, n_items)."""


def fit_baseline(baseline: str | BaselineConfig, data: PreparedData, *, seed: int = 0) -> Baseline:
    """Fit a baseline to the train positives of ``data``, by its name or by its config.

    The result is a function of the arguments. Measured: item-kNN and ALS of `implicit` give the same bits on 1 to
    4 threads, two runs of BPR on 2 threads differ (they race for the vectors), so BPR runs on one. BLAS is held to
    one thread for the time of a fit: `implicit` would be slower otherwise, and warn.

    Args:
        baseline: one of `BASELINES`, or a config with other settings.
        data: the test items and negatives are not looked at.
        seed: of the initial vectors and of BPR's samples; the other baselines draw nothing.

    Raises ValueError for an unknown name or a negative seed, and `DataError` if the factors diverge, or if a baseline
    sees the order in time and the data do not hold it.
    """
    if isinstance(baseline, str) and baseline not in BASELINES:
        raise ValueError(f"baseline is {baseline!r}; choose one of {', '.join(BASELINES)}")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be at least 0")
    config = BASELINES[baseline] if isinstance(baseline, str) else baseline
    if isinstance(config, PopularConfig):
        return Popularity(counts=np.bincount(data.train.items, minlength=data.n_items).astype(np.float32))
    if isinstance(config, ItemKNNConfig):
        return fit_item_knn(config, data.train)
    if isinstance(config, RecentItemKNNConfig):
        ends = data.train.offsets[data.train.users().astype(np.int64) + 1]
        return fit_recent_item_knn(config, data.train, ends - 1 - places_in_history(data))
    if isinstance(config, MarkovConfig):
        return fit_markov(config, data.train, histories_of(data))
    return _fit_factors(config, data.train, seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class Popularity:
    """Fitted `PopularConfig`.

    Attributes:
        counts: train positives of each item, float32 (n_items,); exact below 2**24.
    """

    counts: NDArray[np.float32]

    def __call__(self, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `Baseline`; the users make no difference."""
        return self.counts[candidates]

    def score_catalogue(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Baseline`; every row is the same."""
        return np.repeat(self.counts[np.newaxis], len(users), axis=0)


@dataclass(frozen=True, kw_only=True, eq=False)
class MatrixFactorization:
    """Fitted `ALSConfig` or `BPRConfig`: scores are inner products, their terms added in order.

    BLAS rounds by the shape of the block.

    Attributes:
        user_vectors: float32 (n_users, size), all zero for a user without train items under ALS.
        item_vectors: float32 (n_items, size). BPR's last component is the item's bias, the user's is 1.
    """

    user_vectors: NDArray[np.float32]
    item_vectors: NDArray[np.float32]

    def __call__(self, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `Baseline`."""
        scores = np.empty(candidates.shape, np.float32)
        _kernels.fill_candidate_products(self.user_vectors[users], self.item_vectors, candidates, scores)
        return scores

    def score_catalogue(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Baseline`."""
        scores = np.zeros((len(users), len(self.item_vectors)), np.float32)
        _kernels.add_catalogue_products(self.user_vectors[users], self._columns, scores)
        return scores

    def with_users(self, user_vectors: NDArray[np.float32]) -> "MatrixFactorization":
        """The same items for other users; what was computed of the items is shared."""
        twin = replace(self, user_vectors=user_vectors)
        twin.__dict__["_columns"] = self._columns
        return twin

    @cached_property
    def _columns(self) -> NDArray[np.float32]:
        return np.ascontiguousarray(self.item_vectors.T)


def _fit_factors(config: ALSConfig | BPRConfig, train: Interactions, seed: int) -> MatrixFactorization:
    from implicit.cpu.als import AlternatingLeastSquares
    from implicit.cpu.bpr import BayesianPersonalizedRanking
    from implicit.recommender_base import ModelFitError
    from threadpoolctl import threadpool_limits

    settings: dict[str, Any] = {field.name: getattr(config, field.name) for field in fields(config)}
    with threadpool_limits(1, "blas"):
        if isinstance(config, ALSConfig):
            model = AlternatingLeastSquares(**settings, random_state=seed, num_threads=threads_in_use())
        else:
            model = BayesianPersonalizedRanking(**settings, random_state=seed, num_threads=1)
        try:
            model.fit(interaction_matrix(train, np.ones(len(train), np.float32)), show_progress=False)
        except ModelFitError:
            raise DataError(f"the factors diverged under {config}; lower the learning rate or alpha") from None
    return MatrixFactorization(user_vectors=model.user_factors, item_vectors=model.item_factors)
