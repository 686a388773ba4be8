import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.ratings import _kernels
from data_prep.ratings.interactions import Interactions, PreparedData
from data_prep.ratings.sampling import Sampler
from ncf_ppt import batches
from ncf_ppt.device_sampler import DeviceSampler, permute_words, random_words
from ncf_ppt.recent import RecentItems
from tests import reference

WORDS = st.integers(0, 2**64 - 1)


def signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


def interactions(n_users: int, n_items: int, n: int, *, seed: int) -> Interactions:
    """Random positives; user 0 has none and user 1 all items but one."""
    rng = np.random.default_rng(seed)
    pairs = set(zip(rng.integers(2, n_users, n).tolist(), rng.integers(0, n_items, n).tolist(), strict=True))
    pairs |= {(1, item) for item in range(n_items) if item != n_items // 2}
    users, items = (np.array(column) for column in zip(*sorted(pairs), strict=True))
    return Interactions.from_pairs(users, items, n_users=n_users, n_items=n_items)


@settings(deadline=None, max_examples=30)
@given(st.integers(10, 62), st.lists(WORDS, min_size=6, max_size=6), st.data())
def test_words_are_permuted_as_by_the_kernel(bits: int, keys: list[int], data: st.DataObject) -> None:
    words = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=20))
    found = permute_words(torch.tensor(words), bits, [signed(key) for key in keys])
    kernel_keys = np.array(keys, np.uint64)
    expected = [int(_kernels.permute_word(np.uint64(word), np.uint64(bits), kernel_keys)) for word in words]
    assert found.tolist() == expected


@settings(deadline=None)
@given(WORDS, st.integers(0, 2**62))
def test_random_words_are_splitmix(key: int, counter: int) -> None:
    (found,) = random_words(signed(key), torch.tensor([counter])).tolist()
    assert found == signed(reference.random_word(key, counter))


@pytest.mark.parametrize(
    ("n_users", "n_items", "n", "n_negatives"),
    [(4, 3, 5, 1), (5, 12, 30, 3), (300, 200, 5000, 4), (50, 5000, 3000, 9), (3, 2, 1, 20_000)],
)
@pytest.mark.parametrize("grouped", [False, True])
def test_samples_are_those_of_the_sampler_bit_for_bit(
    n_users: int, n_items: int, n: int, n_negatives: int, grouped: bool
) -> None:
    train = interactions(n_users, n_items, n, seed=n)
    for seed, epoch in ((0, 0), (2**63 - 1, 10**9)):
        sampler = Sampler(interactions=train, n_negatives=n_negatives, seed=seed, grouped=grouped)
        total = sampler.samples_per_epoch
        for start, stop in ((0, total), (total // 3, total // 2), (total, total)):
            samples, positives = sampler.draw_with_positives(epoch, start, stop)
            expected = (*samples, positives)
            found = DeviceSampler(sampler, "cpu").draw_with_positives(epoch, start, stop)
            for tensor, array in zip(found, expected, strict=True):
                assert tensor.dtype == torch.from_numpy(array).dtype
                np.testing.assert_array_equal(tensor.numpy(), array)


def test_samples_outside_an_epoch_are_refused() -> None:
    sampler = DeviceSampler(Sampler(interactions=interactions(4, 3, 5, seed=0)), "cpu")
    with pytest.raises(ValueError, match=r"^samples 0\.\."):
        sampler.draw(0, 0, 10**6)
    with pytest.raises(ValueError, match=r"^epoch is -1; "):
        sampler.draw(-1, 0, 1)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("n_recent", [0, 3])
def test_training_batches_are_the_same_wherever_they_are_drawn(
    tiny_data: PreparedData, monkeypatch: pytest.MonkeyPatch, n_recent: int, grouped: bool
) -> None:
    sampler = Sampler(interactions=tiny_data.train, seed=1, grouped=grouped)
    recent = RecentItems(tiny_data, n_recent) if n_recent else None
    drawn = list(itertools.islice(batches.training_batches(sampler, 1000, start=7, recent=recent), 25))
    monkeypatch.setattr(batches, "_draws_on", lambda device: True)  # the CPU stands in for a GPU
    on_device = itertools.islice(batches.training_batches(sampler, 1000, start=7, recent=recent), 25)
    for expected, found in zip(drawn, on_device, strict=True):
        assert len(expected) == len(found) == 3 + (n_recent > 0)
        assert all(map(torch.equal, expected, found))
