"""Random numbers at an address: functions of (seed, purpose, epoch, position), with no generator state between.

What happens to a sample then depends neither on the batch it is in, nor on workers, interruptions or processes.
`random_word` and `below` work on NumPy's arrays, and kernels compile the same text for single words.
"""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def check_seed(seed: int) -> None:
    """Raise ValueError unless 0 <= seed < 2**63."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed}; it must be between 0 and 2**63 - 1")


def stream_keys(seed: int, purpose: str, epoch: int, n: int = 1) -> NDArray[np.uint64]:
    """Independent 64-bit keys for each (seed, purpose, epoch), uint64 (n,), from `numpy.random.SeedSequence`."""
    entropy = [seed, int.from_bytes(purpose.encode(), "little"), epoch]
    return np.random.SeedSequence(entropy).generate_state(n, np.uint64).astype(np.uint64, copy=False)


def random_word(key: NDArray[np.uint64], counter: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Word number ``counter`` of the stream ``key``: SplitMix64 addressed at any position (Steele, Lea, Flood 2014).

    The last three lines are its output function, a bijection of 64-bit words.
    """
    word: NDArray[np.uint64] = key + (counter + np.uint64(1)) * _GOLDEN
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def random_words(seed: int, purpose: str, epoch: int, positions: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Return an independent uniform 64-bit word for each position (0 .. 2**64 - 1), of the shape of ``positions``.

    Word ``position`` of the stream of (seed, purpose, epoch).
    """
    return random_word(stream_keys(seed, purpose, epoch), np.asarray(positions, np.uint64))


def below(word: NDArray[np.uint64], n: int) -> NDArray[np.int64]:
    """Map words to 0 .. n - 1, n < 2**31, by multiply-shift on their upper halves (Lemire 2019).

    The probability of a value is off by at most 2**-32, which no test of a catalogue's size could see.
    """
    return np.int64(((word >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))  # type: ignore[return-value]


def fractions(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Map words to multiples of 2**-53 in [0, 1)."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
