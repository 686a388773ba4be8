import hashlib
import itertools
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from data_prep.ratings import _kernels
from data_prep.ratings.interactions import Interactions, Protocol
from data_prep.ratings.sampling import Sampler, Samples, draw_test_negatives
from ppt_core.errors import DataError
from tests import reference

N_ITEMS = 12
HISTORIES = [[1, 4, 5], [11], [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [0, 11]]  # user 2 leaves item 1 only


def interactions(histories: list[list[int]], n_items: int) -> Interactions:
    users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    items = np.array([item for history in histories for item in history], np.int64)
    return Interactions.from_pairs(users, items, n_users=len(histories), n_items=n_items)


@pytest.fixture
def sampler() -> Sampler:
    return Sampler(interactions=interactions(HISTORIES, N_ITEMS), n_negatives=3, seed=5)


def epoch_of(sampler: Sampler, epoch: int = 0) -> Samples:
    return sampler.draw(epoch, 0, sampler.samples_per_epoch)


def digest(*arrays: NDArray[Any]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def strict(n_users: int, n_free: int, n_negatives: int, *, seed: int = 0) -> NDArray[np.int32]:
    """Negatives among the items 2 .. n_free + 1: everybody has item 0, and item 1 is held out."""
    train = interactions([[0]] * n_users, 2 + n_free)
    return draw_test_negatives(train, np.ones(n_users, np.int32), n_negatives, seed=seed)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from([0, 0, 1, 2, 63, 64, 65, 200]), min_size=1, max_size=40).filter(any))
def test_every_positive_has_its_user(degrees: list[int]) -> None:
    """Users without a positive among others, and every place around the marks at each 64th positive."""
    histories = [list(range(degree)) for degree in degrees]
    train = interactions(histories, 201)
    users, items, labels = epoch_of(Sampler(interactions=train, n_negatives=1))
    found = sorted(zip(users[labels == 1].tolist(), items[labels == 1].tolist(), strict=True))
    assert found == [(user, item) for user, history in enumerate(histories) for item in history]


def test_memory_does_not_grow_with_the_positives() -> None:
    train = interactions([list(range(1000))] * 200, 1001)
    tracemalloc.start()
    try:
        sampler = Sampler(interactions=train)
        assert tracemalloc.get_traced_memory()[0] < len(train) / 4
    finally:
        tracemalloc.stop()
    assert epoch_of(sampler).users.max() == 199


class TestKernels:
    @settings(deadline=None)
    @given(st.data(), st.integers(1, 200))
    def test_free_item_is_the_kth_that_is_not_taken(self, data: st.DataObject, n_items: int) -> None:
        taken = sorted(data.draw(st.sets(st.integers(0, n_items - 1), max_size=n_items - 1)))
        before = data.draw(st.integers(0, 3))  # other users' items around this user's
        items = np.array([7] * before + taken + [0, 1], np.int32)
        found = [_kernels.free_item(items, before, len(taken), rank) for rank in range(n_items - len(taken))]
        assert found == reference.free_items(taken, n_items)

    @settings(deadline=None, max_examples=20)
    @given(st.integers(1, 3000), st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6))
    def test_words_are_permuted(self, n: int, keys: list[int]) -> None:
        bits, words = np.uint64(_kernels.permutation_bits(n)), np.array(keys, np.uint64)
        images = [int(_kernels.permute_word(np.uint64(word), bits, words)) for word in range(2 ** int(bits))]
        assert sorted(images) == list(range(2 ** int(bits)))
        assert len(images) >= n

    @settings(deadline=None)
    @given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 2))
    def test_random_word_is_splitmix(self, key: int, counter: int) -> None:
        assert _kernels.random_word(np.uint64(key), np.uint64(counter)) == reference.random_word(key, counter)

    def test_splitmix_is_as_published(self) -> None:
        # The first outputs of the authors' splitmix64.c from state 1234567.
        expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
        assert [reference.random_word(1234567, counter) for counter in range(3)] == expected


