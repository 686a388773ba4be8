"""Made-up inputs that try a 1-bit layer where it decides."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def boundary_inputs(
    signs: NDArray[np.bool_], thresholds: NDArray[np.integer], *, all_densities: bool = True
) -> NDArray[np.uint8]:
    """Return distinct rows of bits, uint8 (n, n_in).

    65 random rows of densities from 0 to 1; rows with t ones in front, for every t or for 65 of them; and for each
    channel rows whose product is one below, at and one above its threshold, with few, half and many set bits or with
    half, unless its signs admit no such product.

    Args:
        signs: (channels, n_in), True for +1.
        thresholds: integers (channels,).
        all_densities: the larger of the two numbers of rows.
    """
    rows = list(_boundary_inputs(signs, thresholds, all_densities))
    return np.unique(np.concatenate(rows), axis=0)


def _boundary_inputs(
    signs: NDArray[np.bool_], thresholds: NDArray[np.integer], all_densities: bool
) -> Iterator[NDArray[np.uint8]]:
    n = signs.shape[1]
    generator = np.random.default_rng(0)
    yield (generator.random((65, n)) < np.linspace(0, 1, 65)[:, None]).astype(np.uint8)
    numbers = np.arange(n + 1) if all_densities else np.linspace(0, n, 65).astype(np.int64)
    yield (np.arange(n) < numbers[:, None]).astype(np.uint8)
    for channel_signs, threshold in zip(signs, thresholds.tolist(), strict=True):
        positive = generator.permutation(np.flatnonzero(channel_signs))
        negative = generator.permutation(np.flatnonzero(~channel_signs))
        for product in (threshold - 1, threshold, threshold + 1):
            least = max(product, 0), max(-product, 0)
            most = min(len(positive) - least[0], len(negative) - least[1])  # further pairs of +1 and -1
            if most >= 0:
                for pairs in {0, most // 2, most} if all_densities else {most // 2}:
                    row = np.zeros((1, n), np.uint8)
                    row[0, positive[: least[0] + pairs]] = 1
                    row[0, negative[: least[1] + pairs]] = 1
                    yield row
