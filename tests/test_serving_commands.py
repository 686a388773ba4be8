"""Recommending among some items, scores of pairs, items alike, titles: run folders, packed files and the commands."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ncf_ppt
from cli import main
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.pair_scores import score_pairs
from ncf_ppt.similar_items import item_vectors, similar_items
from ncf_ppt.two_tower import TwoTower, TwoTowerConfig
from ppt_core.errors import DataError
from tests.command_line import CommandLine

SMALL: dict[str, Any] = {"factors": 4, "layers": (8, 8, 8, 4), "epochs": 1, "batch_size": 512}
PROGRAM = CommandLine(main)
call, succeed, fail = PROGRAM.call, PROGRAM.succeed, PROGRAM.fail


@pytest.fixture(scope="module")
def folder(tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared ``data``, a finished ``run``, and ``packed``, made of it."""
    folder = tmp_path_factory.mktemp("serving")
    model = ncf_ppt.fit(tiny_data.save(folder / "data"), out=folder / "run", split=0.5, **SMALL)
    model.pack(folder / "packed")
    return folder


def models(folder: Path) -> list[ncf_ppt.TrainedNCF]:
    return [ncf_ppt.load(folder / "run"), ncf_ppt.load(folder / "packed", data=folder / "data")]


def test_only_among_what_is_in_stock(folder: Path, tmp_path: Path) -> None:
    for model in models(folder):
        stock = model.data.item_ids[:40]
        found = model.recommend([1, 2], k=40, items=stock, exclude=stock[:5])
        everything = model.recommend([1, 2], k=150)
        for some, whole in zip(found.to_dicts(), everything.to_dicts(), strict=True):
            assert some["item_ids"] == [item for item in whole["item_ids"] if item in set(stock[5:].tolist())]
        assert len(model.recommend([1], k=150, include_seen=True).item_ids) == 150
        by_file = model.recommend([1], k=3, include_seen=True)
        by_file.save(tmp_path / f"{model.is_packed}.parquet")
        again = model.recommend([1], k=150, items=tmp_path / f"{model.is_packed}.parquet", include_seen=True)
        assert again.to_dicts() == by_file.to_dicts()


def test_candidates_are_found_among_the_items_that_are_asked_for(folder: Path) -> None:
    model = ncf_ppt.load(folder / "run")
    model.export_embeddings(folder / "vectors")
    stock = model.data.item_ids[100:110]
    found = model.recommend(k=10, items=stock, candidates=folder / "vectors", n_candidates=10)
    assert found.to_dicts() == model.recommend(k=10, items=stock).to_dicts()
    assert set(found.item_ids.tolist()) <= set(stock.tolist())


def test_scores_of_pairs_are_those_of_the_lists(folder: Path, tmp_path: Path) -> None:
    for model in models(folder):
        lists = model.recommend([3, 1], k=150, include_seen=True)
        columns = lists.columns()
        found = model.score((columns["user_id"], columns["item_id"]))
        np.testing.assert_allclose(found.scores, lists.scores, rtol=0, atol=0 if model.is_packed else 1e-6)
        lists.save(tmp_path / f"{model.is_packed}.csv")
        assert model.score(tmp_path / f"{model.is_packed}.csv").to_dicts() == found.to_dicts()
        assert model.score(lists.to_pandas()).to_dicts() == found.to_dicts()
        few = model.score([(3, 1), (1, 2)])
        assert few.user_ids.tolist() == [3, 1]
        assert few.item_ids.tolist() == [1, 2]
        assert "2 pairs: user, item, score\n3, 1, " in repr(few)
        (tmp_path / "pairs.txt").write_text("1 2\n\n1 x\n")
        with pytest.raises(DataError, match=r"item 'x' \(.*pairs.txt, line 3\) cannot be an id"):
            model.score(tmp_path / "pairs.txt")
        (tmp_path / "pairs.txt").write_text("1 2\n999 2\n")
        with pytest.raises(DataError, match=r"user 999 is unknown \(.*pairs.txt, line 2\)"):
            model.score(str(tmp_path / "pairs.txt"))

    def diverged(users: Any, candidates: Any) -> Any:
        return np.full(candidates.shape, np.nan, np.float32)

    with pytest.raises(DataError, match="a score of user 3 is NaN; the model has diverged"):
        score_pairs(diverged, model.data, [(3, 1)])


def test_items_alike_by_hand() -> None:
    vectors = np.array([[1, 0], [3, 0.1], [0, 2], [0, 0], [-1, 0]], np.float32)
    ids = np.array(list("abcde"), object)
    found = similar_items(vectors, ids, ["a", "c"], k=3)
    assert found.similar_ids.tolist() == [["b", "c", "d"], ["b", "a", "d"]]
    np.testing.assert_allclose(found.similarities[0], [3 / np.sqrt(9.01), 0, 0], rtol=1e-6)
    everything = similar_items(vectors, ids, None, k=99)
    assert everything.similar_ids.shape == (5, 4)
    assert list(found.lines()) == ["a: b, c, d", "c: b, a, d"]
    titled = found.with_titles({"a": "Alpha", "b": "Beta, the second"})
    assert (
        next(iter(titled.lines())) == "a Alpha:\n   1. Beta, the second [b]\n   2. (no title) [c]\n   3. (no title) [d]"
    )
    assert titled.columns()["title"].tolist()[0] == "Beta, the second"
    with pytest.raises(DataError, match="item 'x' is unknown: the training data hold 5 items with ids such as"):
        similar_items(vectors, ids, ["x"])
    with pytest.raises(ValueError, match="k is 0"):
        similar_items(vectors, ids, ["a"], k=0)


