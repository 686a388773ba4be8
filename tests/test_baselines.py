import itertools
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import implicit.utils
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from data_prep.ratings.interactions import Interactions, PreparedData
from data_prep.ratings.ncf_files import read_ncf_files
from ncf_ppt.baselines import (
    BASELINES,
    ALSConfig,
    BaselineConfig,
    BPRConfig,
    MatrixFactorization,
    fit_baseline,
)
from ncf_ppt.item_knn import ItemKNNConfig
from ncf_ppt.ranking import rank_test_items
from ncf_ppt.sequence_baselines import MarkovConfig, RecentItemKNNConfig
from ppt_core.errors import DataError
from tests import reference

SMALL: dict[str, BaselineConfig] = {
    **BASELINES,
    "als": ALSConfig(factors=4, regularization=1, iterations=4),
    "bpr": BPRConfig(factors=4, iterations=200, learning_rate=0.1),
}


def prepared(histories: list[list[int]], n_items: int) -> PreparedData:
    """Train positives alone, in their order in time: the test items are all 0 and there are no negatives."""
    users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    items = np.array([item for history in histories for item in history], np.int64)
    return PreparedData(
        train=Interactions.from_pairs(users, items, n_users=len(histories), n_items=n_items),
        history=items.astype(np.int32),
        test_items=np.zeros(len(histories), np.int32),
        test_negatives=np.zeros((len(histories), 0), np.int32),
        user_ids=np.arange(len(histories)),
        item_ids=np.arange(n_items),
        protocol="strict",
        manifest={},
    )


def random_data(seed: int = 0, n_users: int = 30, n_items: int = 40) -> PreparedData:
    rng = np.random.default_rng(seed)
    return prepared([np.flatnonzero(rng.random(n_items) < 0.3).tolist() for _ in range(n_users)], n_items)


def all_scores(name: str, data: PreparedData, **keywords: Any) -> NDArray[np.float32]:
    return fit_baseline(SMALL[name], data, **keywords).score_catalogue(np.arange(data.n_users))


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "popular"])
def test_learns_the_checkerboard(checkerboard: PreparedData, name: str) -> None:
    ranks = rank_test_items(fit_baseline(SMALL[name], checkerboard), checkerboard)
    assert ranks.hit_ratio(1) == 1


def test_popularity_counts_train_positives() -> None:
    data = prepared([[0, 2], [2, 3], [2], []], 5)
    popular = fit_baseline("popular", data)
    scores = popular.score_catalogue(np.array([3, 0]))
    assert scores.dtype == np.float32
    assert scores.tolist() == [[1, 0, 3, 1, 0]] * 2
    assert popular(np.array([1]), np.array([[4, 2, 2]], np.int32)).tolist() == [[0, 3, 3]]


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.lists(st.integers(0, 7), unique=True, max_size=8), min_size=1, max_size=6),
    st.sampled_from([0.0, 1.0, 2.0]),
)
def test_item_knn_sums_similarities(histories: list[list[int]], idf_power: float) -> None:
    data = prepared(histories, 8)
    model = fit_baseline(ItemKNNConfig(neighbours=8, idf_power=idf_power), data)
    expected = reference.item_knn_scores(histories, 8, idf_power)
    np.testing.assert_allclose(model.score_catalogue(np.arange(len(histories))), expected, rtol=1e-5, atol=1e-7)


def test_item_knn_keeps_the_nearest_neighbours() -> None:
    # Item 1 shares two of its users with item 0 and one with item 2.
    data = prepared([[0, 1], [0, 1], [1, 2], [1]], 3)
    model = fit_baseline(ItemKNNConfig(neighbours=2, idf_power=0), data)
    expected = [[2 / np.sqrt(8), 1, 0]]  # of user 3: item 2 is no longer a neighbour of item 1
    np.testing.assert_allclose(model.score_catalogue(np.array([3])), expected, rtol=1e-6)


def test_als_minimizes_the_weighted_squares() -> None:
    data = random_data()
    config = ALSConfig(factors=2, regularization=2.5, alpha=4, iterations=80)
    model = fit_baseline(config, data)
    assert isinstance(model, MatrixFactorization)
    users, items = model.user_vectors.astype(np.float64), model.item_vectors.astype(np.float64)
    liked = np.zeros((data.n_users, data.n_items))
    liked[data.train.users(), data.train.items] = 1
    # The derivatives of sum (1 or alpha) * (liked - u.i)^2 + regularization * (|u|^2 + |i|^2), halved.
    errors = np.where(liked, 4, 1) * (users @ items.T - liked)
    np.testing.assert_allclose(errors @ items + 2.5 * users, 0, atol=1e-2)
    np.testing.assert_allclose(errors.T @ users + 2.5 * items, 0, atol=1e-2)
    assert np.abs(users).max() > 0.1


