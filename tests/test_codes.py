from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions
from ncf_ppt.codes import Codes, CodeSearch, top_codes
from ncf_ppt.export.encodings import decode, encode
from ncf_ppt.recommendation import top_items
from tests import reference


def codes(n: int, n_bits: int, seed: int, *, scales: Any = None) -> Codes:
    rng = np.random.default_rng(seed)
    found = Codes.of(rng.normal(size=(n, n_bits)).astype(np.float32))
    return Codes(
        words=found.words, scales=found.scales if scales is None else np.asarray(scales, np.float32), n_bits=n_bits
    )


def signs(codes: Codes) -> NDArray[Any]:
    """-1 or +1 (n, n_bits)."""
    octets = np.ascontiguousarray(codes.words.T).view(np.uint8)
    return np.where(np.unpackbits(octets, axis=1, count=codes.n_bits), 1, -1)


def some_seen(n_users: int, n_items: int) -> Interactions:
    pairs = [(user, item) for user in range(n_users) for item in range(n_items) if (user * 7 + item * 5) % 6 == 0]
    users, items = np.array(pairs).T
    return Interactions.from_pairs(users, items, n_users=n_users, n_items=n_items)


@pytest.mark.parametrize("n_bits", [1, 8, 63, 64, 65, 128, 192, 256, 300, 512])
@pytest.mark.parametrize("n_items", [1, 63, 150])
def test_lists_are_those_of_the_obvious_way(n_bits: int, n_items: int) -> None:
    rng = np.random.default_rng(n_bits)
    users = codes(5, n_bits, 0, scales=[0.3, 0, 1, 1e-3, 1e-40])
    items = codes(n_items, n_bits, 1, scales=rng.choice([0, 0.25, 0.5, 1.7, 1e-40], n_items))
    seen = some_seen(5, n_items)
    for bias in (0.0, -0.7):
        for k in (1, 10, n_items + 3):
            numbers = np.array([4, 0, 3, 1, 2, 0])
            found, scores, lengths = top_codes(users, items, numbers, k, bias=bias, seen=seen)
            for row, user in enumerate(numbers):
                left_out = set(seen.items_of(user).tolist())
                expected = reference.top_codes(
                    signs(users)[user], users.scales[user], signs(items), items.scales, k, bias, left_out
                )
                length = lengths[row]
                assert found[row, :length].tolist() == [item for item, _ in expected]
                assert scores[row, :length].tobytes() == np.array([s for _, s in expected], np.float32).tobytes()


@pytest.mark.parametrize("k", [1, 2, 100, 700])
def test_top_items_are_those_of_a_sort(k: int) -> None:
    """With equal scores, lists shorter than ``k``, and items that nobody scored."""
    rng = np.random.default_rng(k)
    scores = rng.integers(-20, 20, (9, 600)).astype(np.float32)
    scores[2, 5:] = -np.inf
    seen = some_seen(9, 600)
    found, best, lengths = top_items(scores, k, seen, np.arange(9))
    for row in range(9):
        left_out = set(seen.items_of(row).tolist())
        there = [item for item in range(600) if item not in left_out and scores[row, item] > -np.inf]
        expected = sorted(there, key=lambda item: (-scores[row, item], item))[:k]
        assert found[row, : lengths[row]].tolist() == expected
        assert best[row, : lengths[row]].tolist() == scores[row, expected].tolist()


@pytest.mark.parametrize("k", [1, 10, 100])
@pytest.mark.parametrize("n_bits", [6, 128])
def test_lists_are_those_of_catalogue_scores_on_any_threads(
    n_bits: int, k: int, one_and_two_threads: Iterable[int]
) -> None:
    """Of enough items that tiles, blocks and bounds take part; few bits and scales make many scores equal."""
    rng = np.random.default_rng(k)
    scales = rng.lognormal(0, 1, 9000) if n_bits > 6 else rng.choice([0.5, 1.0], 9000)
    users, items = codes(50, n_bits, 2), codes(9000, n_bits, 3, scales=scales)
    seen, numbers = some_seen(50, 9000), np.arange(50)
    search = CodeSearch(users=users, items=items, bias=-1.5)
    answers = set()
    for _ in one_and_two_threads:
        expected = top_items(search.score_catalogue(numbers), k, seen, numbers)
        found = top_codes(users, items, numbers, k, bias=-1.5, seen=seen)
        for column in range(3):
            assert found[column].tobytes() == expected[column].tobytes()
        answers.add(found[1].tobytes())
        assert search.find(numbers, k, seen)[0].tobytes() == found[0].tobytes()
    assert len(answers) == 1
    candidates = rng.integers(9000, size=(50, 30)).astype(np.int32)
    pairs = np.take_along_axis(search.score_catalogue(numbers), candidates.astype(np.int64), axis=1)
    assert search(numbers, candidates).tobytes() == pairs.tobytes()


def test_scores_are_inner_products_of_what_is_exported() -> None:
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(n, 70)).astype(np.float32) for n in (4, 9)]
    decoded, found = [], []
    for table in vectors:
        values, scales = encode(table, "binary")
        assert scales is not None
        decoded.append(decode(values, scales, 70).astype(np.float64))
        found.append(Codes.of_bytes(values, scales, 70))
        assert found[-1].words.tobytes() == Codes.of(table).words.tobytes()
    scores = CodeSearch(users=found[0], items=found[1], bias=0.5).score_catalogue(np.arange(4))
    np.testing.assert_allclose(scores, decoded[0] @ decoded[1].T + 0.5, rtol=1e-5)


def test_nobody_and_nothing() -> None:
    users, items = codes(3, 64, 0), codes(0, 64, 1)
    assert top_codes(users, items, np.arange(3), 4)[2].tolist() == [0, 0, 0]
    assert top_codes(users, codes(5, 64, 1), np.empty(0, np.int64), 4)[0].shape == (0, 4)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="users have codes of 64 bits and items of 128; both must have as many"):
        top_codes(codes(3, 64, 0), codes(3, 128, 0), np.arange(3), 1)
    with pytest.raises(ValueError, match="k is 0; it must be at least 1"):
        top_codes(codes(3, 64, 0), codes(3, 64, 0), np.arange(3), 0)
    with pytest.raises(ValueError, match="finite, and 0 or above"):
        codes(2, 64, 0, scales=[1, -1])
    with pytest.raises(ValueError, match="finite, and 0 or above"):
        codes(2, 64, 0, scales=[1, np.nan])
    with pytest.raises(ValueError, match=r"words have shape \(1, 2\); 65 bits of 2 codes are \(2, 2\)"):
        Codes(words=codes(2, 64, 0).words, scales=np.ones(2, np.float32), n_bits=65)
