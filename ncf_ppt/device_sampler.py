"""The samples of `data_prep.ratings.sampling.Sampler`, the same bit for bit, drawn where the network is trained.

A GPU that waits for samples from the processor stands still for most of a step. Here PyTorch's integer operations do
what `data_prep.ratings._kernels.fill_samples` does on a CPU: int64 products and sums wrap around as 64-bit words do.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.ratings import _kernels
from data_prep.ratings.sampling import Sampler

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FACTOR1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_FACTOR2 = 0x94D049BB133111EB - (1 << 64)


class DeviceSampler:
    """Draws on a device; the train positives stay in its memory, 8 bytes for each and 8 for each user.

    Args:
        sampler: whose samples are drawn.
        device: where; on a CPU it is right, too, and many times slower than ``sampler`` itself.
    """

    def __init__(self, sampler: Sampler, device: str | torch.device) -> None:
        self.sampler = sampler
        train = sampler.interactions
        self._users = torch.from_numpy(train.users()).to(device)
        # Data in files that are mapped into memory are read-only, hence the copies.
        self._items = torch.from_numpy(np.array(train.items)).to(device)
        self._offsets = torch.from_numpy(np.array(train.offsets)).to(device)
        self._n_probes = int(train.degrees.max()).bit_length()

    def draw(self, epoch: int, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return samples ``start .. stop - 1`` of an epoch: int32 users, int32 items and float32 labels, each (n,).

        Raises ValueError where `Sampler.draw` does.
        """
        return self.draw_with_positives(epoch, start, stop)[:3]

    def draw_with_positives(self, epoch: int, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`draw`, and int64 (n,), as of `Sampler.draw_with_positives`."""
        self.sampler.check_range(epoch, start, stop)
        shuffle_keys, draw_key = self.sampler.keys(epoch)
        numbers = torch.arange(start, stop, device=self._items.device)
        n_together = self.sampler.n_together
        runs = numbers if n_together == 1 else numbers // n_together
        samples = self._permuted(runs, shuffle_keys)
        if n_together > 1:
            samples = samples * n_together + numbers % n_together
        group = 1 + self.sampler.n_negatives
        positives = samples // group
        is_positive = samples == positives * group
        users = self._users.index_select(0, positives)
        first = self._offsets.index_select(0, users)
        degree = self._offsets.index_select(0, users + 1) - first
        words = random_words(_signed(draw_key), samples)
        # Lemire's multiply-shift: the product of 32 and 31 bits fits.
        ranks = (_shift_right(words, 32) * (self.sampler.interactions.n_items - degree)) >> 32
        negatives = self._free_items(first, degree, ranks).to(torch.int32)
        items = torch.where(is_positive, self._items.index_select(0, positives), negatives)
        return users, items, is_positive.to(torch.float32), positives

    def _permuted(self, words: Tensor, keys: NDArray[np.uint64]) -> Tensor:
        """Images of numbers of samples, or of groups, under the epoch's permutation.

        Those outside the range are permuted again.
        """
        n_words = self.sampler.samples_per_epoch // self.sampler.n_together
        bits = int(_kernels.permutation_bits(n_words))
        signed_keys = [_signed(key) for key in keys]
        words = permute_words(words, bits, signed_keys)
        outside = (words >= n_words).nonzero().squeeze(1)
        while len(outside):
            again = permute_words(words.index_select(0, outside), bits, signed_keys)
            words.index_copy_(0, outside, again)
            outside = outside[again >= n_words]
        return words

    def _free_items(self, first: Tensor, degree: Tensor, ranks: Tensor) -> Tensor:
        """Item number ``rank`` among those that a user has not taken, see `data_prep.ratings._kernels.free_item`."""
        below = torch.zeros_like(ranks)
        length = degree
        for _ in range(self._n_probes):
            half = (length + 1) >> 1
            probe = below + half - 1
            taken = self._items.index_select(0, (first + probe).clamp_(min=0))
            below = torch.where(taken - probe <= ranks, probe + 1, below)  # where half is 0 that is the same
            length = length - half
        return ranks + below


def permute_words(words: Tensor, bits: int, keys: list[int]) -> Tensor:
    """Images of int64 ``words`` below 2**bits: `data_prep.ratings._kernels.permute_word`; ``keys`` are six words."""
    small = bits >> 1
    large = bits - small
    for pair in range(3):
        low = words & ((1 << large) - 1)
        words = words ^ (_shift_right(_round(low, keys[2 * pair]), 64 - small) << large)
        high = words >> large
        words = words ^ _shift_right(_round(high, keys[2 * pair + 1]), 64 - large)
    return words


def random_words(key: int, counters: Tensor) -> Tensor:
    """Words of SplitMix64's stream ``key``, a signed word, at int64 ``counters``, as int64."""
    words = (counters + 1) * _GOLDEN + key
    words = (words ^ _shift_right(words, 30)) * _FACTOR1
    words = (words ^ _shift_right(words, 27)) * _FACTOR2
    return words ^ _shift_right(words, 31)


def _round(half: Tensor, key: int) -> Tensor:
    words = (half ^ key) * _FACTOR1
    return (words ^ _shift_right(words, 32)) * _FACTOR2


def _shift_right(words: Tensor, n: int) -> Tensor:
    """Shift int64 words as if they had no sign: the bits that come in at the top are 0."""
    return (words >> n) & ((1 << (64 - n)) - 1)


def _signed(word: np.uint64) -> int:
    return int(word.astype(np.int64))
