from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.baselines import MatrixFactorization
from ncf_ppt.codes import top_codes
from ncf_ppt.fitting import fit
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.packed.file import load_packed, save_packed
from ncf_ppt.packed.gmf import PackedGMF
from ncf_ppt.packed.network import PackedNCF
from ncf_ppt.packed.packing import pack
from ncf_ppt.packed.table import PackedTable
from ncf_ppt.packed.verification import verify, verify_on_test_items
from ncf_ppt.recommendation import top_items
from ncf_ppt.similar_items import item_vectors
from ncf_ppt.trained import TrainedNCF, load
from ppt_core.errors import DataError
from ppt_core.layers import set_precision
from ppt_core.plan import convert


@pytest.fixture(scope="module", params=["all", "items"])
def trained(request: pytest.FixtureRequest, tiny_data: PreparedData, tmp_path_factory: Any) -> TrainedNCF:
    folder = tmp_path_factory.mktemp("gmf")
    settings: dict[str, Any] = {"model": "gmf", "factors": 70, "binarize_embeddings": request.param}
    data = tiny_data.save(folder / "data")
    return fit(data, out=folder / "run", epochs=2, batch_size=256, learning_rate=0.01, progress=False, **settings)


def packed_of(trained: TrainedNCF) -> PackedGMF:
    data = trained.data
    found: Any = pack(trained.network, user_ids=data.user_ids, item_ids=data.item_ids, protocol=data.protocol_label)
    assert isinstance(found, PackedGMF)
    return found


def test_scores_are_the_networks(trained: TrainedNCF, one_and_two_threads: Iterable[int]) -> None:
    packed, network, data = packed_of(trained), trained.network, trained.data
    report = verify_on_test_items(packed, network, data)
    rows = data.n_items + (data.n_users if packed.embeddings == "binary" else 0)
    assert report.compared_bits == rows * 72  # 70 components in 9 bytes
    assert report.max_logit_difference < 1e-4
    users = np.arange(data.n_users)
    pairs = np.meshgrid(users, np.arange(data.n_items), indexing="ij")
    with torch.no_grad():
        logits = network(*(torch.from_numpy(each.reshape(-1)) for each in pairs)).numpy()
    found = {packed.score_catalogue(users).tobytes() for _ in one_and_two_threads}
    assert len(found) == 1
    np.testing.assert_allclose(packed.score_catalogue(users).reshape(-1), logits, atol=1e-4)


def test_the_search_finds_what_scores_say(trained: TrainedNCF) -> None:
    packed, data = packed_of(trained), trained.data
    users, seen = np.arange(data.n_users), data.known()
    if packed.embeddings != "binary":
        with pytest.raises(ValueError, match="users are not 1-bit, so there are no bits to search by"):
            packed.find(users, 10, seen)
        return
    expected, scores, lengths = top_items(packed.score_catalogue(users), 10, seen, users)
    items, found_lengths = packed.find(users, 10, seen)
    assert items.tobytes() == expected.tobytes()
    assert found_lengths.tobytes() == lengths.tobytes()
    search: Any = packed.scores
    assert (
        top_codes(search.users, search.items, users, 10, bias=packed.bias, seen=seen)[1].tobytes() == scores.tobytes()
    )


def test_a_file_holds_all_of_it(trained: TrainedNCF, tmp_path: Path) -> None:
    report = trained.pack(tmp_path / "file")
    n_users, n_items = trained.data.n_users, trained.data.n_items
    user_bytes = 9 + 2 if report.embeddings == "binary" else 4 * 70
    assert report.embedding_bytes == n_users * user_bytes + n_items * (9 + 2)
    opened = load(tmp_path / "file", data=trained.data)
    first = trained.data.user_ids[:2]
    own, again = trained.recommend(first, k=5, engine="packed"), opened.recommend(first, k=5)
    assert own.to_dicts() == again.to_dicts()
    assert opened.evaluate(ranking="full").to_dict() == trained.evaluate(ranking="full", engine="packed").to_dict()
    layers = opened.inspect().layers
    assert [layer.bits for layer in layers] == [1 if report.embeddings == "binary" else 32, 1, 32]
    assert [layer.packed_bytes for layer in layers] == [layer.packed_bytes for layer in trained.inspect().layers]
    with pytest.raises(ValueError, match=r"embeddings is 'int8', but this network's are 1-bit"):
        trained.pack(tmp_path / "other", embeddings="int8")


