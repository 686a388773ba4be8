"""What a packed network stores: tables in three encodings, compressed ids, files whose parts do not fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.packed.file import load_packed, save_packed
from ncf_ppt.packed.ids import ids_from_tensors, ids_to_tensors
from ncf_ppt.packed.network import PackedNCF
from ncf_ppt.packed.packing import pack
from ncf_ppt.packed.table import PackedTable
from ncf_ppt.packed.verification import verify, verify_on_test_items
from ncf_ppt.ranking import rank_test_items
from ncf_ppt.scoring import scorer
from ncf_ppt.training import fit_steps, load_model
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core.errors import DataError
from ppt_core.layers import set_precision
from ppt_core.plan import convert
from ppt_core.runs.checkpoint import load_tensors, save_tensors
from ppt_core.runs.run import Run
from tests import reference

N_USERS, N_ITEMS = 40, 60


def network(*, binary: bool = False, model: Any = "neumf") -> NCF:
    found = NCF(N_USERS, N_ITEMS, NCFConfig(model=model, factors=9, layers=(20, 32, 16, 8), binarize_embeddings=binary),
                seed=0)  # fmt: skip
    convert(found)
    set_precision(found, "low")
    with torch.no_grad():
        for table in found.tables():
            table.weight.mul_(50)
        for _ in range(10):
            found.train()(torch.randint(N_USERS, (64,)), torch.randint(N_ITEMS, (64,)))
    return found.eval()


def packed_network(model: NCF, **options: Any) -> PackedNCF:
    ids: dict[str, Any] = {"user_ids": np.arange(N_USERS), "item_ids": np.arange(N_ITEMS)}
    packed = pack(model, protocol="none", **ids, **options)
    assert isinstance(packed, PackedNCF)
    return packed


@pytest.mark.parametrize("model", ["neumf", "mlp"])
def test_1_bit_embeddings_lose_nothing(tmp_path: Path, model: Any) -> None:
    trained = network(binary=True, model=model)
    save_packed(packed_network(trained), tmp_path / "file")
    packed = load_packed(tmp_path / "file")
    assert packed.embeddings == "binary"
    for name, table in packed.tables.items():
        assert table.values.dtype == np.uint8
        np.testing.assert_array_equal(table[:], trained.get_submodule(name).values())  # type: ignore[operator]
        np.testing.assert_array_equal(table[np.array([3, 1])], table[:][[3, 1]])
        assert table.nbytes == len(table) * (-(-table.size // 8) + 2)
    candidates = np.tile(np.arange(N_ITEMS, dtype=np.int32), (N_USERS, 1))
    found = verify(packed, trained, np.arange(N_USERS), candidates)
    assert found.first_layer_differences <= 1
    np.testing.assert_allclose(packed(np.arange(N_USERS), candidates), scorer(trained)(np.arange(N_USERS), candidates),
                               atol=1e-4)  # fmt: skip


def test_int8_embeddings_are_rounded_by_half_a_step(tmp_path: Path) -> None:
    trained = network()
    packed = packed_network(trained, embeddings="int8")
    for name, table in packed.tables.items():
        assert table.scales is not None
        difference = np.abs(table[:] - trained.get_submodule(name).values().numpy())  # type: ignore[operator]
        assert 0 < difference.max() <= 0.5001 * table.scales.max()
    candidates = np.tile(np.arange(N_ITEMS, dtype=np.int32), (N_USERS, 1))
    verify(packed, trained, np.arange(N_USERS), candidates)
    save_packed(packed, tmp_path / "file")
    found = load_packed(tmp_path / "file")
    assert found.embeddings == "int8"
    np.testing.assert_array_equal(found.score_catalogue(np.arange(9)), packed.score_catalogue(np.arange(9)))
    scales = packed.item_features.scales
    assert scales is not None
    wrong = replace(packed, item_features=replace(packed.item_features, scales=scales * np.float32(1.02)))
    with pytest.raises(DataError, match="table mlp_item differs from the network's"):
        verify(wrong, trained, np.arange(3), candidates[:3])


def test_1_bit_embeddings_have_no_other_encoding() -> None:
    with pytest.raises(ValueError, match="embeddings is 'int8', but this network's are 1-bit"):
        packed_network(network(binary=True), embeddings="int8")


def test_a_network_trained_to_1_bit_embeddings_ranks_alike(tiny_data: PreparedData, tmp_path: Path) -> None:
    config = NCFConfig(factors=8, layers=(32, 32, 16, 8), binarize_embeddings=True)
    list(
        fit_steps(tiny_data, tmp_path / "run", config, NCFTrainingConfig(epochs=3, batch_size=256, learning_rate=0.01))
    )
    model = load_model(Run.open(tmp_path / "run"))
    packed = pack(model, user_ids=tiny_data.user_ids, item_ids=tiny_data.item_ids, protocol="none")
    n_changed = verify_on_test_items(packed, model, tiny_data).changed_ranks
    assert n_changed <= 1
    ours, theirs = (rank_test_items(score, tiny_data).pessimistic for score in (packed, scorer(model)))
    assert (ours != theirs).sum() == n_changed
    chance = reference.guessed_hit_ratio(tiny_data.n_negatives)
    assert reference.above_chance(int((theirs < 10).sum()), tiny_data.n_users, chance)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-(2**63), 2**63 - 1)) | st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_ids_come_back(ids: list[int] | list[str]) -> None:
    are_text = bool(ids) and isinstance(ids[0], str)
    array = np.array(ids, object if are_text else np.int64)
    assert ids_from_tensors("x", ids_to_tensors("x", array), len(ids)).tolist() == ids
    with pytest.raises(ValueError, match="damaged"):
        ids_from_tensors("x", ids_to_tensors("x", array), len(ids) + 1)


def test_numbers_in_a_row_take_no_room() -> None:
    (tensor,) = ids_to_tensors("x", np.arange(1, 138_494)).values()
    assert len(tensor) < 2_000


def test_parts_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    """A sealed file of another program: a kernel would read beyond the end of what it says."""
    save_packed(packed_network(network(binary=True)), tmp_path / "file")
    tensors, metadata = load_tensors(tmp_path / "file")
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"mlp_item.values": tensors["mlp_item.values"][1:]}, {}),
        ({"mlp_item.scales": tensors["mlp_item.scales"].float()}, {}),
        ({"gmf_user.values": tensors["gmf_user.values"][:, 1:]}, {}),
        ({"hidden.0.signs": tensors["hidden.0.signs"][:, 1:]}, {}),
        ({"hidden.0.thresholds": tensors["hidden.0.thresholds"].long()}, {}),
        ({"first.thresholds": tensors["first.thresholds"] * torch.nan}, {}),
        ({"units.signs": tensors["units.signs"][:0]}, {}),
        ({"last_weight": tensors["last_weight"][:5]}, {}),
        ({"user_ids.integers": tensors["item_ids.integers"].clone()}, {}),
        ({}, {"embeddings": "float32"}),
        ({}, {"embeddings": "int4"}),
        ({}, {"hidden": [{"name": "mlp.1", "in_features": 64}]}),
        ({}, {"hidden": []}),
        ({}, {"first": {"name": "mlp.0"}}),
        ({}, {"n_users": "many"}),
    ]
    for changed_tensors, changed_metadata in changes:
        save_tensors(tmp_path / "changed", tensors | changed_tensors, metadata | changed_metadata)
        with pytest.raises(DataError, match="is a damaged packed network") as raised:
            load_packed(tmp_path / "changed")
        assert "\n" not in str(raised.value)


def test_an_empty_table() -> None:
    assert PackedTable.empty(3)[:].shape == (3, 0)
    assert len(PackedTable.empty(3)) == 3
