import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncf_ppt.packed._kernels import BLOCK
from ncf_ppt.packed.tiles import ITEMS_PER_SECTION, Tiles


def test_a_section_fits_into_sixteen_bits() -> None:
    assert ITEMS_PER_SECTION < 2**16
    assert ITEMS_PER_SECTION % BLOCK == 0


@pytest.mark.parametrize("n_items", [1, BLOCK - 1, BLOCK, 2 * BLOCK, 5 * BLOCK + 3])
def test_ranks_compare_as_the_values_do(n_items: int) -> None:
    """Few values, so that many are equal; thresholds on them, between them and beyond them; sections of two blocks."""
    rng = np.random.default_rng(n_items)
    levels = np.array([-3, -1, -0.0, 0.0, 1e-40, 2, 3e38], np.float32)
    values = rng.choice(levels, (n_items, 5))
    factors = rng.standard_normal((n_items, 3)).astype(np.float32)
    tiles = Tiles.of(values, factors, items_per_section=2 * BLOCK)
    assert len(tiles.levels) == -(-n_items // (2 * BLOCK))
    neighbours = [np.nextafter(levels, np.float32(side)) for side in (-np.inf, np.inf)]
    thresholds = np.concatenate([levels, *neighbours, np.array([-np.inf, np.inf], np.float32)])
    ranks = tiles.ranks_of(np.repeat(thresholds[:, np.newaxis], 5, axis=1))
    for item in range(n_items):
        block, place = divmod(item, BLOCK)
        found = tiles.ranks[block, :, place] >= ranks[:, item // (2 * BLOCK)]
        np.testing.assert_array_equal(found, values[item] >= thresholds[:, np.newaxis])
        np.testing.assert_array_equal(tiles.factors[block, :, place], factors[item])


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1),
    st.floats(width=32, allow_nan=False),
)
def test_a_rank_counts_the_values_below(values: list[float], threshold: float) -> None:
    column = np.array(values, np.float32)[:, np.newaxis]
    tiles = Tiles.of(column, column)
    assert tiles.ranks[0, 0, : len(values)].tolist() == [sum(other < value for other in values) for value in values]
    found = tiles.ranks_of(np.array([[threshold]], np.float32))
    assert found.tolist() == [[[sum(value < threshold for value in values)]]]
