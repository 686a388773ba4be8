"""The items before a moment, against lists of Python."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.ratings.interactions import Interactions, PreparedData
from ncf_ppt.histories import last_items, places_in_history, recent_items
from ppt_core.errors import DataError


def data_of(histories: list[list[int]], n_items: int = 9) -> PreparedData:
    """A set whose users have these train items, oldest first."""
    offsets = np.append(0, np.cumsum([len(items) for items in histories])).astype(np.int64)
    return PreparedData(
        train=Interactions(
            offsets=offsets,
            items=np.array([item for items in histories for item in sorted(items)], np.int32),
            n_items=n_items,
        ),
        history=np.array([item for items in histories for item in items], np.int32),
        test_items=np.zeros(len(histories), np.int32),
        test_negatives=np.zeros((len(histories), 1), np.int32),
        user_ids=np.arange(len(histories)),
        item_ids=np.arange(n_items),
        protocol="strict",
        manifest={},
    )


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 8), max_size=9, unique=True), min_size=1, max_size=5), st.integers(1, 4))
def test_newest_first_and_never_later(histories: list[list[int]], n: int) -> None:
    data = data_of(histories)
    expected = [(items[:place][::-1] + [-1] * n)[:n] for items in histories for place in range(len(items))]
    found = recent_items(data, np.arange(len(data.train)), n)
    assert found.dtype == np.int32
    assert found.tolist() == expected
    assert last_items(data, n).tolist() == [(items[::-1] + [-1] * n)[:n] for items in histories]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 8), max_size=9, unique=True), min_size=1, max_size=5))
def test_places_lead_from_each_train_item_to_its_moment(histories: list[list[int]]) -> None:
    data = data_of(histories)
    assert data.history is not None
    places, users = places_in_history(data), data.train.users()
    np.testing.assert_array_equal(data.history[places], data.train.items)
    assert (data.train.offsets[users] <= places).all()
    assert (places < data.train.offsets[users + 1]).all()


def test_what_cannot_be_had() -> None:
    data = data_of([[1, 2]])
    with pytest.raises(ValueError, match="n is 0; it must be at least 1"):
        last_items(data, 0)
    with pytest.raises(DataError, match="do not hold the order of each user's items in time"):
        last_items(replace(data, history=None), 3)
    with pytest.raises(DataError, match="do not hold the order of each user's items in time"):
        places_in_history(replace(data, history=None))
