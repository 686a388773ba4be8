"""Which samples training sees, and which negatives testing ranks: pure functions of a seed.

Sample n of epoch e is a function of (seed, e, n) alone. Threads, batch sizes, interruptions and the number of
processes cannot change it, and no epoch is ever held in memory.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings import _kernels
from data_prep.ratings.interactions import Interactions, Protocol
from ppt_core.errors import DataError
from ppt_core.random_words import check_seed, stream_keys


class Samples(NamedTuple):
    """A block of training samples: int32 users, int32 items and float32 labels (1 or 0), each (n,)."""

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    labels: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Every epoch's shuffled samples: each train positive once and ``n_negatives`` fresh negatives for it.

    A negative is uniform over the items that its user has no train positive for: exact, without rejection.
    Negatives are drawn with replacement and anew each epoch (MLPerf v0.5), from the whole catalogue: the
    held-out item is a possible negative, since training must not know it.

    Args:
        interactions: the train positives. Every user with a positive needs at least one free item.
        n_negatives: negatives for each positive, at least 1.
        seed: 0 .. 2**63 - 1.
        grouped: shuffle the positives, each followed by its negatives, in place of all samples. An epoch has the same
            samples in another order.
    """

    interactions: Interactions
    n_negatives: int = 4
    seed: int = 0
    grouped: bool = False

    def __post_init__(self) -> None:
        if self.n_negatives < 1:
            raise ValueError(f"n_negatives is {self.n_negatives}; it must be at least 1")
        check_seed(self.seed)
        if not len(self.interactions):
            raise DataError("there are no train positives to sample")
        _refuse_users_without(1, self.interactions.degrees, self.interactions.n_items)
        # The user of each n-th positive and of the last: those between are found from there, in little memory.
        some = np.append(np.arange(0, len(self.interactions), _kernels.POSITIVES_PER_MARK), len(self.interactions) - 1)
        marks = np.searchsorted(self.interactions.offsets, some, side="right") - 1
        object.__setattr__(self, "_user_marks", marks.astype(np.int32))

    @property
    def samples_per_epoch(self) -> int:
        """(1 + n_negatives) samples for each positive."""
        return len(self.interactions) * (1 + self.n_negatives)

    @property
    def n_together(self) -> int:
        """How many samples of one user follow each other: 1, or a positive and its negatives if ``grouped``."""
        return 1 + self.n_negatives if self.grouped else 1

    def draw(self, epoch: int, start: int, stop: int) -> Samples:
        """Return samples ``start .. stop - 1`` of an epoch (from 0).

        The result is the same on one thread or on many. It runs on Numba's threads: call it from one Python
        thread at a time. Raises ValueError for a range outside ``0 .. samples_per_epoch``.
        """
        return self._draw(epoch, start, stop, np.empty(0, np.int64))

    def draw_with_positives(self, epoch: int, start: int, stop: int) -> tuple[Samples, NDArray[np.int64]]:
        """`draw`, and the train positive that each sample belongs to: its place in ``interactions.items``, int64 (n,).

        That of a positive sample is itself, that of a negative one is the positive that it was drawn for.
        """
        positives = np.empty(max(stop - start, 0), np.int64)
        return self._draw(epoch, start, stop, positives), positives

    def _draw(self, epoch: int, start: int, stop: int, positives: NDArray[np.int64]) -> Samples:
        self.check_range(epoch, start, stop)
        n = stop - start
        shuffle_keys, draw_key = self.keys(epoch)
        samples = Samples(np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.float32))
        _kernels.fill_samples(
            self.interactions.offsets,
            self.interactions.items,
            self._user_marks,  # type: ignore[attr-defined]
            self.interactions.n_items,
            self.n_negatives,
            self.n_together,
            shuffle_keys,
            draw_key,
            start,
            *samples,
            positives,
        )
        return samples

    def check_range(self, epoch: int, start: int, stop: int) -> None:
        """Raise ValueError for samples outside ``0 .. samples_per_epoch`` and for a negative epoch."""
        if not 0 <= start <= stop <= self.samples_per_epoch:
            raise ValueError(f"samples {start}..{stop} are outside 0..{self.samples_per_epoch}")
        if epoch < 0:
            raise ValueError(f"epoch is {epoch}; epochs count from 0")

    def keys(self, epoch: int) -> tuple[NDArray[np.uint64], np.uint64]:
        """The six keys of an epoch's permutation, and the key of its draws."""
        return stream_keys(self.seed, "shuffle", epoch, n=6), stream_keys(self.seed, "draw", epoch)[0]


def shuffled(n: int, *, seed: int, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
    """Return entries ``start .. stop - 1`` of an epoch's permutation of 0 .. n - 1, int64; the rest costs nothing."""
    out = np.empty(stop - start, np.int64)
    _kernels.fill_shuffled(n, stream_keys(seed, "shuffle", epoch, n=6), start, out)
    return out


def draw_test_negatives(
    train: Interactions,
    test_items: NDArray[np.int32],
    n_negatives: int,
    *,
    protocol: Protocol = "strict",
    seed: int = 0,
    first_user: int = 0,
) -> NDArray[np.int32]:
    """Draw the negatives that each user's held-out item is ranked against, int32 (n_users, n_negatives).

    ========  ==========================================================================================
    strict    distinct items, none a train positive of the user or the held-out item
    mlperf    uniform with replacement over all items but the user's train positives: as in the MLPerf v0.5
              reference, an item may repeat and the held-out item may occur
    ========  ==========================================================================================

    ``test_items`` (n_users,) holds each user's held-out item, none a train positive of that user. Rows ascend.
    The result depends on the arguments alone, never on the number of threads. Users ``first_user ..`` of a larger set
    get by themselves what they get in the whole.

    Raises `DataError` if a user has fewer items left than are needed: ``n_negatives`` under strict, and under
    mlperf one, since a held-out item ranked against itself alone would always be a hit.
    """
    if n_negatives < 1:
        raise ValueError(f"n_negatives is {n_negatives}; it must be at least 1")
    if protocol not in ("strict", "mlperf"):
        raise ValueError(f"protocol is {protocol!r}; negatives can be drawn as 'strict' or 'mlperf'")
    if len(test_items) != train.n_users:
        raise ValueError(f"there are {len(test_items)} held-out items for {train.n_users} users; each has one")
    check_seed(seed)
    _refuse_users_without(n_negatives if protocol == "strict" else 1, train.degrees + 1, train.n_items)
    out = np.empty((train.n_users, n_negatives), np.int32)
    key = stream_keys(seed, f"test-{protocol}", 0)[0]
    if protocol == "strict":
        _kernels.fill_distinct_negatives(train.offsets, train.items, test_items, train.n_items, key, first_user, out)
    else:
        _kernels.fill_negatives_with_replacement(train.offsets, train.items, train.n_items, key, first_user, out)
        out.sort(axis=1)  # NumPy's sort is vectorized, Numba's is not
    return out


def _refuse_users_without(n_free: int, degrees: NDArray[np.int64], n_items: int) -> None:
    fewest = n_items - int(degrees.max(initial=0))
    if fewest < n_free:
        user = int(degrees.argmax())
        raise DataError(
            f"user number {user} has {fewest} of {n_items} items left to draw from, and {n_free} are needed; "
            f"ask for at most {fewest} negatives or leave such users out"
            if fewest
            else f"user number {user} has interacted with all {n_items} items, so no negative exists; "
            "leave such users out"
        )
