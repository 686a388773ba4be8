"""How large the parts of `benchmarks.gpu` are, and the data they run on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data_prep.ratings.interactions import Interactions, PreparedData
from data_prep.ratings.sampling import draw_test_negatives

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Where a part computes and on how much.

    Attributes:
        device: cpu or cuda.
        quick: as little as runs every line, for a test on a CPU.
    """

    device: str
    quick: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Users, items and train positives: MovieLens-20M's."""
        return (200, 150, 3_000) if self.quick else (138_493, 26_744, 19_861_770)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batches of NeuMF."""
        return (256,) if self.quick else (2048, 65_536, 1 << 20)

    @property
    def windows(self) -> int:
        """Windows that a median is taken of."""
        return 1 if self.quick else 5

    @property
    def window_seconds(self) -> float:
        """Least length of each."""
        return 0.0 if self.quick else 0.25

    @property
    def n_first(self) -> int:
        """Steps before the first window: three as they are, one that is recorded, two more."""
        return 1 if self.quick else 6

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self.device != "cpu":
            torch.cuda.synchronize()


def prepared(n_users: int, n_items: int, n: int, *, n_negatives: int = 1, seed: int = 0) -> PreparedData:
    """About ``n`` positives, few users and items having many, made in seconds; a test item is no train positive."""
    rng = np.random.default_rng(seed)
    degrees = rng.lognormal(sigma=1.0, size=n_users)
    degrees = np.clip(degrees * 1.25 * n / degrees.sum(), 1, n_items // 3).astype(np.int64)
    users = np.repeat(np.arange(n_users), degrees)
    keys = np.sort(users * n_items + (n_items * rng.random(len(users)) ** 2).astype(np.int64))
    keys = keys[np.diff(keys, prepend=-1) > 0]  # `np.unique` hashes: 20 times as slow
    keys = keys[rng.random(len(keys)) < n / len(keys)]
    offsets = np.searchsorted(keys, np.arange(n_users + 1) * n_items)
    train = Interactions(offsets=offsets, items=(keys % n_items).astype(np.int32), n_items=n_items)
    test_keys = np.arange(n_users) * n_items + rng.integers(0, n_items, n_users)
    while len(taken := np.flatnonzero(keys[np.searchsorted(keys[:-1], test_keys)] == test_keys)):
        test_keys[taken] = taken * n_items + rng.integers(0, n_items, len(taken))
    test_items = (test_keys % n_items).astype(np.int32)
    return PreparedData(
        train=train,
        test_items=test_items,
        test_negatives=draw_test_negatives(train, test_items, n_negatives),
        user_ids=np.arange(n_users),
        item_ids=np.arange(n_items),
        protocol="strict",
        manifest={},
    )


def failure(error: Exception) -> Row:
    """A row of what went wrong."""
    lines = str(error).strip().splitlines() or [""]
    return {"failed": f"{type(error).__name__}: {lines[0][:300]}"}