def test_bpr_has_an_item_bias() -> None:
    data = prepared([[0]] * 40 + [[1, 2]] * 3, 4)
    model = fit_baseline(BPRConfig(factors=2, iterations=500), data)
    assert isinstance(model, MatrixFactorization)
    assert (model.user_vectors[:, -1] == 1).all()
    scores = model.score_catalogue(np.arange(40))
    assert (scores[:, 0] > scores[:, 1:3].max(axis=1)).all()
    assert (scores[:, 3] == 0).all()  # nobody has item 3


@pytest.mark.parametrize("name", BASELINES)
def test_every_way_to_score_gives_the_same_bits(name: str) -> None:
    data = random_data(n_users=70)
    model = fit_baseline(SMALL[name], data)
    users = np.random.default_rng(1).integers(0, 70, 50)
    catalogue = model.score_catalogue(users)
    assert catalogue.shape == (50, 40)
    assert catalogue.dtype == np.float32
    candidates = np.random.default_rng(2).integers(0, 40, (50, 9)).astype(np.int32)
    pairs = model(users, candidates)
    assert pairs.shape == (50, 9)
    assert pairs.dtype == np.float32
    assert pairs.tobytes() == np.take_along_axis(catalogue, candidates.astype(np.int64), axis=1).tobytes()
    for row in (0, 17, 49):
        assert model.score_catalogue(users[row : row + 1]).tobytes() == catalogue[row].tobytes()
        assert model(users[row : row + 1], candidates[row : row + 1, 3:4]).tobytes() == pairs[row, 3].tobytes()
    assert model(users[:0], candidates[:0]).shape == (0, 9)
    assert model.score_catalogue(users[:0]).shape == (0, 40)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(0, 7), unique=True, max_size=8), min_size=1, max_size=6))
def test_recent_item_knn_sums_similarities_of_recent_items(histories: list[list[int]]) -> None:
    data = prepared(histories, 8)
    model = fit_baseline(RecentItemKNNConfig(neighbours=8, idf_power=1, decay=0.7), data)
    similarities = reference.item_similarities(histories, 8, idf_power=1)
    expected = np.zeros((len(histories), 8))
    for user, history in enumerate(histories):
        for age, item in enumerate(reversed(history)):
            expected[user] += 0.7**age * similarities[item]
    np.testing.assert_allclose(model.score_catalogue(np.arange(len(histories))), expected, rtol=1e-5, atol=1e-7)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(0, 7), unique=True, max_size=8), min_size=1, max_size=6))
def test_markov_counts_what_came_next(histories: list[list[int]]) -> None:
    data = prepared(histories, 8)
    model = fit_baseline(MarkovConfig(similarity=3, popularity=2, neighbours=8, idf_power=1), data)
    similarities = reference.item_similarities(histories, 8, idf_power=1)
    np.fill_diagonal(similarities, 0)
    n = max(1, sum(map(len, histories)))
    popularity = np.array([sum(item in history for history in histories) for item in range(8)]) / n
    expected = np.tile(2 * popularity, (len(histories), 1))
    for user, history in enumerate(histories):
        if history:
            last = history[-1]
            for other in histories:
                for before, after in itertools.pairwise(other):
                    expected[user, after] += before == last
            if similarities[last].sum():
                expected[user] += 3 * similarities[last] / similarities[last].sum()
    np.testing.assert_allclose(model.score_catalogue(np.arange(len(histories))), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["recent-item-knn", "markov"])
def test_an_order_in_time_is_needed_by_those_that_see_it(name: str) -> None:
    with pytest.raises(DataError, match="do not hold the order of each user's items in time"):
        fit_baseline(name, replace(random_data(), history=None))


def test_item_knn_scores_pairs_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_data()
    model = fit_baseline("item-knn", data)
    users, candidates = np.arange(30), np.arange(60, dtype=np.int32).reshape(30, 2) % 40
    whole = model(users, candidates)
    monkeypatch.setattr("ncf_ppt.item_knn._BLOCK_BYTES", 4 * 40 * 7)  # 7 users of 30: the last block is shorter
    assert model(users, candidates).tobytes() == whole.tobytes()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(1, 1100), st.integers(1, 9), st.integers(0, 99))
