"""Counters where 32 bits end: every test starts at 2**31 or beyond, or at 2**24, where a float32 stops counting.

`tests/test_sampling.py` draws samples of such numbers, and `tests/test_row_adam.py` steps on from 2**24.
"""

import mmap
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data_prep.ratings import _kernels
from data_prep.ratings.filters import Filters, keep_rows
from data_prep.ratings.interactions import Interactions
from data_prep.ratings.prepare import Ordering
from data_prep.ratings.raw_ratings import Ratings
from data_prep.ratings.sampling import Sampler, draw_test_negatives, shuffled
from ncf_ppt.device_sampler import DeviceSampler
from ppt_core.random_words import stream_keys
from tests import reference

FAR = 2**31
PLACES = [2**24 - 1, FAR - 1, FAR, 2**32, 2**33 + 1]


def train(n_users: int = 3) -> Interactions:
    users, items = np.repeat(np.arange(n_users), 3), np.tile([0, 2, 5], n_users)
    return Interactions.from_pairs(users, items, n_users=n_users, n_items=9)


def unwritten(n: int) -> NDArray[np.int32]:
    """So many zeros, of which only those that are touched take memory."""
    if not sys.platform.startswith("linux"):
        pytest.skip("memory that takes no room is made for Linux alone")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    return np.frombuffer(mmap.mmap(-1, 4 * n, flags=flags), np.int32)


@pytest.mark.parametrize("first_user", [place // 4 for place in PLACES])
def test_negatives_of_far_users(first_user: int) -> None:
    drawn = draw_test_negatives(train(), np.full(3, 7, np.int32), 4, protocol="mlperf", seed=3, first_user=first_user)
    key = int(stream_keys(3, "test-mlperf", 0)[0])
    free = reference.free_items([0, 2, 5], 9)
    for user, row in enumerate(drawn.tolist()):
        words = [reference.random_word(key, (first_user + user) * 4 + draw) for draw in range(4)]
        assert row == sorted(free[(word >> 32) * len(free) // 2**32] for word in words)


def test_items_that_lie_behind_two_billion_others() -> None:
    items = unwritten(FAR + 8)
    items[FAR + 1 : FAR + 4] = [0, 2, 5]
    found = [_kernels.free_item(items, FAR + 1, 3, rank) for rank in range(6)]
    assert found == reference.free_items([0, 2, 5], 9)
    negatives = np.empty((1, 5), np.int32)
    offsets, held_out = np.array([FAR + 1, FAR + 4]), np.array([7], np.int32)
    _kernels.fill_distinct_negatives(offsets, items, held_out, 9, np.uint64(1), 0, negatives)
    assert negatives.tolist() == [[1, 3, 4, 6, 8]]


def test_rows_are_tallied_behind_two_billion_others() -> None:
    users, items = np.array([0, 1, 0, 1], np.int32), np.array([1, 0, 1, 1], np.int32)
    counts = [np.full(2, FAR - 1), np.array([FAR - 1, 0])]
    rows = [np.full(2, -1), np.full(2, -1)]
    some, n_some = np.zeros((2, 2), np.int32), np.zeros(2, np.uint8)
    kept = np.ones(2, np.bool_)
    assert _kernels.tally_rows(users, items, FAR - 2, kept, kept, *counts, *rows, some, n_some) == FAR + 2
    assert [count.tolist() for count in counts] == [[FAR + 1, FAR + 1], [FAR, 3]]
    assert rows[1].tolist() == [-1, FAR - 2]
    assert n_some.tolist() == [1, 2]


def test_pairs_are_counted_behind_two_billion_others() -> None:
    degrees, seen = np.array([FAR - 1]), np.zeros((1, 2), np.uint64)
    users, items = np.zeros(5, np.int32), np.array([0, 63, 64, 127, 64], np.int32)
    _kernels.count_distinct(users, items, np.zeros(1, np.int64), np.ones(128, np.bool_), seen, degrees)
    assert degrees.tolist() == [FAR + 3]


def test_pairs_with_numbers_beyond_32_bits() -> None:
    n = 2**17
    users = np.array([n - 1, n - 1, n - 1, 0, 0, 0], np.int32)
    items = np.array([n - 1, n - 2, n - 1, 0, 1, n - 1], np.int32)
    ids = np.arange(n)
    ratings = Ratings(users=users, items=items, times=np.arange(6), user_ids=ids, item_ids=ids)
    kept = keep_rows(ratings, Filters(min_ratings=2), n_negatives=1, validation=False)
    assert kept.user_order.tolist() == [n - 1, 0]
    assert kept.item_order.tolist() == [n - 1, n - 2, 0, 1]


def test_rows_without_times_are_ordered_by_words_of_their_numbers() -> None:
    ordering = Ordering(order=None, has_times=False, is_constant=False)
    key = int(stream_keys(1, "held-out", 0)[0])
    for place in PLACES:
        drawn, ties = ordering.keys(np.zeros(3, np.int64), slice(place, place + 3), slice(None), 1)
        assert ties is None
        assert drawn.tolist() == [reference.random_word(key, place + n) >> 1 for n in range(3)]


@pytest.mark.parametrize("number", [0, *PLACES])
def test_samples_on_a_device_are_those_of_a_cpu(number: int) -> None:
    sampler = Sampler(interactions=train(), n_negatives=FAR, seed=2)
    expected, positives = sampler.draw_with_positives(1, number, number + 3)
    *found, places = DeviceSampler(sampler, "cpu").draw_with_positives(1, number, number + 3)
    for tensor, array in zip([*found, places], [*expected, positives], strict=True):
        torch.testing.assert_close(tensor, torch.from_numpy(array), rtol=0, atol=0, check_dtype=True)


@pytest.mark.parametrize("start", PLACES)
def test_a_permutation_of_many_numbers(start: int) -> None:
    n = 2**33 + 11
    keys: list[Any] = [int(key) for key in stream_keys(4, "shuffle", 2, n=6)]
    found = shuffled(n, seed=4, epoch=2, start=start, stop=start + 4)
    assert found.tolist() == [reference.permute(place, n, keys) for place in range(start, start + 4)]
