"""Candidates that a network's own vectors find: how many, what they hold, and what becomes of the rest."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.ratings.interactions import Interactions, PreparedData
from ncf_ppt.candidates import Reranker, VectorSearch
from ncf_ppt.catalogue import rank_catalogue
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.packed.network import PackedNCF
from ncf_ppt.packed.packing import pack
from ncf_ppt.recommendation import AllowedItems, recommend, top_items
from ncf_ppt.scoring import scorer
from ncf_ppt.searches import searches_of
from ncf_ppt.two_stages import in_two_stages
from ncf_ppt.two_tower import TwoTower, TwoTowerConfig
from ppt_core.errors import DataError
from ppt_core.layers import BinaryActivation, set_precision
from ppt_core.plan import convert
from tests.test_packed_commands import call, fail, succeed

TINY = ["--factors", "8", "--layers", "16,16,16,8", "--epochs", "1", "--batch-size", "512"]


def network(data: PreparedData, *, mlp: float = 0.05, n_recent: int = 0) -> NCF:
    """A network in low precision whose MLP says so much beside the product of its vectors."""
    torch.manual_seed(0)
    config = NCFConfig(factors=8, layers=(16, 16, 16, 8), n_recent=n_recent)
    model = NCF(data.n_users, data.n_items, config, seed=0)
    convert(model)
    set_precision(model, "low")
    with torch.no_grad():
        for table in model.tables():
            table.weight.copy_(torch.randn(table.weight.shape))
        for module in model.modules():
            if isinstance(module, BinaryActivation):
                module.alpha.fill_(0.5)
        for _ in range(10):
            model.train()(torch.randint(data.n_users, (64,)), torch.randint(data.n_items, (64,)))
        model.last.weight.copy_(torch.cat([torch.ones(1, 8), mlp * torch.randn(1, 8)], dim=1))
    return model.eval()


def packed_network(data: PreparedData, **settings: Any) -> PackedNCF:
    packed = pack(network(data, **settings), user_ids=data.user_ids, item_ids=data.item_ids, protocol="")
    assert isinstance(packed, PackedNCF)
    return packed


@dataclass(frozen=True)
class AllRows:
    """A reranker seen as what scores whole rows only."""

    reranker: Reranker

    def __call__(self, users: Any, candidates: Any) -> Any:
        return self.reranker(users, candidates)

    def score_catalogue(self, users: Any) -> Any:
        return self.reranker.score_catalogue(users)


def test_recall_is_that_of_a_slow_count(tiny_data: PreparedData) -> None:
    model = network(tiny_data)
    score, known = scorer(model), tiny_data.known()
    reranker, found = in_two_stages(model, score, tiny_data, seen=known, k=5)
    assert isinstance(reranker, Reranker)
    assert (found.by, found.k, found.n_items, found.n_users) == ("product", 5, 150, 60)
    users = np.unique(np.linspace(0, 119, 120).astype(np.int64))
    catalogue = np.arange(150, dtype=np.int32)[np.newaxis]
    hits = {True: [0, 0], False: [0, 0]}
    for place, user in enumerate(users):
        seen = known.items_of(user)
        exact, product = score(np.array([user]), catalogue)[0], (model.gmf_user.weight[user] @ model.gmf_item.weight.T)
        orders = [np.argsort(-values, kind="stable") for values in (exact, product.detach().numpy())]
        best, candidates = ([item for item in order if item not in seen] for order in orders)
        count = hits[place % 2 == 1]  # every second user measures, the others choose
        count[0] += len(set(best[:5]) & set(candidates[: found.n_candidates]))
        count[1] += len(best[:5])
    assert found.recall == hits[True][0] / hits[True][1]
    assert hits[False][0] / hits[False][1] >= 0.99
    assert found.n_candidates % 16 == 0


def test_recall_counts_what_is_in_lists_alone(tiny_data: PreparedData) -> None:
    model = network(tiny_data)
    few = AllowedItems(is_left_out=np.arange(150) >= 3)  # lists of 5 hold 3 at most
    _, found = in_two_stages(model, scorer(model), tiny_data, seen=tiny_data.known(), allowed=few, k=5, n_candidates=16)
    assert found.recall == 1


@pytest.mark.parametrize("engine", ["torch", "packed"])
@pytest.mark.parametrize("n_recent", [0, 3])
def test_lists_are_exact_where_candidates_hold_them(tiny_data: PreparedData, engine: str, n_recent: int) -> None:
    model: Any = network(tiny_data, n_recent=n_recent)
    if n_recent:
        model.last_items.copy_(torch.randint(-1, 150, model.last_items.shape))
    score: Any = scorer(model)
    if engine == "packed":
        model = score = pack(model, user_ids=tiny_data.user_ids, item_ids=tiny_data.item_ids, protocol="")
    exact = recommend(score, tiny_data, k=5)
    reranker, found = in_two_stages(model, score, tiny_data, seen=tiny_data.known(), k=5, n_candidates=60)
    assert isinstance(reranker, Reranker)
    lists = recommend(reranker, tiny_data, k=5)
    same = sum(a["item_ids"] == b["item_ids"] for a, b in zip(lists.to_dicts(), exact.to_dicts(), strict=True))
    assert found.n_candidates == 60
    assert same >= 0.9 * found.recall * tiny_data.n_users
    by_rows = recommend(AllRows(reranker), tiny_data, k=5)
    assert by_rows.to_dicts() == lists.to_dicts()
    one = recommend(reranker, tiny_data, tiny_data.user_ids[7:8], k=5)
    assert one.to_dicts() == lists.to_dicts()[7:8]


def test_all_items_are_scored_where_vectors_find_too_little(tiny_data: PreparedData) -> None:
    packed = packed_network(tiny_data)
    score, found = in_two_stages(packed, packed, tiny_data, seen=tiny_data.known())
    assert score is packed
    assert (found.by, found.n_candidates, found.recall) == (None, 150, 1.0)
    assert str(found).startswith("candidates: all 150 items are scored, since a search by product of vectors needs ")
    assert str(found).endswith(" of them for 99% of the exact top 10, which costs as much")
    towers = TwoTower(120, 150, TwoTowerConfig(factors=6, layers=(), n_recent=3), seed=0)
    score = scorer(towers)
    same, found = in_two_stages(towers, score, tiny_data, seen=tiny_data.known())
    assert same is score
    assert "the network's scores are themselves products of vectors" in str(found)
    gmf = NCF(120, 150, NCFConfig(model="gmf", factors=6), seed=0)
    assert searches_of(gmf, tiny_data) == {}


def test_of_an_mlp_items_alike_are_searched(tiny_data: PreparedData) -> None:
    model = NCF(120, 150, NCFConfig(model="mlp", layers=(16, 8)), seed=0)
    assert list(searches_of(model, tiny_data)) == ["similarity"]
    _, found = in_two_stages(model, scorer(model), tiny_data, seen=tiny_data.known(), n_candidates=20)
    assert (found.by, found.n_candidates) == ("similarity", 20)


def test_codes_search_for_a_packed_network(tiny_data: PreparedData) -> None:
    packed = packed_network(tiny_data, mlp=0.01)
    searches = searches_of(packed, tiny_data)
    assert list(searches) == ["product", "codes", "similarity"]
    users, known = np.arange(0, 120, 7), tiny_data.known()
    scores = searches["codes"].score_catalogue(users)
    expected, _, lengths = top_items(scores, 20, known, users)
    assert (lengths == 20).all()
    np.testing.assert_array_equal(searches["codes"].find(users, 20, known, AllowedItems())[0], expected)
    odd = AllowedItems(is_left_out=np.arange(150) % 2 == 0)
    found, _ = searches["codes"].find(users, 10, known, odd)
    assert (found % 2 == 1).all()
    product = searches["product"].find(users, 20, known, AllowedItems())[0]
    shared = np.mean([len(np.intersect1d(*rows)) for rows in zip(product, expected, strict=True)])
    assert shared > 10  # a third of the items seen apart, chance is 3


def search_of(data: PreparedData) -> VectorSearch:
    rng = np.random.default_rng(0)
    users, items = (rng.normal(size=(n, 4)).astype(np.float32) for n in (data.n_users, data.n_items))
    return VectorSearch(user_vectors=users, item_vectors=items, bias=0)


def test_short_lists_and_equal_scores(tiny_data: PreparedData) -> None:
    """A user who has seen nearly everything gets what is left, equal scores in the order of item numbers."""
    n = tiny_data.n_items
    seen = Interactions.from_pairs(np.zeros(n - 3, np.int32), np.arange(3, n, dtype=np.int32), n_users=2, n_items=n)
    reranker = Reranker(
        search=search_of(tiny_data), score=lambda users, items: np.zeros(items.shape, np.float32), seen=seen,
        n_candidates=8,
    )  # fmt: skip
    items, scores, lengths, is_nan = reranker.top(np.array([0, 1]), 5)
    assert lengths.tolist() == [3, 5]
    assert items[0, :3].tolist() == [0, 1, 2]
    assert items[1].tolist() == sorted(items[1].tolist())
    assert not scores[0, :3].any()
    assert not is_nan.any()


def test_nan_is_an_error_and_names_the_user(tiny_data: PreparedData) -> None:
    def score(users: Any, items: Any) -> Any:
        return np.where(users[:, np.newaxis] == 3, np.nan, np.ones(items.shape)).astype(np.float32)

    reranker = Reranker(search=search_of(tiny_data), score=score, seen=tiny_data.known(), n_candidates=9)
    with pytest.raises(DataError, match=rf"the scores of user {tiny_data.user_ids[3]} hold NaN"):
        recommend(reranker, tiny_data)
    recommend(reranker, tiny_data, tiny_data.user_ids[:3])


def test_what_is_no_candidate_ranks_last(tiny_data: PreparedData) -> None:
    search = search_of(tiny_data)
    known = tiny_data.known()
    exact = rank_catalogue(search, tiny_data)
    found = rank_catalogue(Reranker(search=search, score=search, seen=known, n_candidates=20), tiny_data)
    is_found = exact.pessimistic < 20
    assert 0 < is_found.sum() < tiny_data.n_users
    np.testing.assert_array_equal(found.pessimistic[is_found], exact.pessimistic[is_found])
    np.testing.assert_array_equal(found.above[~is_found], (149 - known.degrees)[~is_found])
    assert not found.equal.any()
    assert found.hit_ratio(10) == exact.hit_ratio(10)


@pytest.fixture(scope="module")
def folder(tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set ``data``, a run ``run`` that started from ALS, and the file ``packed``."""
    folder = tmp_path_factory.mktemp("two-stages")
    tiny_data.save(folder / "data")
    succeed("train", "--data", folder / "data", "--out", folder / "run", *TINY, "--split", 0, "--warm-start", "als")
    succeed("pack", folder / "run", "--out", folder / "packed")
    return folder


