"""Baselines that see in which order users took their items: what a network of recent items must beat.

Their defaults were chosen on the validation items of three prepared sets (MovieLens-1M and -100K, Amazon games), as
those of `ncf_ppt.baselines` were.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from data_prep.ratings.interactions import Interactions
from ncf_ppt.item_knn import ItemKNN, ItemKNNConfig, check_at_least, fit_similarities, interaction_matrix


@dataclass(frozen=True, kw_only=True)
class RecentItemKNNConfig:
    """Item-kNN by recency: an item scores the sum of its similarities to the user's items, the latest counting most.

    The user's item number j from the end (from 0) counts ``decay**j``; similarities are those of `ItemKNNConfig`.

    Attributes:
        neighbours: see `ItemKNNConfig`.
        idf_power: see `ItemKNNConfig`.
        decay: above 0 and at most 1, which is item-kNN itself.
    """

    neighbours: int = 2000
    idf_power: float = 2.0
    decay: float = 0.7

    def __post_init__(self) -> None:
        ItemKNNConfig(neighbours=self.neighbours, idf_power=self.idf_power)
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay is {self.decay}; it must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class MarkovConfig:
    """First-order Markov chain: an item scores by how often it came right after the user's last item.

    Counts of pairs are sparse, so they are smoothed: the score is ``count(last, item) + similarity * s(item) +
    popularity * p(item)``, where s are the cosines of the last item's neighbours (`ItemKNNConfig`), scaled to sum to
    1, and p are the items' shares of all train positives. For a user without items p alone counts.

    Attributes:
        similarity: weight of the neighbours, in counts.
        popularity: weight of the popularity, in counts.
        neighbours: see `ItemKNNConfig`.
        idf_power: see `ItemKNNConfig`.
    """

    similarity: float = 1000.0
    popularity: float = 200.0
    neighbours: int = 1000
    idf_power: float = 2.0

    def __post_init__(self) -> None:
        ItemKNNConfig(neighbours=self.neighbours, idf_power=self.idf_power)
        check_at_least(self, {"similarity": 0, "popularity": 0})


@dataclass(frozen=True, kw_only=True, eq=False)
class MarkovChain:
    """Fitted `MarkovConfig`.

    Attributes:
        last_items: int32 (n_users,), -1 for a user without items.
        transitions: float32 (n_items, n_items); row i holds the smoothed counts behind item i.
        popularity: float32 (n_items,), added to every row.
    """

    last_items: NDArray[np.int32]
    transitions: csr_matrix
    popularity: NDArray[np.float32]

    def __call__(self, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `ncf_ppt.baselines.Baseline`."""
        last = self.last_items[users]
        rows = self.transitions[np.maximum(last, 0)]
        scores = np.empty(candidates.shape, np.float32)
        for row in range(len(users)):
            counts = np.zeros(len(self.popularity), np.float32)
            if last[row] >= 0:
                found = slice(rows.indptr[row], rows.indptr[row + 1])
                counts[rows.indices[found]] = rows.data[found]
            scores[row] = counts[candidates[row]] + self.popularity[candidates[row]]
        return scores

    def score_catalogue(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `ncf_ppt.baselines.Baseline`."""
        catalogue = np.arange(len(self.popularity), dtype=np.int32)
        return self(users, np.broadcast_to(catalogue, (len(users), len(catalogue))))


def fit_recent_item_knn(config: RecentItemKNNConfig, train: Interactions, ages: NDArray[np.int64]) -> ItemKNN:
    """Fit to the train positives; ``ages`` (n_train,) count the items that their users took later."""
    similarities = fit_similarities(ItemKNNConfig(neighbours=config.neighbours, idf_power=config.idf_power), train)
    weights = (config.decay ** ages.astype(np.float64)).astype(np.float32)
    return ItemKNN(train=interaction_matrix(train, weights), similarities=similarities)


def fit_markov(config: MarkovConfig, train: Interactions, history: NDArray[np.int32]) -> MarkovChain:
    """Fit to the train positives and their histories, oldest first."""
    n_items = train.n_items
    is_last = np.zeros(len(train), np.bool_)
    ends = train.offsets[1:][train.degrees > 0]
    is_last[ends - 1] = True
    before = np.flatnonzero(~is_last)
    counts = csr_matrix((np.ones(len(before)), (history[before], history[before + 1])), shape=(n_items, n_items))
    cosines = fit_similarities(ItemKNNConfig(neighbours=config.neighbours, idf_power=config.idf_power), train)
    cosines = cosines.astype(np.float64)
    cosines.setdiag(0)  # an item is its own nearest neighbour, and nobody takes it twice
    sums = np.asarray(cosines.sum(axis=1)).ravel()
    scale = csr_matrix((config.similarity / np.where(sums > 0, sums, 1), (range(n_items), range(n_items))))
    transitions = (counts + scale @ cosines).tocsr().astype(np.float32)
    transitions.sort_indices()
    last_items = np.full(train.n_users, -1, np.int32)
    last_items[train.degrees > 0] = history[ends - 1]
    shares = np.bincount(train.items, minlength=n_items) / max(len(train), 1)
    return MarkovChain(
        last_items=last_items,
        transitions=transitions,
        popularity=(config.popularity * shares).astype(np.float32),
    )