def test_products_of_any_shape(n_users: int, n_items: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    user_vectors = rng.standard_normal((n_users, size)).astype(np.float32)
    item_vectors = rng.standard_normal((n_items, size)).astype(np.float32)
    model = MatrixFactorization(user_vectors=user_vectors, item_vectors=item_vectors)
    catalogue = model.score_catalogue(np.arange(n_users))
    candidates = np.tile(np.arange(n_items, dtype=np.int32), (n_users, 1))
    assert model(np.arange(n_users), candidates).tobytes() == catalogue.tobytes()
    expected = user_vectors.astype(np.float64) @ item_vectors.T.astype(np.float64)
    np.testing.assert_allclose(catalogue, expected, atol=1e-5)


def test_products_do_not_depend_on_threads(one_and_two_threads: Iterable[int]) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((100, 16)).astype(np.float32)
    model = MatrixFactorization(user_vectors=vectors, item_vectors=vectors)
    results = {model.score_catalogue(np.arange(100)).tobytes() for _ in one_and_two_threads}
    assert len(results) == 1


@pytest.mark.parametrize("name", BASELINES)
def test_a_function_of_data_and_seed(name: str) -> None:
    data = random_data()
    scores = all_scores(name, data, seed=3)
    assert scores.tobytes() == all_scores(name, data, seed=3).tobytes()
    assert (scores.tobytes() == all_scores(name, data, seed=4).tobytes()) == (name not in ("als", "bpr"))


@pytest.mark.parametrize("name", BASELINES)
def test_fits_a_set_read_from_disk(tmp_path: Path, name: str) -> None:
    data = random_data()
    data.save(tmp_path / "data")
    loaded = PreparedData.load(tmp_path / "data")
    assert not loaded.train.items.flags.writeable
    assert all_scores(name, loaded).tobytes() == all_scores(name, data).tobytes()


@pytest.mark.parametrize("name", BASELINES)
def test_users_and_items_without_interactions(name: str) -> None:
    scores = all_scores(name, prepared([[0, 1, 2, 3], [], [1, 2, 3]], 6))
    assert np.isfinite(scores).all()
    assert (scores[:, 4:] == 0).all()


@pytest.mark.parametrize("name", BASELINES)
def test_is_silent_and_leaves_threads_alone(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(implicit.utils, "_checked_blas_config", False)  # it warns only once in a process
    before = [library["num_threads"] for library in threadpool_info()]
    fit_baseline(SMALL[name], random_data())
    assert [library["num_threads"] for library in threadpool_info()] == before
    assert capfd.readouterr() == ("", "")


def test_refuses_what_it_cannot_fit() -> None:
    data = random_data()
    with pytest.raises(ValueError, match="baseline is 'knn'; choose one of popular, item-knn, als, bpr"):
        fit_baseline("knn", data)
    with pytest.raises(ValueError, match="seed is -1; it must be at least 0"):
        fit_baseline("als", data, seed=-1)
    for decay in (0, 1.5):
        with pytest.raises(ValueError, match=f"decay is {decay}; it must be above 0 and at most 1"):
            RecentItemKNNConfig(decay=decay)
    with pytest.raises(DataError, match=r"the factors diverged under BPRConfig\(.*lower the learning rate") as caught:
        fit_baseline(BPRConfig(learning_rate=1e9), data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (ItemKNNConfig, "neighbours", 0),
        (ItemKNNConfig, "idf_power", -1.0),
        (RecentItemKNNConfig, "neighbours", 0),
        (MarkovConfig, "popularity", -0.5),
        (MarkovConfig, "similarity", float("inf")),
        (ALSConfig, "factors", 0),
        (ALSConfig, "regularization", float("nan")),
        (ALSConfig, "alpha", -0.5),
        (BPRConfig, "learning_rate", float("inf")),
        (BPRConfig, "iterations", 0),
    ],
)
def test_refuses_settings_out_of_range(config: type[Any], field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value}; it must be at least [01]"):
        config(**{field: value})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("popular", 0.453),
        ("item-knn", 0.638),
        ("als", 0.725),
        ("bpr", 0.611),
        ("recent-item-knn", 0.7),
        ("markov", 0.68),
    ],
    ids=list(BASELINES),
)
def test_defaults_are_tuned(name: str, known: float) -> None:
    """About what the defaults reach, less four standard errors: more than another processor or library moves."""
    folder = os.environ.get("PPT_TEST_DATA")
    if folder is None:
        pytest.skip("PPT_TEST_DATA is not set: no real data")
    data = read_ncf_files(Path(folder) / "ml-1m-ncf" / "ml-1m.train.rating.gz")
    least = known - 4 * np.sqrt(known * (1 - known) / data.n_users)
    assert rank_test_items(fit_baseline(name, data), data).hit_ratio() > least
