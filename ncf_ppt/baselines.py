"""Popularity, item-kNN, ALS and BPR: what a network must beat, behind the same evaluator.

The defaults are tuned, since weak baselines make bad comparisons (Ferrari Dacrema et al. 2019): on MovieLens-1M and
-100K each user's last train item was held out and ranked among 99 uniform negatives and in the whole catalogue.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from data_prep.ratings.interactions import Interactions, PreparedData
from ncf_ppt import _kernels
from ppt_core.errors import DataError
from ppt_core.threads import threads_in_use

_BLOCK_BYTES = 1 << 26  # of catalogue scores that `ItemKNN` holds to look up some of them


def _check(config: "BaselineConfig", at_least: dict[str, int]) -> None:
    for name, least in at_least.items():
        value = getattr(config, name)
        if not least <= value < math.inf:
            raise ValueError(f"{name} is {value}; it must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class PopularConfig:
    """Score an item by the number of its train positives. Nothing to set."""


@dataclass(frozen=True, kw_only=True)
class ItemKNNConfig:
    """Score an item by the sum of its similarities to the user's train items (Sarwar et al. 2001).

    Two items are as similar as the cosine of their columns, in which user u with n_u train items weighs
    ``log((n_items + 1) / n_u) ** idf_power``: those who take everything say little.

    Attributes:
        neighbours: most similar items kept for each item, itself included.
        idf_power: 0 is the plain cosine, 1 is TF-IDF; 2 was better than both on validation
            (HR@10 .656 against .624 and .638 on MovieLens-1M).
    """

    neighbours: int = 70
    idf_power: float = 2.0

    def __post_init__(self) -> None:
        _check(self, at_least={"neighbours": 1, "idf_power": 0})


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
        _check(self, at_least={"factors": 1, "regularization": 0, "alpha": 0, "iterations": 1})


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
        _check(self, at_least={"factors": 1, "learning_rate": 0, "regularization": 0, "iterations": 1})


BaselineConfig = PopularConfig | ItemKNNConfig | ALSConfig | BPRConfig

BASELINES: dict[str, BaselineConfig] = {
    "popular": PopularConfig(),
    "item-knn": ItemKNNConfig(),
    "als": ALSConfig(),
    "bpr": BPRConfig(),
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

    Raises ValueError for an unknown name or a negative seed, and `DataError` if the factors diverge.
    """
    if isinstance(baseline, str) and baseline not in BASELINES:
        raise ValueError(f"baseline is {baseline!r}; choose one of {', '.join(BASELINES)}")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be at least 0")
    config = BASELINES[baseline] if isinstance(baseline, str) else baseline
    if isinstance(config, PopularConfig):
        return Popularity(counts=np.bincount(data.train.items, minlength=data.n_items).astype(np.float32))
    if isinstance(config, ItemKNNConfig):
        return _fit_item_knn(config, data.train)
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
class ItemKNN:
    """Fitted `ItemKNNConfig`.

    Attributes:
        train: the train positives, float32 ones (n_users, n_items).
        similarities: float32 (n_items, n_items); row i holds the most similar items of item i.
    """

    train: csr_matrix
    similarities: csr_matrix

    def __call__(self, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `Baseline`; scores whole rows, about 64 MiB at a time, and picks the candidates."""
        scores = np.empty(candidates.shape, np.float32)
        n_rows = max(1, _BLOCK_BYTES // (4 * self.train.shape[1]))
        for start in range(0, len(users), n_rows):
            rows = slice(start, start + n_rows)
            catalogue = self.score_catalogue(users[rows])
            scores[rows] = np.take_along_axis(catalogue, candidates[rows].astype(np.int64), axis=1)
        return scores

    def score_catalogue(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Baseline`; an item that neighbours none of the user's scores 0."""
        scores: NDArray[np.float32] = (self.train[users] @ self.similarities).toarray()
        return scores


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
        _kernels.add_catalogue_products(self.user_vectors[users], np.ascontiguousarray(self.item_vectors.T), scores)
        return scores


def _fit_item_knn(config: ItemKNNConfig, train: Interactions) -> ItemKNN:
    from implicit.nearest_neighbours import ItemItemRecommender

    users = train.users()
    weights = np.log((train.n_items + 1) / np.maximum(train.degrees, 1)) ** config.idf_power
    norms = np.sqrt(np.bincount(train.items, weights[users] ** 2, minlength=train.n_items))
    weighted = _matrix(train, weights[users] / norms[train.items])
    model = ItemItemRecommender(K=min(config.neighbours, train.n_items), num_threads=threads_in_use())
    model.fit(weighted, show_progress=False)
    ones = np.ones(len(train), np.float32)
    return ItemKNN(train=_matrix(train, ones), similarities=model.similarity.astype(np.float32))


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
            model.fit(_matrix(train, np.ones(len(train), np.float32)), show_progress=False)
        except ModelFitError:
            raise DataError(f"the factors diverged under {config}; lower the learning rate or alpha") from None
    return MatrixFactorization(user_vectors=model.user_factors, item_vectors=model.item_factors)


def _matrix(train: Interactions, values: NDArray[Any]) -> csr_matrix:
    # Copies, since the arrays of a prepared set are read-only and `implicit` asks for buffers it could write to.
    return csr_matrix((values, train.items, train.offsets), shape=(train.n_users, train.n_items), copy=True)