class TestSampler:
    def test_an_epoch_holds_each_positive_once_and_its_negatives(self, sampler: Sampler) -> None:
        for epoch in range(3):
            users, items, labels = epoch_of(sampler, epoch)
            assert [array.dtype.name for array in (users, items, labels)] == ["int32", "int32", "float32"]
            assert len(users) == sampler.samples_per_epoch == 17 * 4
            positives = sorted(zip(users[labels == 1].tolist(), items[labels == 1].tolist(), strict=True))
            assert positives == [(user, item) for user, history in enumerate(HISTORIES) for item in history]
            assert (labels == 0).sum() == 17 * 3
            negatives_per_user = np.bincount(users[labels == 0], minlength=4).tolist()
            assert negatives_per_user == [3 * len(history) for history in HISTORIES]

    def test_no_negative_is_a_train_positive_and_every_other_item_is_drawn(self) -> None:
        sampler = Sampler(interactions=interactions(HISTORIES, N_ITEMS), n_negatives=100)
        drawn: list[set[int]] = [set() for _ in HISTORIES]
        for epoch in range(3):
            users, items, labels = epoch_of(sampler, epoch)
            for user, item in zip(users[labels == 0].tolist(), items[labels == 0].tolist(), strict=True):
                drawn[user].add(item)
        assert drawn == [set(reference.free_items(history, N_ITEMS)) for history in HISTORIES]
        assert drawn[0] >= {0, N_ITEMS - 1}

    def test_negatives_are_uniform(self) -> None:
        taken = [[1, 2, 30], [0, 49], list(range(10, 20))]
        sampler = Sampler(interactions=interactions(taken, 50), n_negatives=20_000, seed=1)
        users, items, labels = epoch_of(sampler)
        for user, history in enumerate(taken):
            drawn = np.bincount(items[(users == user) & (labels == 0)], minlength=50)
            assert drawn[history].tolist() == [0] * len(history)
            assert chisquare(drawn[reference.free_items(history, 50)]).pvalue > 1e-3

    def test_samples_of_a_user_do_not_follow_each_other(self) -> None:
        sampler = Sampler(interactions=interactions([[0], [0], [0], [0]], 2), n_negatives=24_999, seed=2)
        users = epoch_of(sampler).users
        pairs = np.bincount(users[:-1] * 4 + users[1:], minlength=16)
        assert chisquare(pairs).pvalue > 1e-3

    def test_a_positive_may_be_drawn_anywhere(self) -> None:
        n_users = 8_000
        sampler = Sampler(interactions=interactions([[0]] * n_users, 2), n_negatives=1, seed=3)
        users, _, labels = epoch_of(sampler)
        places = np.flatnonzero(labels == 1) // (len(users) // 8)
        owners = users[labels == 1] // (n_users // 8)
        assert chisquare(np.bincount(places * 8 + owners, minlength=64)).pvalue > 1e-3

    @settings(deadline=None, max_examples=30)
    @given(st.sets(st.integers(0, 68), max_size=5), st.integers(0, 5))
    def test_any_partition_gives_the_same_samples(self, cuts: set[int], epoch: int) -> None:
        sampler = Sampler(interactions=interactions(HISTORIES, N_ITEMS), n_negatives=3, seed=5)
        edges = [0, *sorted(cuts), 68]
        blocks = [sampler.draw(epoch, start, stop) for start, stop in itertools.pairwise(edges)]
        for pieces, whole in zip(zip(*blocks, strict=True), epoch_of(sampler, epoch), strict=True):
            np.testing.assert_array_equal(np.concatenate(pieces), whole)

    def test_epochs_and_seeds_differ_and_repeat(self, sampler: Sampler) -> None:
        train = sampler.interactions
        others = [Sampler(interactions=train, n_negatives=3, seed=seed) for seed in (5, 6, 2**63 - 1)]
        digests = [[digest(*epoch_of(other, epoch)) for epoch in (0, 1, 10**9)] for other in (sampler, *others)]
        assert digests[0] == digests[1]
        assert len({each for row in digests[1:] for each in row}) == 9

    def test_shuffle_and_draws_are_those_of_the_documented_stream(self) -> None:
        histories = [[0, 3], [5, 6, 8]]
        for n_negatives, numbers in (
            (3, range(20)),
            # Five positives: more samples than int32 counts, and more than int64 does for 10**18.
            (2**31, [0, 1, 2**31 - 1, 2**31, 2**32, 2**33, 5 * 2**31 + 4]),
            (10**18, [0, 2**53 + 1, 5 * 10**18 + 4]),
        ):
            sampler = Sampler(interactions=interactions(histories, 9), n_negatives=n_negatives, seed=2**62 + 1)
            assert sampler.samples_per_epoch == 5 * (1 + n_negatives)
            for number in numbers:
                users, items, labels = sampler.draw(3, number, number + 1)
                expected = reference.training_sample(histories, 9, n_negatives, seed=2**62 + 1, epoch=3, number=number)
                assert (users[0], items[0], labels[0]) == expected, number

    def test_groups_are_those_of_the_documented_stream(self) -> None:
        histories = [[0, 3], [5, 6, 8]]
        train = interactions(histories, 9)
        for n_negatives, numbers in ((3, range(20)), (2**31, [0, 1, 2**31, 2**31 + 1, 5 * 2**31 + 4])):
            sampler = Sampler(interactions=train, n_negatives=n_negatives, seed=2**62 + 1, grouped=True)
            for number in numbers:
                users, items, labels = sampler.draw(3, number, number + 1)
                expected = reference.training_sample(
                    histories, 9, n_negatives, seed=2**62 + 1, epoch=3, number=number, grouped=True
                )
                assert (users[0], items[0], labels[0]) == expected, number

    def test_grouped_or_not_an_epoch_has_the_same_samples(self, sampler: Sampler) -> None:
        grouped = replace(sampler, grouped=True)
        orders = []
        for epoch in range(3):
            (users, items, labels), positives = grouped.draw_with_positives(epoch, 0, grouped.samples_per_epoch)
            assert sorted(zip(users, items, labels, strict=True)) == sorted(zip(*epoch_of(sampler, epoch), strict=True))
            assert labels.reshape(-1, 4).tolist() == [[1, 0, 0, 0]] * 17
            assert (positives.reshape(-1, 4) == positives[::4, None]).all()
            orders.append(positives[::4].tolist())
            assert sorted(orders[-1]) == list(range(17))
        assert len(set(map(tuple, orders))) == 3
        for start, stop in ((0, 7), (7, 41), (41, 68)):
            for piece, whole in zip(grouped.draw(2, start, stop), (users, items, labels), strict=True):
                np.testing.assert_array_equal(piece, whole[start:stop])

    def test_the_stream_never_changes(self, sampler: Sampler) -> None:
        users, items, labels = sampler.draw(1, 30, 42)
        assert users.tolist() == [2, 2, 0, 0, 2, 0, 2, 2, 2, 0, 2, 2]
        assert items.tolist() == [1, 1, 9, 2, 1, 1, 1, 4, 1, 6, 0, 7]
        assert labels.tolist() == [0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1, 1]
        assert digest(*epoch_of(sampler, 1)) == "9627abf5ffdd317b"
        assert digest(*epoch_of(replace(sampler, grouped=True), 1)) == "ddc5f4c616fd7374"

    def test_a_sample_knows_its_positive(self, sampler: Sampler) -> None:
        train = sampler.interactions
        for start, stop in ((0, 68), (17, 40), (68, 68)):
            samples, positives = sampler.draw_with_positives(2, start, stop)
            for found, expected in zip(samples, sampler.draw(2, start, stop), strict=True):
                np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(train.users()[positives], samples.users)
            is_positive = samples.labels == 1
            np.testing.assert_array_equal(train.items[positives[is_positive]], samples.items[is_positive])
            if stop - start == 68:
                assert np.bincount(positives).tolist() == [4] * 17
                assert np.bincount(positives[is_positive]).tolist() == [1] * 17

    def test_threads_change_nothing(self, sampler: Sampler, one_and_two_threads: Iterable[int]) -> None:
        epochs = []
        for _ in one_and_two_threads:
            epochs.append(digest(*epoch_of(sampler)))
        assert epochs[0] == epochs[1]

    def test_a_user_with_everything_is_refused(self) -> None:
        with pytest.raises(DataError, match=r"^user number 1 has interacted with all 3 items, so no negative exists"):
            Sampler(interactions=interactions([[0], [0, 1, 2]], 3))

    def test_users_without_a_positive_are_never_seen(self) -> None:
        sampler = Sampler(interactions=interactions([[], [1, 2], []], 4), seed=0)
        assert set(epoch_of(sampler).users.tolist()) == {1}

    def test_arguments_out_of_range_are_refused_in_one_line(self, sampler: Sampler) -> None:
        train = sampler.interactions
        for arguments, message in (
            ({"n_negatives": 0}, "n_negatives is 0; it must be at least 1"),
            ({"seed": -1}, "seed is -1; it must be between 0 and"),
            ({"seed": 2**63}, "seed is 9223372036854775808"),
            ({"interactions": interactions([[], []], 3)}, "there are no train positives"),
        ):
            with pytest.raises(ValueError, match=message) as caught:
                Sampler(**{"interactions": train, **arguments})  # type: ignore[arg-type]
            assert "\n" not in str(caught.value)
        for epoch, start, stop in ((0, -1, 2), (0, 2, 1), (0, 0, 69), (-1, 0, 1)):
            with pytest.raises(ValueError, match=r"samples .* are outside 0\.\.68|epoch is -1; epochs count from 0"):
                sampler.draw(epoch, start, stop)
        assert len(sampler.draw(0, 68, 68).users) == 0


