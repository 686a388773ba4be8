"""Rows of new users: a linear function of what they took, each by its own items alone, the network at rest."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ncf_ppt
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.fold_in import RowFunction, fold_in, fold_in_packed
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.new_users import scorer_of_people
from ncf_ppt.packed.packing import pack
from ncf_ppt.scoring import scorer
from ppt_core.errors import DataError
from ppt_core.layers import set_precision
from ppt_core.plan import convert
from tests.test_histories import data_of

NETWORKS: dict[str, dict[str, Any]] = {
    "neumf": {},
    "gmf": {"model": "gmf"},
    "mlp": {"model": "mlp"},
    "1-bit": {"low": True},
    "1-bit rows": {"low": True, "binarize_embeddings": True},
    "recent items": {"n_recent": 3},
    "recent items, 1-bit": {"n_recent": 3, "low": True},
}
PEOPLE = [[3, 1, 4, 0], [2, 5, 7], [], [8], [0, 1, 2, 3, 4, 5, 6, 7, 8]]
EVERYTHING = np.tile(np.arange(9, dtype=np.int32), (5, 1))


def network(data: PreparedData, low: bool = False, **config: Any) -> NCF:
    """A network of large random weights, whose decisions are not all alike."""
    model = NCF(data.n_users, data.n_items, NCFConfig(factors=6, layers=(16, 12, 12, 8), **config), seed=0)
    if low:
        convert(model)
        set_precision(model, "low")
    with torch.no_grad():
        for table in model.tables():
            table.weight.mul_(40)
        if hasattr(model, "last_items"):
            model.last_items.copy_(torch.arange(3, dtype=torch.int32).expand(data.n_users, 3))
        for _ in range(10):
            model.train()(torch.arange(data.n_users).repeat(9), torch.arange(9 * data.n_users) % 9)
    return model.eval()


def trained_data() -> PreparedData:
    rng = np.random.default_rng(0)
    return data_of([rng.permutation(9)[: rng.integers(2, 6)].tolist() for _ in range(30)])


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS.keys())
def test_a_row_depends_on_its_own_items_alone_and_the_network_is_left_alone(config: dict[str, Any]) -> None:
    data = trained_data()
    model = network(data, **config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    together = fold_in(model, data, data_of(PEOPLE))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    scores = scorer(together)(np.arange(5), EVERYTHING)
    assert np.isfinite(scores).all()
    assert len(np.unique(scores, axis=0)) == 5
    for user, items in enumerate(PEOPLE):
        alone = fold_in(model, data, data_of([items[::-1] if not config.get("n_recent") else items]))
        for name in ("gmf_user", "mlp_user"):
            if hasattr(model, name):
                assert torch.equal(getattr(together, name).weight[user], getattr(alone, name).weight[0])
        np.testing.assert_allclose(scorer(alone)(np.arange(1), EVERYTHING[:1])[0], scores[user], atol=1e-5)


def test_the_function_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(1)
    data, items, users = trained_data(), rng.normal(size=(9, 4)), rng.normal(size=(30, 3))
    function = RowFunction.of(items.astype(np.float32), users.astype(np.float32), data.train, 0.1)
    means = np.stack([items[data.train.items_of(user)].mean(0) for user in range(30)])
    x = np.column_stack([means, np.ones(30)])
    weights = np.linalg.solve(x.T @ x + np.diag([0.1 * np.square(means).sum() / 4] * 4 + [0]), x.T @ users)
    rows = function(data_of([[3, 1, 4], []]).train)
    np.testing.assert_allclose(rows[0], np.append(items[[1, 3, 4]].mean(0), 1) @ weights, atol=1e-5)
    np.testing.assert_allclose(rows[1], weights[-1], atol=1e-5)


def test_rows_that_follow_from_the_items_are_found_again() -> None:
    """Where each user's row is the mean of the rows of the user's items, so is a new user's."""
    items = np.random.default_rng(2).normal(size=(9, 4)).astype(np.float32)
    data, people = trained_data(), data_of([[3, 1, 4], [8]])
    users = np.stack([items[data.train.items_of(user)].mean(0) for user in range(30)])
    rows = RowFunction.of(items, users, data.train, 1e-9)(people.train)
    np.testing.assert_allclose(rows, [items[[1, 3, 4]].mean(0), items[8]], atol=1e-4)
    zeros = RowFunction.of(np.zeros((9, 4), np.float32), users, data.train, 1e-2)(people.train)
    np.testing.assert_allclose(zeros, np.tile(users.mean(0), (2, 1)), atol=1e-5)