def test_the_commands_say_what_was_found(folder: Path) -> None:
    auto = ["--candidates", "auto", "--rerank", 40]
    data = ["--data", folder / "data"]
    for path, more in ((folder / "run", []), (folder / "packed", data)):
        document = succeed("recommend", path, *more, "--all", "-k", 5, *auto)
        found = document["candidates"]
        assert (found["n_candidates"], found["n_items"], found["k"], found["n_users"]) == (40, 150, 5, 60)
        assert found["recall"] > 0.5
        assert len(document["recommendations"]) == 120
        document = succeed("evaluate", path, *more, "--ranking", "full", *auto)
        assert document["candidates"]["n_candidates"] == 40
        exact = succeed("evaluate", path, *more, "--ranking", "full")
        assert document["hit_ratio"] <= exact["hit_ratio"] + 0.05
        result = call("recommend", path, *more, "--user", 1, "-k", 5, *auto)
        assert result.stderr.startswith("candidates: 40 of 150 items, by ")
        assert result.stdout.startswith("1: ")
    chosen = succeed("recommend", folder / "run", "--user", 1, "--candidates", "auto", "--recall", 0.8)["candidates"]
    assert chosen["n_candidates"] % 16 == 0 or chosen["reason"]


def test_among_given_items_the_share_is_theirs(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "items.txt").write_text("".join(f"{item}\n" for item in range(1, 61)))
    among = ["--items", tmp_path / "items.txt", "-k", 5]
    found = succeed("recommend", folder / "run", "--all", *among, "--candidates", "auto", "--rerank", 60)
    exact = succeed("recommend", folder / "run", "--all", *among)
    assert found["candidates"]["recall"] == 1
    assert found["recommendations"] == exact["recommendations"]


