import hashlib
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds

from data_prep.ratings.prepare import prepare
from data_prep.ratings.raw_ratings import Ratings
from data_prep.ratings.synthetic import SAMPLE, synthesize
from ncf_ppt.baselines import fit_baseline
from ncf_ppt.ranking import rank_test_items
from ppt_core.errors import DataError
from tests import reference


@pytest.fixture(scope="module")
def sample() -> Ratings:
    return synthesize(**SAMPLE, seed=0)


def digest(ratings: Ratings) -> str:
    arrays = (ratings.users, ratings.items, ratings.times, ratings.user_ids, ratings.item_ids)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def assert_has_exactly(ratings: Ratings, n_users: int, n_items: int, n_interactions: int) -> None:
    pairs = ratings.users.astype(np.int64) * n_items + ratings.items
    assert len(ratings) == len(np.unique(pairs)) == n_interactions
    assert np.unique(ratings.users).tolist() == list(range(n_users))
    assert np.unique(ratings.items).tolist() == list(range(n_items))
    assert ratings.user_ids.tolist() == list(range(1, n_users + 1))
    assert sorted(ratings.item_ids.tolist()) == list(range(1, n_items + 1))
    # Codes count first appearances, as from a file.
    assert (np.diff(np.unique(ratings.items, return_index=True)[1]) > 0).all()
    # User by user, in order of time.
    assert (np.diff(ratings.users) >= 0).all()
    assert (np.diff(ratings.times)[np.diff(ratings.users) == 0] >= 0).all()


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**63 - 1))
def test_sizes_are_exact_and_pairs_distinct(data: st.DataObject, n_users: int, n_items: int, seed: int) -> None:
    n_interactions = data.draw(st.integers(max(n_users, n_items), n_users * n_items))
    ratings = synthesize(n_users, n_items, n_interactions, seed=seed)
    assert_has_exactly(ratings, n_users, n_items, n_interactions)


@pytest.mark.parametrize(
    ("n_users", "n_items", "n_interactions"),
    [
        (1, 1, 1),
        (1, 5_000, 5_000),  # every pair there is
        (5_000, 1, 5_000),
        (70, 60, 4_200),
        (2, 5_000, 5_000),
        (5_000, 2, 5_000),
        (30, 20_000, 20_000),  # no item twice
        (10, 20_000, 20_001),
        (5_000, 300, 5_001),
    ],
)
def test_extreme_sizes(n_users: int, n_items: int, n_interactions: int) -> None:
    assert_has_exactly(synthesize(n_users, n_items, n_interactions, seed=1), n_users, n_items, n_interactions)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 2, 2), "2 interactions cannot cover 3 users; ask for at least as many interactions"),
        ((2, 3, 2), "2 interactions cannot cover 3 items"),
        ((2, 3, 7), "2 users and 3 items have 6 pairs, fewer than the 7 interactions; ask for fewer"),
        ((0, 3, 7), "synthetic data cannot have 0 users; ask for 1 to 2,147,483,647"),
        ((3, 2**31, 2**31), "cannot have 2,147,483,648 items"),
        ((3, 3, -1), "-1 interactions cannot cover 3 users"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(sizes: tuple[int, int, int], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        synthesize(*sizes, seed=0)
    assert "\n" not in str(caught.value)


def test_seeds_out_of_range_are_refused() -> None:
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match=f"seed is {seed}; it must be between 0 and"):
            synthesize(2, 2, 3, seed=seed)


def test_the_sample_is_as_large_as_it_says(sample: Ratings) -> None:
    assert_has_exactly(sample, 1_000, 2_000, 80_000)


def test_users_and_items_have_long_tails(sample: Ratings) -> None:
    activity, popularity = np.sort(np.bincount(sample.users)), np.sort(np.bincount(sample.items))
    assert activity.min() == 20
    assert activity.max() <= 1_000  # half of the items, so that 999 strict negatives are left
    assert np.median(activity) < 0.7 * activity.mean()
    assert activity[-100:].sum() > 0.3 * activity.sum()
    assert popularity[-200:].sum() > 0.4 * popularity.sum()
    assert popularity[:1_000].sum() < 0.2 * popularity.sum()


def test_users_take_what_the_average_allows() -> None:
    counts = np.bincount(synthesize(100, 50, 700, seed=3).users)
    assert counts.min() >= 7
    assert counts.sum() == 700


def test_nothing_gives_away_the_popular_items(sample: Ratings) -> None:
    popularity = np.bincount(sample.items)
    correlation = np.corrcoef(sample.item_ids, popularity)[0, 1]
    assert abs(correlation) < 4 / np.sqrt(len(popularity))


def test_the_last_item_is_as_popular_as_the_rest(sample: Ratings) -> None:
    # Drawn one after the other without replacement, late items would be rare ones.
    popularity = np.bincount(sample.items)
    last = np.flatnonzero(np.diff(sample.users, append=-1))
    others = np.delete(np.arange(len(sample)), last)
    ends, all_of_them = popularity[sample.items[last]], popularity[sample.items[others]]
    by_user = np.bincount(sample.users[others], all_of_them) / np.bincount(sample.users[others])
    difference = ends - by_user
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))