@pytest.mark.parametrize("config", [{"low": True}, {"low": True, "binarize_embeddings": True}], ids=str)
def test_a_packed_network_gives_the_same_rows(config: dict[str, Any]) -> None:
    data, people = trained_data(), data_of(PEOPLE)
    model = network(data, **config)
    packed = pack(model, user_ids=data.user_ids, item_ids=data.item_ids, protocol="", provenance={})
    assert not isinstance(packed, NCF)
    fitted, twin = scorer_of_people(packed, people, data), fold_in(model, data, people)
    np.testing.assert_array_equal(fitted.user_factors[:], twin.gmf_user.weight.detach())  # type: ignore[attr-defined]
    np.testing.assert_array_equal(fitted.user_features[:], twin.mlp_user.weight.detach())  # type: ignore[attr-defined]
    np.testing.assert_allclose(fitted(np.arange(5), EVERYTHING), scorer(twin)(np.arange(5), EVERYTHING), atol=1e-4)


def test_a_packed_gmf_of_1_bit_rows_gives_the_same_rows() -> None:
    data, people = trained_data(), data_of(PEOPLE)
    model = network(data, low=True, model="gmf", binarize_embeddings=True)
    model.last.weight.detach().fill_(0.5)  # as training leaves them
    packed = pack(model, user_ids=data.user_ids, item_ids=data.item_ids, protocol="", provenance={})
    twin = fold_in(model, data, people)
    scores = scorer_of_people(packed, people, data)(np.arange(5), EVERYTHING)
    np.testing.assert_allclose(scores, scorer(twin)(np.arange(5), EVERYTHING), atol=1e-4)


def test_a_packed_network_of_recent_items_refuses() -> None:
    data = trained_data()
    model = network(data, low=True, n_recent=3)
    provenance = {"model": model.config.to_dict()}
    packed: Any = pack(model, user_ids=data.user_ids, item_ids=data.item_ids, protocol="", provenance=provenance)
    with pytest.raises(DataError, match="it cannot read those of new people; ask the run"):
        fold_in_packed(packed, data, data_of(PEOPLE))


def test_new_people_get_what_is_like_theirs(checkerboard: PreparedData, tmp_path: Path) -> None:
    """Users of the training like even or odd items; a new one who took six even ones is shown even ones."""
    settings: dict[str, Any] = {"factors": 8, "layers": (16, 16, 16, 8), "batch_size": 256, "learning_rate": 0.01}
    data = checkerboard.save(tmp_path / "data")
    model = ncf_ppt.fit(data, out=tmp_path / "run", split=0.5, epochs=20, **settings)
    model.pack(tmp_path / "packed")
    pairs = [(f"new {user}", user % 2 + 2 * ((7 * place + user) % 25)) for user in range(8) for place in range(6)]
    packed = ncf_ppt.load(tmp_path / "packed", data=tmp_path / "data")
    for found in (model.recommend(history=pairs, k=10), packed.recommend(history=pairs, k=10)):
        lists = found.to_dicts()
        assert [each["user_id"] for each in lists] == [f"new {user}" for user in range(8)]
        likes = [item % 2 == user % 2 for user, each in enumerate(lists) for item in each["item_ids"]]
        assert np.mean(likes) > 0.9
        assert not set(lists[0]["item_ids"]) & {item for user, item in pairs if user == "new 0"}
    alone = model.recommend(["new 3"], history=pairs[18:24], k=10)
    assert alone.to_dicts()[0]["item_ids"] == model.recommend(history=pairs, k=10).to_dicts()[3]["item_ids"]
