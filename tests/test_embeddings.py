import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from data_prep.ratings.interactions import Interactions, PreparedData
from ncf_ppt.export.embeddings import FORMAT_VERSION, export_embeddings
from ncf_ppt.export.encodings import Dtype
from ncf_ppt.export.vector_files import Format
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.rotation import rotate
from ncf_ppt.row_adam import RowAdam
from ppt_core.errors import DataError
from ppt_core.layers import set_precision
from ppt_core.plan import convert
from ppt_core.runs.files import file_checksums, read_json

N_USERS, N_ITEMS, FACTORS, HALF = 7, 5, 12, 10
TABLES = {"gmf": ["gmf_users", "gmf_items"], "mlp": ["mlp_users", "mlp_items"]}
TABLES["neumf"] = TABLES["gmf"] + TABLES["mlp"]
DTYPES: list[Dtype] = ["float32", "float16", "int8", "binary"]
FORMATS: list[Format] = ["parquet", "npy"]


@pytest.fixture(scope="module")
def data() -> PreparedData:
    return PreparedData(
        train=Interactions.from_pairs(np.arange(N_USERS), np.zeros(N_USERS, int), n_users=N_USERS, n_items=N_ITEMS),
        test_items=np.ones(N_USERS, np.int32),
        test_negatives=np.full((N_USERS, 1), 2, np.int32),
        user_ids=np.arange(N_USERS) * 2**40 + 3,
        item_ids=np.array([f"é {number}" for number in range(N_ITEMS)], object),
        protocol="strict",
        manifest={"sha256": "of the data"},
    )


