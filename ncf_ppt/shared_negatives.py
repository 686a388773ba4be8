"""Batches for a sampled softmax: shuffled positives, each with what its user did before, and negatives for all of them.

Batch b of epoch e is a function of (seed, e, b), the batch size and the number of negatives alone. Threads,
interruptions and the number of processes cannot change it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.sampling import shuffled
from ncf_ppt import _kernels
from ncf_ppt.histories import histories_of, recent_items
from ppt_core.errors import DataError
from ppt_core.random_words import below, check_seed, random_words


class SoftmaxBatch(NamedTuple):
    """Positives that compete with the same negatives.

    Attributes:
        recent: int32 (n_rows, n_recent), the user's items before the positive, newest first, -1 where there were fewer.
        positives: int32 (n_rows,), the items.
        negatives: int32 (n_negatives,), uniform over the catalogue, with replacement.
        is_known: bool (n_rows, n_negatives), whether a negative is a train positive of the row's user: it does not
            compete there.
    """

    recent: NDArray[np.int32]
    positives: NDArray[np.int32]
    negatives: NDArray[np.int32]
    is_known: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class SharedNegativesSampler:
    """Every epoch's shuffled positives in batches, each train positive once.

    Sharing the negatives of a batch turns its scores into one matrix product (Hidasi et al. 2016), and drawing them
    uniformly keeps the softmax unbiased by popularity, as the test negatives are.

    Args:
        data: a set with histories.
        batch_size: positives in a batch; an epoch's last batch holds the rest, and a rest of one joins the batch before
            it, since BatchNorm has no variance of one.
        n_negatives: negatives of a batch, at least 1.
        n_recent: items of a history, at least 1.
        seed: 0 .. 2**63 - 1.
    """

    data: PreparedData
    batch_size: int
    n_negatives: int
    n_recent: int
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 2), ("n_negatives", 1), ("n_recent", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        check_seed(self.seed)
        histories_of(self.data)
        if not len(self.data.train):
            raise DataError("there are no train positives to sample")

    def batch(self, epoch: int, number: int, n_batches: int) -> SoftmaxBatch:
        """Return batch ``number`` (from 0) of the ``n_batches`` of an epoch (from 0)."""
        train, history = self.data.train, histories_of(self.data)
        start = number * self.batch_size
        stop = len(train) if number == n_batches - 1 else start + self.batch_size
        places = shuffled(len(train), seed=self.seed, epoch=epoch, start=start, stop=stop)
        draws = np.arange(number * self.n_negatives, (number + 1) * self.n_negatives)
        negatives = below(random_words(self.seed, "shared negatives", epoch, draws), train.n_items).astype(np.int32)
        is_known = np.empty((len(places), self.n_negatives), np.bool_)
        users = np.searchsorted(train.offsets, places, side="right") - 1
        _kernels.fill_is_known(train.offsets, train.items, train.n_items, users, negatives, is_known)
        return SoftmaxBatch(recent_items(self.data, places, self.n_recent), history[places], negatives, is_known)