class TestTestNegatives:
    @settings(deadline=None, max_examples=50)
    @given(st.data(), st.integers(3, 80))
    def test_strict_is_distinct_and_neither_train_nor_held_out(self, data: st.DataObject, n_items: int) -> None:
        n_negatives = data.draw(st.integers(1, n_items - 2))
        one = st.lists(st.integers(0, n_items - 1), min_size=1, max_size=n_items - n_negatives, unique=True)
        known = data.draw(st.lists(one, min_size=1, max_size=4))  # the first of each is held out
        test_items = np.array([history[0] for history in known], np.int32)
        train = interactions([history[1:] for history in known], n_items)
        negatives = draw_test_negatives(train, test_items, n_negatives, seed=data.draw(st.integers(0, 2**63 - 1)))
        assert negatives.shape == (len(known), n_negatives)
        assert negatives.dtype == np.int32
        for history, row in zip(known, negatives.tolist(), strict=True):
            assert row == sorted(set(row))
            assert set(row) <= set(reference.free_items(history, n_items))

    @pytest.mark.parametrize(("n_free", "n_negatives"), [(3, 2), (5, 1), (5, 2), (17, 1), (64, 1), (65, 64)])
    def test_strict_draws_every_set_as_often(self, n_free: int, n_negatives: int) -> None:
        sets = strict(20_000, n_free, n_negatives) - 2
        assert sets.min() >= 0
        labels = [tuple(row) for row in sets.tolist()]
        counts = np.unique([str(label) for label in labels], return_counts=True)[1]
        expected = {(3, 2): 3, (5, 1): 5, (5, 2): 10, (17, 1): 17, (64, 1): 64, (65, 64): 65}
        assert len(counts) == expected[n_free, n_negatives]
        assert chisquare(counts).pvalue > 1e-3

    def test_strict_reaches_the_first_and_the_last_item(self) -> None:
        train = interactions([[3, 4]] * 200, 6)
        drawn = draw_test_negatives(train, np.full(200, 2, np.int32), 1)
        assert set(drawn.ravel().tolist()) == {0, 1, 5}

    def test_strict_can_take_everything_that_is_left(self) -> None:
        assert strict(3, 100, 100).tolist() == [list(range(2, 102))] * 3

    def test_mlperf_repeats_and_may_draw_the_held_out_item(self) -> None:
        train = interactions([[0, 5, 9]] * 500, 10)
        negatives = draw_test_negatives(train, np.full(500, 4, np.int32), 30, protocol="mlperf", seed=1)
        counts = np.bincount(negatives.ravel(), minlength=10)
        assert counts[[0, 5, 9]].tolist() == [0, 0, 0]
        assert chisquare(counts[[1, 2, 3, 4, 6, 7, 8]]).pvalue > 1e-3
        assert (np.diff(negatives, axis=1) >= 0).all()
        assert (np.diff(negatives, axis=1) == 0).any(axis=1).all()  # 30 draws of 7 items

    @pytest.mark.parametrize("protocol", ["strict", "mlperf"])
    def test_users_and_seeds_have_draws_of_their_own(self, protocol: Protocol) -> None:
        train = interactions([[0]] * 50, 1000)
        rows = [
            tuple(row)
            for seed in range(3)
            for row in draw_test_negatives(train, np.ones(50, np.int32), 5, protocol=protocol, seed=seed).tolist()
        ]
        assert len(set(rows)) == 150

    @pytest.mark.parametrize("protocol", ["strict", "mlperf"])
    def test_the_number_of_threads_changes_nothing(
        self, one_and_two_threads: Iterable[int], protocol: Protocol
    ) -> None:
        train = interactions([[0, 9], [4], []] * 50, 100)
        drawn = []
        for _ in one_and_two_threads:
            drawn.append(digest(draw_test_negatives(train, np.ones(150, np.int32), 20, protocol=protocol)))
        assert drawn[0] == drawn[1]

    def test_the_stream_never_changes(self) -> None:
        train = interactions([[0, 9], [4], [3, 7]], 10)
        test_items = np.array([1, 2, 9], np.int32)
        assert draw_test_negatives(train, test_items, 5, seed=7).tolist() == [
            [3, 4, 5, 7, 8],
            [3, 5, 7, 8, 9],
            [0, 1, 4, 5, 6],
        ]
        assert draw_test_negatives(train, test_items, 5, protocol="mlperf", seed=7).tolist() == [
            [1, 1, 3, 4, 8],
            [1, 1, 3, 3, 5],
            [0, 4, 4, 8, 9],
        ]

    def test_too_few_items_are_refused(self) -> None:
        train, test_items = interactions([[0], [0, 1]], 5), np.array([1, 2], np.int32)
        assert draw_test_negatives(train, test_items, 2).shape == (2, 2)
        with pytest.raises(DataError, match=r"^user number 1 has 2 of 5 items left .* at most 2 negatives") as caught:
            draw_test_negatives(train, test_items, 3)
        assert "\n" not in str(caught.value)
        assert draw_test_negatives(train, test_items, 9, protocol="mlperf").shape == (2, 9)

    @pytest.mark.parametrize("protocol", ["strict", "mlperf"])
    def test_a_user_with_everything_is_refused(self, protocol: Protocol) -> None:
        # Under mlperf only the held-out item could be drawn, and would be a hit whatever its score.
        with pytest.raises(DataError, match=r"^user number 0 has interacted with all 3 items, so no negative exists"):
            draw_test_negatives(interactions([[0, 1]], 3), np.array([2], np.int32), 1, protocol=protocol)

    def test_arguments_out_of_range_are_refused(self) -> None:
        train, test_items = interactions([[0]], 5), np.array([1], np.int32)
        with pytest.raises(ValueError, match="n_negatives is 0; it must be at least 1"):
            draw_test_negatives(train, test_items, 0)
        with pytest.raises(ValueError, match="seed is -1"):
            draw_test_negatives(train, test_items, 1, seed=-1)
        with pytest.raises(ValueError, match=r"protocol is 'published'; .* 'strict' or 'mlperf'"):
            draw_test_negatives(train, test_items, 1, protocol="published")
        with pytest.raises(ValueError, match="there are 2 held-out items for 1 users"):
            draw_test_negatives(train, np.array([1, 2], np.int32), 1)
