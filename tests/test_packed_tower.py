"""A packed network of two towers: its bits, its vectors, its file, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ncf_ppt.packed.file import load_packed, save_packed
from ncf_ppt.packed.packing import pack
from ncf_ppt.packed.tower import PackedTwoTower
from ncf_ppt.packed.verification import verify
from ncf_ppt.scoring import scorer
from ncf_ppt.two_tower import TwoTower, TwoTowerConfig
from ppt_core.batch_norm import BatchNormReLU
from ppt_core.errors import DataError
from ppt_core.layers import BinaryActivation, set_precision
from ppt_core.packed.linear import pack_units
from ppt_core.plan import convert
from ppt_core.runs.checkpoint import load_tensors, save_tensors
from tests.test_packed_commands import call, fail, succeed

N_USERS, N_ITEMS = 1100, 300  # more users than a block holds
SHAPES = [
    TwoTowerConfig(factors=6, layers=(8, 7, 5), n_recent=4),
    TwoTowerConfig(factors=3, layers=(65, 64, 130, 1), n_recent=2),
    TwoTowerConfig(factors=128, layers=(256, 256, 256), n_recent=20),
    TwoTowerConfig(factors=5, layers=(70, 9), n_recent=3, batch_norm=False),
]


def network(config: TwoTowerConfig, *, seed: int = 0) -> TwoTower:
    """A network in low precision, BatchNorm as it may become: weights negative, tiny and zero, biases large."""
    torch.manual_seed(seed)
    model = TwoTower(N_USERS, N_ITEMS, config, seed=seed)
    convert(model)
    set_precision(model, "low")
    last = model.last_items
    last.copy_(torch.randint(-1, N_ITEMS, last.shape).masked_fill(torch.rand(N_USERS, 1) < 0.1, -1))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight.copy_(torch.randn(module.weight.shape))
            elif isinstance(module, BinaryActivation):
                module.alpha.fill_(0.1 + torch.rand(()))
        model.recent.places.copy_(torch.randn(config.n_recent))
        model.tower[-1].weight.copy_(torch.randn(model.tower[-1].weight.shape))  # type: ignore[operator, arg-type]
        for start in range(0, N_USERS, 110):
            model.train()(last[start : start + 110])
        for module in model.modules():
            if isinstance(module, BatchNormReLU):
                odd_weights = torch.tensor([0.0, -0.0, 1e-30, -1e-6, -5.0])
                odd_biases = torch.tensor([0.0, 20.0, -20.0])
                for tensor, odd in ((module.weight, odd_weights), (module.bias, odd_biases)):
                    values = torch.cat([torch.randn(4 * len(odd)), odd])
                    tensor.copy_(values[torch.randint(len(values), tensor.shape)])
    return model.eval()


def packed_network(model: TwoTower, **keywords: Any) -> PackedTwoTower:
    ids = {"user_ids": np.arange(N_USERS) * 3 + 1, "item_ids": np.arange(N_ITEMS) + 10}
    found = pack(model, protocol="leave-one-out, 9 negatives, strict", **(ids | keywords))
    assert isinstance(found, PackedTwoTower)
    return found


def candidates(n_users: int, n: int = 30) -> Any:
    return np.random.default_rng(0).integers(0, N_ITEMS, (n_users, n)).astype(np.int32)


@pytest.fixture(scope="module")
def model() -> TwoTower:
    return network(SHAPES[0])


@pytest.fixture(scope="module")
def packed(model: TwoTower) -> PackedTwoTower:
    return packed_network(model)


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_vectors_and_scores_are_those_of_the_network(config: TwoTowerConfig) -> None:
    model = network(config)
    packed = packed_network(model)
    recent = model.last_items.numpy()
    np.testing.assert_array_equal(packed.user_vectors(recent), model.user_vectors(recent))
    np.testing.assert_array_equal(packed.item_vectors(), model.item_vectors())
    users = np.arange(N_USERS)
    np.testing.assert_array_equal(packed(users, candidates(N_USERS)), scorer(model)(users, candidates(N_USERS)))
    catalogue = np.tile(np.arange(N_ITEMS, dtype=np.int32), (2, 1))
    np.testing.assert_array_equal(packed.score_catalogue(users[3:5]), packed(users[3:5], catalogue))


@pytest.mark.parametrize("config", SHAPES, ids=str)
@pytest.mark.parametrize("embeddings", [None, "int8"])
def test_every_bit_equals_the_simulated_one(config: TwoTowerConfig, embeddings: Any) -> None:
    model = network(config, seed=1)
    users = np.arange(0, N_USERS, 3)
    found = verify(packed_network(model, embeddings=embeddings), model, users, candidates(len(users)))
    n_bits = sum(config.layers[1:-1])
    assert found.n_pairs == 30 * len(users)
    assert found.compared_bits == len(users) * n_bits
    assert found.first_layer_bits == len(users) * config.layers[0]
    assert found.boundary_bits >= 64 * n_bits
    assert (found.first_layer_differences, found.max_logit_difference, found.changed_ranks) == (0, 0, 0)


def test_bits_are_those_of_the_modules(model: TwoTower, packed: PackedTwoTower) -> None:
    """Without the verification: what each module gives for the first users."""
    histories = model.last_items[:1024]
    outputs: list[torch.Tensor] = []
    with torch.no_grad():
        means = model.recent(histories)
        values = means
        for layer in model.tower:
            values = layer(values)
            outputs.append(values)
        first = packed.first_bits(packed.first(means))
        later, units = packed.hidden_units(first)
    for words, expected in zip([first, *later], (outputs[1] > 0, outputs[3] > 0), strict=True):
        found = np.unpackbits(words.astype("<u8").view(np.uint8), axis=1, bitorder="little")
        np.testing.assert_array_equal(found[:, : expected.shape[1]], expected.numpy())
        assert not found[:, expected.shape[1] :].any()
    torch.testing.assert_close(units, outputs[5], rtol=0, atol=0)


def test_a_vector_is_a_function_of_its_history(packed: PackedTwoTower) -> None:
    recent = packed.last_items
    everybody = packed.user_vectors(recent)
    np.testing.assert_array_equal(packed.user_vectors(recent[70:71])[0], everybody[70])
    np.testing.assert_array_equal(packed.user_vectors(recent[::-1]), everybody[::-1])
    assert packed.user_vectors(recent[:0]).shape == (0, 7)


def corrupted(packed: PackedTwoTower, name: str) -> PackedTwoTower:
    """The packed network with one wrong number in a part."""
    if name == "last_items":
        return replace(packed, last_items=np.roll(packed.last_items, 1, axis=0))
    if name == "recent":
        return replace(packed, recent=replace(packed.recent, values=packed.recent.values + np.float32(0.1)))
    if name == "tower.6.bias":
        last = nn.Linear(5, 6)
        last.load_state_dict({"weight": packed.last.weight, "bias": packed.last.bias + 1})
        return replace(packed, last=last)
    if name == "tower.1":
        values = packed.first_thresholds.values.copy()
        values[np.isfinite(values).argmax()] += 1
        return replace(packed, first_thresholds=replace(packed.first_thresholds, values=values))
    if name == "tower.4":
        return replace(packed, units=replace(packed.units, shifts=packed.units.shifts + np.float32(1)))
    (layer,) = packed.hidden
    values = layer.thresholds.values.copy()
    values[int((np.abs(values) < 3).argmax())] += 1
    return replace(packed, hidden=(replace(layer, thresholds=replace(layer.thresholds, values=values)),))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("last_items", r"^last_items differs from the network's; do not use"),
        ("recent", r"^table recent differs from the network's"),
        ("tower.6.bias", r"^tower\.6\.bias differs from the network's"),
        ("tower.1", r"bits behind layer tower\.1 differ from the simulated network"),
        ("tower.2", r"bits behind layer tower\.2 differ from the simulated network"),
        ("tower.4", r"^hidden units behind layer tower\.4 differ from the simulated network's$"),
    ],
)
def test_verification_names_what_differs(model: TwoTower, packed: PackedTwoTower, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        verify(corrupted(packed, name), model, np.arange(40), candidates(40))


def test_what_cannot_be_packed_is_refused(model: TwoTower) -> None:
    shallow = TwoTower(N_USERS, N_ITEMS, replace(SHAPES[0], layers=(8,)), seed=0)
    with pytest.raises(DataError, match=r"^the network holds no 1-bit layer, so there is nothing to pack"):
        packed_network(shallow)
    full = TwoTower(N_USERS, N_ITEMS, SHAPES[0], seed=0)
    with pytest.raises(DataError, match=r"^layer tower\.1 is a BatchNormReLU of 32 bits; before a 1-bit layer"):
        packed_network(full)
    convert(full)
    with pytest.raises(DataError, match=r"^layer tower\.1 computes in full precision; train the network to the end"):
        packed_network(full)
    with pytest.raises(DataError, match=r"^layer x is a Tanh; behind the last 1-bit layer only a ReLU"):
        pack_units(model.tower[4], nn.Tanh(), name="tower.4", activation_name="x")


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_a_file_holds_everything(tmp_path: Path, config: TwoTowerConfig) -> None:
    model = network(config)
    names = np.array([f"usér {number}" for number in range(N_USERS)], object)
    packed = packed_network(model, user_ids=names, provenance={"run": "näme"})
    for name in ("a", "b"):
        save_packed(packed, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = load_packed(tmp_path / "a")
    assert isinstance(found, PackedTwoTower)
    assert found.user_ids.tolist() == names.tolist()
    assert found.item_ids.tolist() == packed.item_ids.tolist()
    assert (found.protocol, found.provenance) == (packed.protocol, {"run": "näme"})
    users = np.arange(0, N_USERS, 9)
    np.testing.assert_array_equal(found.score_catalogue(users), packed.score_catalogue(users))
    verify(found, model, users, candidates(len(users)))


def test_files_that_contradict_themselves_are_refused(tmp_path: Path, packed: PackedTwoTower) -> None:
    save_packed(packed, tmp_path / "a")
    tensors, metadata = load_tensors(tmp_path / "a")

    def refused(message: str, changes: dict[str, Any], **more: Any) -> None:
        save_tensors(tmp_path / "b", tensors | changes, metadata | more)
        with pytest.raises(DataError, match=message) as raised:
            load_packed(tmp_path / "b")
        assert "\n" not in str(raised.value)

    refused("of version 2 and this version of ppt-ncf reads 1; pack the run again", {}, packed_version=2)
    far = torch.full_like(tensors["last_items"], N_ITEMS)
    refused(r"damaged packed network \(last_items are not between -1 and 299\)", {"last_items": far})
    refused(r"damaged packed network \(places is", {"places": tensors["places"].double()})
    refused(r"damaged packed network \(layer tower\.2 has 7 inputs where 8 come\)", {}, hidden=[
        {"name": "tower.2", "in_features": 7}
    ])  # fmt: skip
    refused(r"damaged packed network \(last\.weight is", {"last.weight": tensors["last.weight"][:, :4]})


TINY = ["--recipe", "warm", "--factors", "8", "--layers", "16,16,16", "--recent", "5", "--epochs", "1"]


@pytest.fixture(scope="module")
def folder(tiny_data: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set ``data``, a run ``run`` and the file ``packed``."""
    folder = tmp_path_factory.mktemp("packed-tower")
    tiny_data.save(folder / "data")
    succeed("train", "--data", folder / "data", "--out", folder / "run", *TINY)
    succeed("pack", folder / "run", "--out", folder / "packed")
    return folder


