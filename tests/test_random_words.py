import numpy as np
import pytest

from ppt_core.random_words import below, check_seed, fractions, random_words
from tests import reference


def test_words_are_those_of_splitmix64_at_any_position() -> None:
    positions = np.array([[0, 1, 2**40], [2**63 - 1, 7, 7]])
    words = random_words(3, "crop", 5, positions)
    assert words.shape == positions.shape
    assert words.dtype == np.uint64
    key = np.random.SeedSequence([3, int.from_bytes(b"crop", "little"), 5]).generate_state(1, np.uint64)[0]
    expected = [[reference.random_word(int(key), int(position)) for position in row] for row in positions]
    assert words.tolist() == expected


def test_streams_differ_in_seed_purpose_and_epoch() -> None:
    positions = np.arange(4)
    streams = [
        tuple(random_words(seed, purpose, epoch, positions).tolist())
        for seed in (0, 1)
        for purpose in ("order", "crop")
        for epoch in (0, 1)
    ]
    assert len(set(streams)) == 8


def test_numbers_made_of_words_are_uniform_and_in_range() -> None:
    words = random_words(0, "test", 0, np.arange(90_000))
    counts = np.bincount(below(words, 9))
    assert len(counts) == 9
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 26.1  # 99.9% of chi-square with 8 degrees of freedom
    values = fractions(words)
    assert values.min() >= 0
    assert values.max() < 1
    assert values.mean() == pytest.approx(0.5, abs=0.005)
    extremes = np.array([0, 2**64 - 1], np.uint64)
    assert below(extremes, 9).tolist() == [0, 8]
    assert fractions(extremes).tolist() == [0, 1 - 2**-53]


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_refuses_seeds_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match=f"seed is {seed}; it must be between 0 and"):
        check_seed(seed)