def test_items_alike_of_every_network(folder: Path, tiny_data: PreparedData) -> None:
    run, packed = ncf_ppt.load(folder / "run"), ncf_ppt.load(folder / "packed")  # without data: it needs none
    assert run.similar([5], k=4).to_dicts() == packed.similar([5], k=4).to_dicts()
    vectors = item_vectors(run.network)
    scores = vectors @ vectors[4] / np.linalg.norm(vectors, axis=1)
    expected = [int(item) for item in np.argsort(-scores) if item != 4][:4]
    assert run.similar(tiny_data.item_ids[4:5], k=4).similar_ids.tolist() == [tiny_data.item_ids[expected].tolist()]
    gmf = ncf_ppt.fit(tiny_data, split=1, **SMALL | {"model": "gmf"})
    assert gmf.similar(k=2).similar_ids.shape == (150, 2)
    assert item_vectors(TwoTower(3, 9, TwoTowerConfig(factors=6, layers=()), seed=0)).shape == (9, 6)


def test_commands(folder: Path, tmp_path: Path) -> None:
    run, packed = folder / "run", [folder / "packed", "--data", folder / "data"]
    titles = tmp_path / "u.item"
    titles.write_bytes("1|Les Misérables (1998)|x\n2|Toy Story, again|y\n".encode("latin-1"))
    (tmp_path / "stock.txt").write_text("1\n2\nno\n".replace("no", "12345"))
    (tmp_path / "gone.csv").write_text("price,item_id\n3,2\n")
    for path in ([run], packed):
        chosen = ["recommend", *path, "--user", 1, "--include-seen", "--items", tmp_path / "stock.txt"]
        assert sorted(succeed(*chosen)["recommendations"][0]["item_ids"]) == [1, 2]
        assert "1 of the items named are not in the catalogue" in call(*chosen).stderr
        text = call(*chosen, "--exclude", tmp_path / "gone.csv", "--titles", titles).stdout
        assert text == "1:\n   1. Les Misérables (1998) [1]\n"
        succeed(*chosen, "--out", tmp_path / f"{len(path)}.csv", "--titles", titles)
        rows = list(csv.DictReader(io.StringIO((tmp_path / f"{len(path)}.csv").read_text())))
        assert {row["title"] for row in rows} == {"Les Misérables (1998)", "Toy Story, again"}
        scores = succeed("score", *path, "--pairs", tmp_path / f"{len(path)}.csv")["scores"]
        assert [f"{each['score']:.4f}" for each in scores] == [f"{float(row['score']):.4f}" for row in rows]
        assert call("score", *path, "--pairs", tmp_path / f"{len(path)}.csv").stdout.startswith("1, ")
        assert len(succeed("similar", *path, "--item", 1, "-k", 3)["similar"][0]["similar_ids"]) == 3
        assert "1 Les Misérables (1998):" in call("similar", *path, "--item", 1, "--titles", titles).stdout
    succeed("similar", folder / "packed", "--all", "--out", tmp_path / "similar.parquet")
    succeed("score", run, "--pairs", tmp_path / "1.csv", "--out", tmp_path / "scores.jsonl")
    assert "scores.jsonl already exists" in fail(
        "score", run, "--pairs", tmp_path / "1.csv", "--out", tmp_path / "scores.jsonl"
    )
    assert "lists.xlsx names no format" in fail("recommend", run, "--all", "--out", tmp_path / "lists.xlsx")
    assert "name the items by one of" in fail("similar", run)
    assert "item 999 is unknown: the training data hold 150 items" in fail("similar", run, "--item", 999)
    assert "is not UTF-8 text" in fail("recommend", run, "--user", 1, "--items", titles)
    titles.write_text("1|Toy Story")
    assert "u.item, line 1) cannot be an id" in fail("recommend", run, "--user", 1, "--items", titles)
    assert "Missing option '--pairs'" in call("score", run).stderr


def test_a_list_as_long_as_the_candidates_is_said(folder: Path) -> None:
    result = call("evaluate", folder / "run", "-k", 51)
    assert "HR@51" in result.stdout
    assert "k is 51 and there are 51 candidates: every user is a hit, so HR@51 says nothing" in result.stderr
    assert call("evaluate", folder / "run", "-k", 50).stderr == ""
    assert "150 candidates" in call("evaluate", folder / "run", "-k", 150, "--ranking", "full").stderr
    found = ncf_ppt.load(folder / "run").evaluate(k=60)
    assert found.remark is not None
    assert found.to_dict()["remark"] == found.remark
    assert found.remark in repr(found)