def test_a_file_answers_like_its_run(folder: Path) -> None:
    run, file, data = folder / "run", folder / "packed", ["--data", folder / "data"]
    for ranking in ("sampled", "full"):
        found = succeed("evaluate", file, *data, "--ranking", ranking)
        assert found["engine"] == "packed"
        for more in ([], ["--engine", "packed"]):
            expected = succeed("evaluate", run, "--ranking", ranking, *more)
            for key in found.keys() - {"run", "engine"}:
                assert found[key] == expected[key], key
    assert succeed("recommend", file, *data, "--all") == succeed("recommend", run, "--all")


def test_new_people_need_the_file_alone(folder: Path, tmp_path: Path) -> None:
    rows = ["user_id,item_id,timestamp", "new,3,1", "new,5,2", "other,7,9"]
    (tmp_path / "people.csv").write_text("\n".join(rows) + "\n")
    people = ["--history", tmp_path / "people.csv"]
    found = succeed("recommend", folder / "packed", *people, "-k", 3)
    assert found == succeed("recommend", folder / "run", *people, "-k", 3)
    assert found == succeed("recommend", folder / "run", *people, "-k", 3, "--engine", "packed")
    assert [entry["user_id"] for entry in found["recommendations"]] == ["new", "other"]
    assert "holds no interactions, so name" in fail("recommend", folder / "packed", "--all")


