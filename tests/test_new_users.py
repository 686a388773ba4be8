"""Recommending to people by their histories."""

from collections.abc import Sequence

import numpy as np
import pytest

from data_prep.ratings.raw_ratings import Ratings
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.new_users import people_of, scorer_of_people
from ncf_ppt.recommendation import recommend
from ncf_ppt.two_tower import TwoTower, TwoTowerConfig
from ppt_core.errors import DataError
from tests.test_histories import data_of

DATA = data_of([[3, 1, 4, 0], [2, 5]])


def ratings(rows: Sequence[tuple[object, object, int]]) -> Ratings:
    users, items, times = zip(*rows, strict=True)
    ids = [np.array(values, None if isinstance(values[0], int) else object) for values in (users, items)]
    return Ratings.from_ids(ids[0], ids[1], np.array(times))


def test_histories_by_time_each_pair_once_unknown_items_left_out() -> None:
    people = people_of(
        DATA.item_ids, ratings([("b", 7, 5), ("a", 2, 9), ("b", 3, 1), ("b", 99, 7), ("b", 7, 0), ("a", 1, 9)])
    )
    assert people.user_ids.tolist() == ["b", "a"]
    assert people.history is not None
    assert people.history.tolist() == [3, 7, 2, 1]
    assert people.train.offsets.tolist() == [0, 2, 4]
    assert people.train.items.tolist() == [3, 7, 1, 2]


def test_ids_of_another_type_are_found() -> None:
    people = people_of(DATA.item_ids, ratings([(1, "7", 5), (1, "08", 6)]))
    assert people.train.items.tolist() == [7]


def test_a_user_of_the_training_gets_the_same_list_by_history() -> None:
    model = TwoTower(2, 9, TwoTowerConfig(factors=6, layers=(), n_recent=3), seed=1)
    rows = [
        (user, item, place) for user, items in enumerate([[3, 1, 4, 0], [2, 5]]) for place, item in enumerate(items)
    ]
    people = people_of(DATA.item_ids, ratings(rows))
    lists = recommend(scorer_of_people(model, people), people, k=4)
    expected = recommend(scorer_of_people(model, DATA), DATA, k=4)
    assert lists.to_dicts() == expected.to_dicts()
    assert not set(lists.item_ids[:4].tolist()) & {3, 1, 4, 0}


def test_a_network_with_rows_of_users_makes_one_and_needs_no_times() -> None:
    model = NCF(2, 9, NCFConfig(model="gmf", factors=2), seed=0)
    people = people_of(DATA.item_ids, Ratings.from_ids(np.array([5, 5]), np.array([3, 1]), None), in_order=False)
    assert people.train.items.tolist() == [1, 3]
    found = recommend(scorer_of_people(model, people, DATA), people, k=9)
    assert sorted(found.item_ids.tolist()) == [0, 2, 4, 5, 6, 7, 8]


def test_what_cannot_be_known() -> None:
    with pytest.raises(ValueError, match="rows for new users follow from those of the trained ones"):
        scorer_of_people(NCF(2, 9, NCFConfig(model="gmf", factors=2), seed=0), DATA)
    with pytest.raises(DataError, match="the histories hold no times"):
        people_of(DATA.item_ids, Ratings.from_ids(np.array([5, 5]), np.array([3, 1]), None))
    with pytest.raises(DataError, match="no item of the histories is in the catalogue"):
        people_of(DATA.item_ids, ratings([(1, 77, 5), (1, 78, 6)]))
