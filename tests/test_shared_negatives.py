"""Batches with shared negatives: what is in them, and that nothing but the seed decides it."""

from dataclasses import replace

import numpy as np
import pytest

from ncf_ppt.shared_negatives import SharedNegativesSampler, SoftmaxBatch
from ppt_core.errors import DataError
from ppt_core.schedule import batches_per_epoch
from tests.test_histories import data_of

HISTORIES = [[3, 1, 4, 0], [2], [8, 6, 7, 5, 3, 0, 2], [4, 8], [0, 1, 2]]


def epoch_of(sampler: SharedNegativesSampler, epoch: int) -> list[SoftmaxBatch]:
    n_batches = batches_per_epoch(len(sampler.data.train), sampler.batch_size)
    return [sampler.batch(epoch, number, n_batches) for number in range(n_batches)]


@pytest.mark.parametrize("batch_size", [2, 3, 4, 100])  # 17 positives: a rest of 1, of 2, of 1, none
def test_each_positive_once_with_what_came_before(batch_size: int) -> None:
    sampler = SharedNegativesSampler(data=data_of(HISTORIES), batch_size=batch_size, n_negatives=6, n_recent=3, seed=5)
    expected = sorted(
        ((items[:place][::-1] + [-1] * 3)[:3], item) for items in HISTORIES for place, item in enumerate(items)
    )
    orders = []
    for epoch in range(2):
        batches = epoch_of(sampler, epoch)
        assert min(len(batch.positives) for batch in batches) > 1
        rows = [row for batch in batches for row in zip(batch.recent.tolist(), batch.positives.tolist(), strict=True)]
        assert sorted(rows) == expected
        orders.append(rows)
    assert orders[0] != orders[1]


def test_known_positives_are_marked_repetitions_included() -> None:
    data = data_of(HISTORIES)
    sampler = SharedNegativesSampler(data=data, batch_size=4, n_negatives=40, n_recent=9, seed=1)
    for batch in epoch_of(sampler, 0):
        assert len(set(batch.negatives.tolist())) < 40  # nine items: they repeat
        for recent, positive, is_known in zip(batch.recent, batch.positives, batch.is_known, strict=True):
            before = [item for item in recent[::-1].tolist() if item >= 0] + [int(positive)]
            (known,) = [items for items in HISTORIES if items[: len(before)] == before]
            assert is_known.tolist() == [item in known for item in batch.negatives.tolist()]


def test_negatives_are_uniform_over_the_catalogue() -> None:
    sampler = SharedNegativesSampler(data=data_of(HISTORIES), batch_size=2, n_negatives=900, n_recent=1)
    counts = np.bincount(np.concatenate([batch.negatives for batch in epoch_of(sampler, 0)]), minlength=9)
    expected = counts.sum() / 9
    assert np.sum((counts - expected) ** 2 / expected) < 42.7  # chi-square of 8 degrees: exceeded once in a million


def test_a_batch_depends_on_its_address_alone() -> None:
    sampler = SharedNegativesSampler(data=data_of(HISTORIES), batch_size=4, n_negatives=6, n_recent=3, seed=5)
    later = sampler.batch(3, 2, 4)
    epoch_of(sampler, 0)
    for expected, found in zip(later, sampler.batch(3, 2, 4), strict=True):
        np.testing.assert_array_equal(expected, found)
    other = replace(sampler, seed=6).batch(3, 2, 4)
    assert any((one != two).any() for one, two in zip(later, other, strict=True))


def test_what_cannot_be_sampled() -> None:
    data = data_of(HISTORIES)
    with pytest.raises(ValueError, match="n_negatives is 0; it must be at least 1"):
        SharedNegativesSampler(data=data, batch_size=4, n_negatives=0, n_recent=3)
    with pytest.raises(ValueError, match="seed is -1"):
        SharedNegativesSampler(data=data, batch_size=4, n_negatives=1, n_recent=3, seed=-1)
    with pytest.raises(DataError, match="do not hold the order"):
        SharedNegativesSampler(data=replace(data, history=None), batch_size=4, n_negatives=1, n_recent=3)
    with pytest.raises(DataError, match="there are no train positives"):
        SharedNegativesSampler(data=data_of([[], []]), batch_size=4, n_negatives=1, n_recent=3)