def test_items_alike_are_those_of_the_run(trained: TrainedNCF) -> None:
    np.testing.assert_array_equal(item_vectors(packed_of(trained)), item_vectors(trained.network))


def test_parts_that_do_not_fit_are_refused(trained: TrainedNCF, tmp_path: Path) -> None:
    packed = packed_of(trained)
    assert packed.item_factors.scales is not None
    for number, (change, message) in enumerate(
        (
            ({"weights": packed.weights[1:]}, "weights"),
            ({"item_ids": packed.item_ids[1:]}, "ids are damaged"),
            ({"item_factors": PackedTable.empty(packed.n_items)}, "weights"),
        )
    ):
        save_packed(replace(packed, **change), tmp_path / str(number))  # type: ignore[arg-type]
        with pytest.raises(DataError, match=rf"damaged packed network \(.*{message}"):
            load_packed(tmp_path / str(number))


def test_verification_sees_a_changed_bit(trained: TrainedNCF) -> None:
    packed = packed_of(trained)
    packed.item_factors.values[3, 0] ^= 1
    candidates = np.arange(6, dtype=np.int32).reshape(2, 3)
    with pytest.raises(DataError, match="table gmf_item differs from the network's"):
        verify(packed, trained.network, np.arange(2), candidates)


def test_what_has_no_bits_is_refused() -> None:
    ids: dict[str, Any] = {"user_ids": np.arange(3), "item_ids": np.arange(4), "protocol": ""}
    with pytest.raises(DataError, match="this gmf network holds nothing of 1 bit"):
        pack(NCF(3, 4, NCFConfig(model="gmf"), seed=0), **ids)
    older = NCF(3, 4, NCFConfig(model="gmf", binarize_embeddings="all"), seed=0)
    convert(older)
    set_precision(older, "low")
    with pytest.raises(DataError, match="the weights behind the bits of this gmf network differ in size"):
        pack(older, **ids)


def test_a_neumf_whose_items_alone_are_1_bit(tiny_data: PreparedData, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"factors": 12, "layers": (16, 16, 8, 8), "binarize_embeddings": "items"}
    trained = fit(tiny_data, epochs=0.5, batch_size=256, progress=False, **settings)
    report = trained.pack(tmp_path / "file")
    assert report.embeddings == "binary items"
    n_users, n_items = tiny_data.n_users, tiny_data.n_items
    assert report.embedding_bytes == n_users * 4 * (12 + 8) + n_items * (2 + 2 + 1 + 2)
    opened = load_packed(tmp_path / "file")
    assert isinstance(opened, PackedNCF)
    users = np.arange(4)
    own: Any = trained.scorer("packed")
    assert opened.score_catalogue(users).tobytes() == own.score_catalogue(users).tobytes()
    assert [layer.bits for layer in trained.inspect().layers][:4] == [32, 1, 32, 1]


def test_other_users_share_the_items_that_were_decoded(trained: TrainedNCF) -> None:
    packed = packed_of(trained)
    rows = np.random.default_rng(0).normal(size=(3, 70)).astype(np.float32)
    table = PackedTable(values=rows, scales=None, size=70)
    first, second = (packed.with_users(table, np.arange(3)) for _ in range(2))
    slow = replace(packed, user_factors=table, embeddings="float32", user_ids=np.arange(3))
    assert first.score_catalogue(np.arange(3)).tobytes() == slow.score_catalogue(np.arange(3)).tobytes()
    assert isinstance(first.scores, MatrixFactorization)
    assert isinstance(second.scores, MatrixFactorization)
    assert first.scores.item_vectors is second.scores.item_vectors
    expected = rows * packed.weights @ packed.item_factors[:].T + packed.bias
    np.testing.assert_allclose(first.score_catalogue(np.arange(3)), expected, atol=1e-4)