def test_times_are_plausible_and_sometimes_tied(sample: Ratings) -> None:
    assert sample.times.dtype == np.int64
    assert sample.times.min() >= 946_684_800  # 2000-01-01
    assert sample.times.max() < 1_577_836_800  # 2020-01-01
    gaps = np.diff(sample.times)[np.diff(sample.users) == 0]
    assert 0.01 < (gaps == 0).mean() < 0.05


def test_users_have_draws_of_their_own() -> None:
    everything = synthesize(50, 10, 500, seed=2)  # every user has drawn as often before the times are
    gaps = np.diff(everything.times.reshape(50, 10), axis=1)
    assert len(np.unique(gaps, axis=0)) == 50


def test_the_structure_can_be_learned(sample: Ratings) -> None:
    data = prepare(sample, source={})
    popularity = np.bincount(data.train.items, minlength=data.n_items).astype(np.float32)
    matrix = csr_array((np.ones(len(data.train), np.float32), data.train.items, data.train.offsets))
    left, values, right = svds(matrix, k=12, v0=np.ones(min(matrix.shape)), solver="arpack")
    tastes = ((left * values) @ right).astype(np.float32)
    by_popularity = rank_test_items(lambda users, candidates: popularity[candidates], data).hit_ratio()
    by_taste = rank_test_items(lambda users, candidates: tastes[users[:, None], candidates], data).hit_ratio()
    n, chance = data.n_users, reference.guessed_hit_ratio(data.n_negatives)
    assert reference.above_chance(by_popularity * n, n, chance)
    assert reference.above_chance(by_taste * n, n, by_popularity)


def test_a_planted_order_is_what_the_items_before_tell() -> None:
    sizes = {"n_users": 400, "n_items": 300, "n_interactions": 12_000}
    found, taken = {}, {}
    for in_order in (0, 0.9):
        ratings = synthesize(**sizes, in_order=in_order, seed=7)
        assert_has_exactly(ratings, *sizes.values())
        pairs = zip(ratings.users.tolist(), ratings.item_ids[ratings.items].tolist(), strict=True)
        taken[in_order] = (set(pairs), ratings.times.tolist())
        data = prepare(ratings, n_negatives=99, source={})
        found[in_order] = {
            name: rank_test_items(fit_baseline(name, data, seed=0), data).hit_ratio() * data.n_users
            for name in ("markov", "popular")
        }
    assert taken[0] == taken[0.9]
    n = sizes["n_users"]
    assert reference.above_chance(found[0.9]["markov"], n, max(found[0].values()) / n)
    # What everybody takes stays what it was: without the order, the last item is a typical one.
    assert not reference.above_chance(found[0.9]["popular"], n, found[0]["popular"] / n)


@pytest.mark.parametrize("in_order", [-0.1, 1.1, np.nan])
def test_shares_that_are_none_are_refused(in_order: float) -> None:
    with pytest.raises(ValueError, match=f"in_order is {in_order}; it must be between 0 and 1"):
        synthesize(2, 2, 3, in_order=in_order, seed=0)


def test_a_seed_is_a_data_set_whatever_the_number_of_threads(one_and_two_threads: Iterable[int]) -> None:
    found = []
    for _ in one_and_two_threads:
        # The first takes the way of the few items, the second that of the many.
        found.append([digest(synthesize(50, 900, 2_000, seed=5)), digest(synthesize(50, 40, 1_000, seed=5))])
    assert found[0] == found[1]
    assert digest(synthesize(50, 900, 2_000, seed=6)) != found[0][0]


def test_the_sample_never_changes(sample: Ratings) -> None:
    # A few values only: the last bits of exp, log and sums may differ between libraries.
    assert np.bincount(sample.users)[:5].tolist() == [54, 57, 43, 51, 98]
    assert sample.item_ids[sample.items[:5]].tolist() == [1391, 177, 1721, 1235, 1456]
    assert sample.times[:5].tolist() == [1189851074, 1189851088, 1189851097, 1189851160, 1189851202]
