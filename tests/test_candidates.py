"""Exported vectors searched: what makes an inner product, what only finds candidates, and reranking."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.ratings.interactions import Interactions, PreparedData
from data_prep.ratings.prepare import prepare
from data_prep.ratings.synthetic import synthesize
from ncf_ppt.candidates import Reranker, VectorSearch, compare_search, open_vectors, verify_export
from ncf_ppt.export import vector_files
from ncf_ppt.export.embeddings import export_embeddings
from ncf_ppt.export.vector_files import FORMATS
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.recommendation import recommend
from ncf_ppt.scoring import scorer
from ppt_core.errors import DataError
from ppt_core.runs.files import read_json, write_json


def network(data: PreparedData, model: Any) -> NCF:
    found = NCF(data.n_users, data.n_items, NCFConfig(model=model, factors=12, layers=(16, 16, 8)), seed=0).eval()
    with torch.no_grad():
        for table in found.tables():
            table.weight.mul_(50)
    return found


def vectors_in(folder: Path, name: str) -> Any:
    manifest = read_json(folder / "manifest.json", format_version=1)
    return vector_files.read_table(folder, name, manifest["format"], manifest["tables"][name]["dimension"])


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary"])
def test_every_format_holds_the_same(tmp_path: Path, tiny_data: PreparedData, dtype: Any) -> None:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed: no index to test")
    from dataclasses import replace

    model = network(tiny_data, "neumf")
    names = np.array([f"ítem {number}" for number in range(tiny_data.n_items)], object)
    data = replace(tiny_data, item_ids=names)
    for format in FORMATS:
        if (format, dtype) == ("faiss", "int8"):
            with pytest.raises(ValueError, match="faiss has no index of int8"):
                export_embeddings(model, data, tmp_path / format, format=format, dtype=dtype)  # type: ignore[arg-type]
            continue
        export_embeddings(model, data, tmp_path / format, format=format, dtype=dtype)  # type: ignore[arg-type]
        for name, expected_ids in (("gmf_users", data.user_ids), ("mlp_items", data.item_ids)):
            ids, vectors = vectors_in(tmp_path / format, name)
            assert ids.tolist() == expected_ids.tolist()
            expected = vectors_in(tmp_path / "parquet", name)[1]
            if (format, dtype) == ("faiss", "binary"):  # whose index has no place for scales
                expected = np.sign(expected)
            np.testing.assert_array_equal(vectors, expected)


def test_safetensors_in_batches_are_read_by_its_own_library(
    tmp_path: Path, tiny_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import load_file

    model = network(tiny_data, "gmf")
    export_embeddings(model, tiny_data, tmp_path / "whole", format="safetensors", dtype="int8")
    monkeypatch.setattr("ncf_ppt.export.embeddings._BATCH_BYTES", 4 * 12 * 7)
    export_embeddings(model, tiny_data, tmp_path / "parts", format="safetensors", dtype="int8")
    name = "gmf_items.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    tensors = load_file(tmp_path / "parts" / name)
    assert tensors["ids"].tolist() == tiny_data.item_ids.tolist()
    found = tensors["vectors"] * tensors["scales"][:, None]
    np.testing.assert_allclose(found, model.gmf_item.weight.detach(), atol=tensors["scales"].max())


@pytest.mark.parametrize("format", FORMATS)
def test_the_inner_product_of_gmf_ranks_as_the_network(tmp_path: Path, tiny_data: PreparedData, format: Any) -> None:
    if format == "faiss":
        pytest.importorskip("faiss", reason="faiss-cpu is not installed: no index to test")
    model = network(tiny_data, "gmf")
    export_embeddings(model, tiny_data, tmp_path / "out", format=format)
    (report,) = verify_export(tmp_path / "out", model, tiny_data).values()
    assert report.n_equal == report.n_users == 120
    search = open_vectors(tmp_path / "out", tiny_data)
    expected, found = recommend(scorer(model), tiny_data), recommend(search, tiny_data)
    assert found.item_ids.tolist() == expected.item_ids.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_faiss_itself_finds_them(tmp_path: Path, tiny_data: PreparedData) -> None:
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed: no index to test")
    model = network(tiny_data, "gmf")
    export_embeddings(model, tiny_data, tmp_path / "out", format="faiss")
    queries = vectors_in(tmp_path / "out", "gmf_users")[1]
    _, ids = faiss.read_index(str(tmp_path / "out" / "gmf_items.faiss")).search(queries, 10)
    scores = scorer(model)(np.arange(120), np.tile(np.arange(150, dtype=np.int32), (120, 1)))
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    assert ids.tolist() == tiny_data.item_ids[expected].tolist()


def test_without_faiss_there_is_one_line(
    tmp_path: Path, tiny_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(DataError, match=r"needs the package faiss-cpu; `pip install 'ppt-ncf\[faiss\]'` brings it$"):
        export_embeddings(network(tiny_data, "gmf"), tiny_data, tmp_path / "out", format="faiss")
    assert list(tmp_path.iterdir()) == []


def test_verification_sees_vectors_of_another_network(tmp_path: Path, tiny_data: PreparedData) -> None:
    model = network(tiny_data, "gmf")
    export_embeddings(model, tiny_data, tmp_path / "out")
    with torch.no_grad():
        model.gmf_item.weight[3] += 3
    with pytest.raises(DataError, match=r"the top 10 of \d+ of 120 users differs from the network's"):
        verify_export(tmp_path / "out", model, tiny_data)


def test_recall_is_counted_by_hand(tiny_data: PreparedData) -> None:
    """A search in the reverse order finds nothing, one among everything finds all."""
    vectors = np.random.default_rng(0).normal(size=(tiny_data.n_items, 4)).astype(np.float32)
    users = np.random.default_rng(1).normal(size=(tiny_data.n_users, 4)).astype(np.float32)
    right = VectorSearch(user_vectors=users, item_vectors=vectors, bias=0)
    wrong = VectorSearch(user_vectors=-users, item_vectors=vectors, bias=0)
    n_unseen = tiny_data.n_items - tiny_data.train.degrees.max()
    report = compare_search(wrong, right, tiny_data, n_candidates=n_unseen // 2)
    assert (report.recall_of_top_k, report.recall_of_candidates, report.n_equal) == (0, 0, 0)
    report = compare_search(wrong, right, tiny_data, n_candidates=tiny_data.n_items)
    assert (report.recall_of_top_k, report.recall_of_candidates) == (0, 1)
    report = compare_search(right, right, tiny_data, n_users=7)
    assert (report.recall_of_top_k, report.n_equal, report.n_users) == (1, 7, 7)


@pytest.mark.parametrize("model", ["gmf", "mlp", "neumf"])
def test_reranked_candidates_have_the_networks_scores(tmp_path: Path, tiny_data: PreparedData, model: Any) -> None:
    trained = network(tiny_data, model)
    export_embeddings(trained, tiny_data, tmp_path / "out")
    search, score = open_vectors(tmp_path / "out", tiny_data), scorer(trained)
    exact = recommend(score, tiny_data, k=5)
    everything = Reranker(search=search, score=score, seen=tiny_data.known(), n_candidates=tiny_data.n_items)
    all_scored = recommend(everything, tiny_data, k=5)
    assert all_scored.item_ids.tolist() == exact.item_ids.tolist()
    few = recommend(Reranker(search=search, score=score, seen=tiny_data.known(), n_candidates=9), tiny_data, k=5)
    assert np.isfinite(few.scores).all()
    assert len(few.item_ids) == 5 * tiny_data.n_users
    one = recommend(Reranker(search=search, score=score, seen=tiny_data.known(), n_candidates=9), tiny_data, [3], k=5)
    (number,) = np.flatnonzero(tiny_data.user_ids == 3)
    assert one.item_ids.tolist() == few.item_ids[5 * number : 5 * number + 5].tolist()
    if model == "gmf":
        assert few.item_ids.tolist() == exact.item_ids.tolist()


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_no_list_holds_what_nobody_scored(exclude_seen: bool) -> None:
    """With a validation set, with lists that are longer than the candidates, with seen items and without."""
    data = prepare(synthesize(60, 50, 900, seed=3), n_negatives=4, validation=True, min_ratings=3, source={})
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(n, 4)).astype(np.float32) for n in (data.n_users, data.n_items)]
    search = VectorSearch(user_vectors=vectors[0], item_vectors=vectors[1], bias=0)
    known = data.known()
    seen = known if exclude_seen else Interactions.none(n_users=data.n_users, n_items=data.n_items)
    found = recommend(
        Reranker(search=search, score=search, seen=seen, n_candidates=8), data, k=12, include_seen=not exclude_seen
    )
    assert np.isfinite(found.scores).all()
    exact = recommend(search, data, k=8, include_seen=not exclude_seen)
    assert found.item_ids.tolist() == exact.item_ids.tolist()  # the search is the network: its candidates are the best
    np.testing.assert_array_equal(found.offsets, exact.offsets)
    lists = [set(found.item_ids[start:stop].tolist()) for start, stop in pairwise(found.offsets)]
    overlap = [len(items & set(data.item_ids[known.items_of(user)].tolist())) for user, items in enumerate(lists)]
    assert (sum(overlap) == 0) == exclude_seen


def test_a_search_is_compared_without_the_validation_item() -> None:
    data = prepare(synthesize(60, 50, 900, seed=3), n_negatives=4, validation=True, min_ratings=3, source={})
    assert data.validation_items is not None
    vectors = np.zeros((data.n_users, data.n_items), np.float32)
    vectors[np.arange(data.n_users), data.validation_items] = 1  # each user likes it best
    search = VectorSearch(user_vectors=vectors, item_vectors=np.eye(data.n_items, dtype=np.float32), bias=0)
    other = VectorSearch(user_vectors=-vectors, item_vectors=np.eye(data.n_items, dtype=np.float32), bias=0)
    report = compare_search(other, search, data, k=1, n_candidates=1)
    assert (report.recall_of_top_k, report.n_equal) == (1, data.n_users)  # all else is equal to both


def test_other_folders_are_refused(tmp_path: Path, tiny_data: PreparedData) -> None:
    from dataclasses import replace

    export_embeddings(network(tiny_data, "gmf"), tiny_data, tmp_path / "out")
    with pytest.raises(DataError, match="has other items than the data"):
        open_vectors(tmp_path / "out", replace(tiny_data, item_ids=tiny_data.item_ids[::-1]))
    with pytest.raises(ValueError, match="a gmf network cannot be searched by similarity"):
        open_vectors(tmp_path / "out", tiny_data, by="similarity")
    with pytest.raises(DataError, match=r"holds no manifest\.json"):
        open_vectors(tmp_path, tiny_data)
    write_json(tmp_path / "manifest.json", {"format_version": 1, "kind": "other"})
    with pytest.raises(DataError, match="holds no exported embeddings"):
        open_vectors(tmp_path, tiny_data)
    with (tmp_path / "out" / "gmf_items.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="was changed after it was written"):
        open_vectors(tmp_path / "out", tiny_data)