def test_pack_says_what_the_bytes_are(folder: Path, tmp_path: Path) -> None:
    document = succeed("pack", folder / "run", "--out", tmp_path / "int8", "--embeddings", "int8")
    assert document["embedding_bytes"] == 2 * 150 * (8 + 4)
    assert document["bytes"] == (tmp_path / "int8").stat().st_size
    assert document["first_layer_differences"] == 0
    text = call("pack", folder / "run", "--out", tmp_path / "float32").stdout
    assert "bits that differ from the simulated network: 0 of" in text
    evaluated = succeed("evaluate", tmp_path / "float32", "--data", folder / "data")
    assert evaluated["hit_ratio"] == succeed("evaluate", folder / "run")["hit_ratio"]


def test_inspect_finds_the_same_layers_in_both(folder: Path, tmp_path: Path) -> None:
    run, file = succeed("inspect", folder / "run"), succeed("inspect", folder / "packed")
    forms = [[layer.pop("form") for layer in document["layers"]] for document in (run, file)]
    assert run["layers"] == file["layers"]
    assert [form.replace("simulated", "packed") for form in forms[0]] == forms[1]
    by_name = {layer["name"]: layer for layer in file["layers"]}
    assert list(by_name) == ["recent", "places", *(f"tower.{n}" for n in range(7)), "item", "item_bias"]
    assert by_name["tower.2"]["operations"] == {"1-bit multiply-add, once a user": 256}
    assert by_name["tower.2"]["packed_bytes"] == 16 * 8  # a word for each of 16 channels
    assert file["operations"]["32-bit multiply-add"] == 8
    assert file["packed_bytes"] < file["file_bytes"]
    succeed("train", "--data", folder / "data", "--out", tmp_path / "full", *TINY, "--split", 1)
    full = succeed("inspect", tmp_path / "full")
    assert {layer["form"] for layer in full["layers"]} == {"32-bit"}
    assert full["packed_bytes"] is None
    tensors, _ = load_tensors(tmp_path / "full" / "model.safetensors")
    kept = [tensor for name, tensor in tensors.items() if not name.endswith(("last_items", "num_batches_tracked"))]
    assert full["latent_bytes"] == sum(4 * tensor.numel() for tensor in kept)
    assert "32 bits; before a 1-bit layer" in fail("pack", tmp_path / "full", "--out", tmp_path / "x")
