"""Vectors at one bit a component and a scale each, and the search among them by XOR and popcounts."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions
from ncf_ppt import _code_kernels


@dataclass(frozen=True, kw_only=True, eq=False)
class Codes:
    """Vectors whose components are ``scale`` or ``-scale``: n of them, ``n_bits`` components each.

    Attributes:
        words: uint64 (n_words, n), one bit for each component, set where it is above 0. Which bit is whose does not
            matter, as long as it is the same in all codes that meet; bits of no component are 0.
        scales: float32 (n,), finite, 0 or above.
        n_bits: components.
    """

    words: NDArray[np.uint64]
    scales: NDArray[np.float32]
    n_bits: int

    def __post_init__(self) -> None:
        shape = -(-self.n_bits // 64), len(self.scales)
        if self.words.shape != shape:
            raise ValueError(f"words have shape {self.words.shape}; {self.n_bits} bits of {shape[1]} codes are {shape}")
        if not (np.isfinite(self.scales) & (self.scales >= 0)).all():
            raise ValueError("scales of codes must be finite, and 0 or above")

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> "Codes":
        """Keep the signs of vectors (n, size), and the mean size of their components as scale."""
        scales = np.abs(vectors).mean(axis=1, dtype=np.float32)
        return cls.of_bytes(np.packbits(vectors > 0, axis=1), scales, vectors.shape[1])

    @classmethod
    def of_bytes(cls, values: NDArray[np.uint8], scales: NDArray[np.floating], n_bits: int) -> "Codes":
        """Read rows of bits in bytes (n, width), as `numpy.packbits` and `ncf_ppt.export.encodings` have them."""
        n, width = values.shape
        octets = np.zeros((n, -(-n_bits // 64) * 8), np.uint8)
        octets[:, :width] = values
        words = np.ascontiguousarray(octets.view(np.uint64).T)
        return cls(words=words, scales=scales.astype(np.float32), n_bits=n_bits)

    def __len__(self) -> int:
        return len(self.scales)

    def rows(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Words (n, n_words) and scales (n,) of some codes."""
        return np.ascontiguousarray(self.words[:, numbers].T), self.scales[numbers]

    @cached_property
    def by_scale(self) -> tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
        """Words and scales in descending order of scales, the codes' numbers in it, and the lowest of each block."""
        order = np.argsort(-self.scales, kind="stable").astype(np.int32)
        starts = np.arange(0, len(order), _code_kernels.BLOCK)
        lowest = np.minimum.reduceat(order, starts) if len(order) else order
        return np.ascontiguousarray(self.words[:, order]), self.scales[order], order, lowest


def top_codes(
    users: Codes,
    items: Codes,
    numbers: NDArray[np.int64],
    k: int,
    *,
    bias: float = 0.0,
    seen: Interactions | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """Find the best ``k`` items of users, all items compared, equal scores in the order of item numbers.

    A score is ``count * item scale * user scale + bias``, count being the equal bits less the others: the inner product
    of the two vectors. It is rounded to float32 after each operation from left to right, so it is a function of the
    pair, and the lists are those that `ncf_ppt.recommendation.top_items` takes of `CodeSearch.score_catalogue`, bit for
    bit, on any number of threads. Scores of the catalogue are never in memory.

    Args:
        users: the users' codes.
        items: the items' codes, of as many bits.
        numbers: of the users that are asked for, int64 (n,).
        k: at least 1.
        bias: added to each product.
        seen: what is left out for each user; None leaves nothing out.

    Returns:
        Items, int32 (n, k), best first, and their scores, float32 (n, k), both undefined behind the end of a list; and
        the lengths of the lists, int64 (n,), below ``k`` where fewer are left.

    Raises ValueError if the two differ in bits, or ``k`` is below 1.
    """
    if users.n_bits != items.n_bits:
        raise ValueError(f"users have codes of {users.n_bits} bits and items of {items.n_bits}; both must have as many")
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    n = len(numbers)
    found, scores, lengths = np.empty((n, k), np.int32), np.empty((n, k), np.float32), np.empty(n, np.int64)
    if seen is None:
        seen = Interactions.none(n_users=len(users), n_items=len(items))
    _code_kernels.fill_top_codes(
        *users.rows(numbers), *items.by_scale, items.n_bits, np.float32(bias),
        seen.items, seen.offsets[numbers], seen.offsets[numbers + 1], found, scores, lengths,
    )  # fmt: skip
    return found, scores, lengths


@dataclass(frozen=True, kw_only=True, eq=False)
class CodeSearch:
    """Users' and items' codes as scores: a `ncf_ppt.recommendation.CatalogueScorer`, and lists without it.

    Attributes:
        users: codes of all users.
        items: codes of all items, of as many bits.
        bias: added to each product.
    """

    users: Codes
    items: Codes
    bias: float = 0.0

    def __call__(self, users: NDArray[np.int64], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """Scores of candidates (n, m) of users (n,), see `top_codes`."""
        scores = np.empty(candidates.shape, np.float32)
        _code_kernels.fill_code_pairs(
            *self.users.rows(users), self.items.words, self.items.scales, np.ascontiguousarray(candidates, np.int32),
            self.items.n_bits, np.float32(self.bias), scores,
        )  # fmt: skip
        return scores

    def score_catalogue(self, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores of all items for users (n,): float32 (n, n_items)."""
        scores = np.empty((len(users), len(self.items)), np.float32)
        _code_kernels.fill_code_scores(
            *self.users.rows(users),
            self.items.words,
            self.items.scales,
            self.items.n_bits,
            np.float32(self.bias),
            scores,
        )
        return scores

    def find(self, users: NDArray[np.int64], n: int, seen: Interactions) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Find the ``n`` best items of users (n_users,) without what is ``seen``: the first and last of `top_codes`."""
        items, _, lengths = top_codes(self.users, self.items, users, n, bias=self.bias, seen=seen)
        return items, lengths