def test_long_lists_have_as_many_candidates(folder: Path, tmp_path: Path) -> None:
    succeed("export-embeddings", folder / "run", "--out", tmp_path / "vectors")
    asked = ["recommend", folder / "run", "--user", 1, "-k", 110]
    found, exact = succeed(*asked, "--candidates", tmp_path / "vectors"), succeed(*asked)
    assert len(found["recommendations"][0]["item_ids"]) == len(exact["recommendations"][0]["item_ids"]) > 100


def test_arguments_that_do_not_fit(folder: Path) -> None:
    run = folder / "run"
    assert "--recall is 1.5; it must be above 0" in fail(
        "recommend", run, "--all", "--candidates", "auto", "--recall", 1.5, code=2
    )
    assert "--candidates is for ranking full" in fail("evaluate", run, "--candidates", "auto", code=2)
    assert "--recall is 0.9 without --candidates" in fail("recommend", run, "--all", "--recall", 0.9, code=2)
    assert "--recall is 0.9, which is for --candidates auto" in fail(
        "recommend", run, "--all", "--candidates", folder / "vectors", "--recall", 0.9, code=2
    )
    assert "--rerank is 3; it must be at least" in fail(
        "recommend", run, "--all", "--candidates", "auto", "--rerank", 3, code=2
    )