def network(model: Any = "neumf", *, seed: int = 0) -> NCF:
    network = NCF(N_USERS, N_ITEMS, NCFConfig(model=model, factors=FACTORS, layers=(2 * HALF, 8, 4)), seed=seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "user" in name or "item" in name:
                parameter.mul_(50)  # of a trained network's size
                parameter[2, 3] = 0.0
                parameter[4] = 0.0
    return network.eval()


def components(model: NCF) -> dict[str, NDArray[np.float32]]:
    """What the tables hold, computed apart: GMF's weights are folded into the users."""
    tables = {name: getattr(model, name[:-1]).weight.detach().numpy() for name in TABLES[model.config.model]}
    if "gmf_users" in tables:
        tables["gmf_users"] = tables["gmf_users"] * model.last.weight.detach().numpy()[0, :FACTORS]
    return tables


def read(folder: Path, name: str) -> tuple[NDArray[Any], NDArray[np.float32] | None, list[Any]]:
    """Vectors, scales and ids of a table, as a user without this package reads them."""
    side = name[4:-1]
    if (folder / f"{name}.parquet").exists():
        table = pq.read_table(folder / f"{name}.parquet").combine_chunks()
        column = table["vector"].combine_chunks()
        vectors = column.flatten().to_numpy().reshape(len(table), column.type.list_size)
        scales = table["scale"].to_numpy() if "scale" in table.column_names else None
        return vectors, scales, table[f"{side}_id"].to_pylist()
    vectors = np.load(folder / f"{name}.npy", allow_pickle=False)
    scale_path = folder / f"{name}_scale.npy"
    scales = np.load(scale_path, allow_pickle=False) if scale_path.exists() else None
    if side == "user":
        return vectors, scales, np.load(folder / "user_ids.npy", allow_pickle=False).tolist()
    return vectors, scales, json.loads((folder / "item_ids.json").read_text("utf-8"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("model", TABLES)
@pytest.mark.parametrize("batch_bytes", [1, 1 << 24])
def test_round_trip(
    tmp_path: Path,
    data: PreparedData,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    format: Format,
    dtype: Dtype,
    batch_bytes: int,
) -> None:
    # Three rows, or all of them.
    monkeypatch.setattr("ncf_ppt.export.embeddings._BATCH_BYTES", 3 * 4 * FACTORS * batch_bytes)
    original = network(model)
    manifest = export_embeddings(original, data, tmp_path / "out", format=format, dtype=dtype)
    assert list(manifest["tables"]) == TABLES[model]
    for name, expected in components(original).items():
        vectors, scales, ids = read(tmp_path / "out", name)
        assert ids == (data.user_ids if name.endswith("users") else data.item_ids).tolist()
        description = manifest["tables"][name]
        assert description["rows"] == len(vectors) == len(expected)
        assert (scales is not None) == (dtype in ("int8", "binary"))
        if dtype == "binary":
            rotation = np.load(tmp_path / "out" / description["rotation"])
            assert rotation.shape == (expected.shape[1], 256)
            np.testing.assert_allclose(rotation @ rotation.T, np.eye(expected.shape[1]), atol=1e-12)
            rotated = rotate(expected, rotation)
            assert vectors.dtype == np.uint8
            assert vectors.shape[1] * 8 == description["dimension"] == description["stored_dimension"] == 256
            assert (np.unpackbits(vectors, axis=1) == (rotated > 0)).all()
            assert scales is not None
            np.testing.assert_allclose(scales, np.abs(rotated).mean(axis=1), rtol=1e-6)
            continue
        assert "rotation" not in description
        assert description["dimension"] == expected.shape[1]
        assert description["stored_dimension"] == vectors.shape[1] == expected.shape[1]
        assert vectors.dtype == dtype
        if dtype == "float32":
            assert vectors.tobytes() == expected.tobytes()
        elif dtype == "float16":
            assert vectors.tobytes() == expected.astype(np.float16).tobytes()
            assert (np.abs(vectors - expected) <= np.abs(expected) * 2.0**-11 + 2.0**-25).all()
        else:
            assert scales is not None
            assert scales.dtype == np.float32
            assert (np.abs(vectors).max(axis=1)[scales > 0] == 127).all()
            assert (scales == 0).tolist() == (np.abs(expected).max(axis=1) == 0).tolist()
            errors = np.abs(vectors * scales[:, np.newaxis].astype(np.float64) - expected)
            assert (errors <= scales[:, np.newaxis] * 0.5001).all()


def test_files_and_manifest(tmp_path: Path, data: PreparedData) -> None:
    model = network("neumf")
    returned = export_embeddings(model, data, tmp_path / "p", dtype="int8")
    manifest = read_json(tmp_path / "p" / "manifest.json", format_version=FORMAT_VERSION)
    checksums = file_checksums(tmp_path / "p")
    del checksums["manifest.json"]
    assert manifest["files"] == checksums
    assert sorted(checksums) == sorted(f"{name}.parquet" for name in TABLES["neumf"])
    assert {key: value for key, value in manifest.items() if key != "sha256"} == returned
    assert (manifest["model"], manifest["dtype"], manifest["format"]) == ("neumf", "int8", "parquet")
    assert (manifest["n_users"], manifest["n_items"], manifest["data_sha256"]) == (N_USERS, N_ITEMS, None)
    assert np.float32(manifest["bias"]) == model.last.bias.detach().numpy()[0]
    saved = data.save(tmp_path / "data")
    assert export_embeddings(model, saved, tmp_path / "s")["data_sha256"] == saved.content is not None
    assert "finds candidates, to be reranked by the network" in manifest["meaning"]
    schema = pq.read_schema(tmp_path / "p" / "gmf_items.parquet")
    assert schema.names == ["item_id", "vector", "scale"]
    assert schema.field("item_id").type == pa.string()
    assert schema.field("vector").type == pa.list_(pa.int8(), FACTORS)
    assert pq.read_schema(tmp_path / "p" / "mlp_users.parquet").field("user_id").type == pa.int64()

    export_embeddings(model, data, tmp_path / "n", format="npy", dtype="int8")
    scales = [f"{name}_scale.npy" for name in TABLES["neumf"]]
    vectors = [f"{name}.npy" for name in TABLES["neumf"]]
    expected = sorted([*vectors, *scales, "user_ids.npy", "item_ids.json", "manifest.json"])
    assert sorted(file.name for file in (tmp_path / "n").iterdir()) == expected


def test_meanings_are_honest(tmp_path: Path, data: PreparedData) -> None:
    meanings = {
        (model, dtype): export_embeddings(network(model), data, tmp_path / f"{model} {dtype}", dtype=dtype)["meaning"]
        for model in TABLES
        for dtype in ("float32", "binary")
    }
    assert "plus bias, is the network's logit" in meanings["gmf", "float32"]
    assert "logit without the MLP's part" in meanings["neumf", "float32"]
    assert "make no inner product" in meanings["mlp", "float32"]
    assert all(("Hamming" in meaning) == (dtype == "binary") for (_, dtype), meaning in meanings.items())


@pytest.mark.parametrize("format", FORMATS)
def test_an_inner_product_is_the_logit_of_gmf(tmp_path: Path, data: PreparedData, format: Format) -> None:
    model = network("gmf")
    bias = export_embeddings(model, data, tmp_path / "out", format=format)["bias"]
    users, items = (read(tmp_path / "out", name)[0].astype(np.float64) for name in TABLES["gmf"])
    everyone, everything = (grid.reshape(-1) for grid in np.meshgrid(range(N_USERS), range(N_ITEMS), indexing="ij"))
    with torch.no_grad():
        logits = model(torch.from_numpy(everyone), torch.from_numpy(everything)).numpy().reshape(N_USERS, N_ITEMS)
    assert logits.std() > 0.05
    np.testing.assert_allclose(users @ items.T + bias, logits, rtol=0, atol=1e-6)


def test_an_inner_product_is_the_gmf_part_of_neumf(tmp_path: Path, data: PreparedData) -> None:
    model = network("neumf")
    with torch.no_grad():
        model.last.weight[0, FACTORS:] = 0  # the MLP says nothing
        logits = model(torch.tensor([0, 3]), torch.tensor([1, 2])).numpy()
    bias = export_embeddings(model, data, tmp_path / "out")["bias"]
    users, items = (read(tmp_path / "out", name)[0] for name in TABLES["gmf"])
    np.testing.assert_allclose((users[[0, 3]] * items[[1, 2]]).sum(axis=1) + bias, logits, rtol=0, atol=1e-6)


def test_rows_that_lag_behind_are_brought_up_to_date(tmp_path: Path, data: PreparedData) -> None:
    model = network("gmf").train()
    optimizer = RowAdam([model.gmf_user, model.gmf_item], model.last.parameters(), lr=0.1)
    for users in ([0, 1, 2, 3, 4, 5, 6], [0], [0]):  # the others still move with their moments
        optimizer.zero_grad()
        model(torch.tensor(users), torch.zeros(len(users), dtype=torch.int64)).sum().backward()
        optimizer.step()
    export_embeddings(model, data, tmp_path / "lagging")
    assert model.training
    model.gmf_user.catch_up()
    model.gmf_item.catch_up()
    for name, expected in components(model).items():
        assert read(tmp_path / "lagging", name)[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_repeated_bytes_are_identical(tmp_path: Path, data: PreparedData, format: Format, dtype: Dtype) -> None:
    for name in ("a", "b"):
        export_embeddings(network(), data, tmp_path / name, format=format, dtype=dtype)
    assert file_checksums(tmp_path / "a") == file_checksums(tmp_path / "b")
    export_embeddings(network(seed=1), data, tmp_path / "c", format=format, dtype=dtype)
    assert file_checksums(tmp_path / "a") != file_checksums(tmp_path / "c")


def test_tables_of_one_bit_are_exported_as_they_are(tmp_path: Path, data: PreparedData) -> None:
    config = NCFConfig(model="gmf", factors=FACTORS, binarize_embeddings=True)
    model = NCF(N_USERS, N_ITEMS, config, seed=0)
    convert(model)
    set_precision(model, "low")
    manifest = export_embeddings(model.eval(), data, tmp_path / "out", dtype="binary", format="npy")
    assert manifest["tables"]["gmf_items"] == {"rows": N_ITEMS, "dimension": FACTORS, "stored_dimension": 16}
    vectors, scales, _ = read(tmp_path / "out", "gmf_items")
    assert scales is not None
    signs = np.where(np.unpackbits(vectors, axis=1, count=FACTORS), 1, -1) * scales[:, np.newaxis]
    np.testing.assert_array_equal(signs, model.gmf_item.values().numpy())


def test_int8_of_the_smallest_numbers(tmp_path: Path, data: PreparedData) -> None:
    model = network("mlp")
    with torch.no_grad():
        model.mlp_item.weight[0] = 1e-45
        model.mlp_item.weight[1] = 3e38
    export_embeddings(model, data, tmp_path / "out", dtype="int8")
    vectors, scales, _ = read(tmp_path / "out", "mlp_items")
    assert scales is not None
    assert vectors[:2].tolist() == [[0] * HALF, [127] * HALF]
    assert scales[0] == 0


def refused(
    folder: Path, model: NCF, data: PreparedData, error: type[ValueError], message: str, **options: Any
) -> None:
    with pytest.raises(error, match=message) as caught:
        export_embeddings(model, data, folder / "out", **options)
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


def test_refuses_in_one_line_and_leaves_nothing(tmp_path: Path, data: PreparedData) -> None:
    model = network()
    refused(
        tmp_path,
        model,
        data,
        ValueError,
        "format is 'csv'; choose one of parquet, npy, safetensors, faiss",
        format="csv",
    )
    message = "dtype is 'float64'; choose one of float32, float16, int8, binary"
    refused(tmp_path, model, data, ValueError, message, dtype="float64")
    fewer = replace(data, train=replace(data.train, n_items=4), item_ids=data.item_ids[:4])
    refused(tmp_path, model, fewer, ValueError, "gmf_items has 5 rows and the data have 4; pass the data of the model")
    with torch.no_grad():
        model.mlp_item.weight[3, 2] = 65519
        export_embeddings(model, data, tmp_path / "fits", dtype="float16")
        assert np.isfinite(read(tmp_path / "fits", "mlp_items")[0]).all()
        model.mlp_item.weight[3, 2] = -65520
    empty = tmp_path / "empty"
    empty.mkdir()
    message = r"a component of size 65520\.0 is beyond the range of float16; choose float32"
    for format in FORMATS:
        refused(empty, model, data, DataError, message, dtype="float16", format=format)
    with torch.no_grad():
        model.mlp_user.weight[6, 1] = torch.nan
    for dtype in DTYPES:
        refused(empty, model, data, DataError, "mlp_users holds NaN or infinity; the model has diverged", dtype=dtype)


def test_refuses_an_existing_folder(tmp_path: Path, data: PreparedData) -> None:
    with pytest.raises(DataError, match="already exists"):
        export_embeddings(network(), data, tmp_path)
    assert list(tmp_path.iterdir()) == []
