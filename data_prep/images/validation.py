"""Training images held out of training, so that settings are chosen and trainings ended without the test images."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from data_prep.images.image_arrays import ImageArray
from data_prep.images.image_files import ImageFiles
from ppt_core.errors import DataError
from ppt_core.random_words import random_words

Part = TypeVar("Part", ImageArray, ImageFiles)


def hold_out(train: Part, n: int) -> tuple[Part, Part]:
    """Part ``train`` into what stays and ``n`` images for validation, each in the order they had.

    The classes keep their shares up to one image, and which images of a class are drawn is a function of the arguments.

    Raises `DataError` unless every class has an image on both sides.
    """
    counts = np.bincount(train.labels)
    quotas = _quotas(counts, n)
    small = np.flatnonzero((counts > 0) & ((quotas < 1) | (quotas >= counts)))
    if len(small):
        raise DataError(
            f"{n} of {len(train):,} training images cannot be held out for validation: every class needs an image on "
            f"both sides, and of class {small[0]} {quotas[small[0]]:,} of {counts[small[0]]:,} would be held out; "
            "choose another number"
        )
    order = np.argsort(random_words(0, "validation", 0, np.arange(len(train))), kind="stable")
    is_held_out = np.zeros(len(train), np.bool_)
    for label, quota in enumerate(quotas.tolist()):
        is_held_out[order[train.labels[order] == label][:quota]] = True
    return train.take(~is_held_out), train.take(is_held_out)


def _quotas(counts: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """``n`` divided over classes of ``counts`` images; what is left of one each goes to the largest remainders."""
    exact = n * counts / counts.sum()
    quotas: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    first = np.argsort(quotas - exact, kind="stable")[: n - quotas.sum()]
    quotas[first] += 1
    return quotas
