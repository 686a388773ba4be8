"""The commands around a packed file: pack, inspect, and the file in the place of a run."""

from pathlib import Path

import pytest

from cli import main
from data_prep.ratings.interactions import PreparedData
from tests.command_line import CommandLine

TINY = ["--factors", "4", "--layers", "8,8,8,4", "--epochs", "1", "--batch-size", "512", "--learning-rate", "0.01"]


PROGRAM = CommandLine(main)
call, succeed, fail = PROGRAM.call, PROGRAM.succeed, PROGRAM.fail


@pytest.fixture(scope="module")
def folder(tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set ``data``, a run ``run`` and the file ``packed``; the same with 1-bit embeddings behind ``-1``."""
    folder = tmp_path_factory.mktemp("packed")
    tiny_data.save(folder / "data")
    for ending, more in (("", []), ("-1", ["--binarize-embeddings"])):
        succeed("train", "--data", folder / "data", "--out", folder / f"run{ending}", *TINY, *more)
        succeed("pack", folder / f"run{ending}", "--out", folder / f"packed{ending}")
    return folder


@pytest.mark.parametrize("ending", ["", "-1"])
def test_a_file_answers_like_its_run(folder: Path, ending: str) -> None:
    run, file, data = folder / f"run{ending}", folder / f"packed{ending}", ["--data", folder / "data"]
    for ranking in ("sampled", "full"):
        expected = succeed("evaluate", run, "--engine", "packed", "--ranking", ranking)
        found = succeed("evaluate", file, *data, "--ranking", ranking)
        assert found["engine"] == "packed"
        for key in found.keys() - {"run"}:
            assert found[key] == expected[key], key
    expected = succeed("recommend", run, "--all", "--engine", "packed")
    assert succeed("recommend", file, *data, "--all") == expected


def test_memory_changes_nothing(folder: Path) -> None:
    for path, more in ((folder / "run", []), (folder / "packed", ["--data", folder / "data"])):
        for command in (["evaluate", path, "--ranking", "full"], ["recommend", path, "--all"]):
            few = succeed(*command, *more, "--memory", 0.001)
            assert few == succeed(*command, *more)


def test_files_that_cannot_be_trusted_or_used_are_refused(folder: Path, tmp_path: Path) -> None:
    data = ["--data", folder / "data"]
    content = (folder / "packed").read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    damaged = tmp_path / "damaged"
    for changed, message in ((content[:-3], "was changed"), (flipped, "was changed"), (b"", "is no tensor file")):
        damaged.write_bytes(changed)
        for command in (["evaluate", damaged], ["recommend", damaged, "--all"], ["inspect", damaged]):
            assert message in fail(*command, *(data if command[0] != "inspect" else []))
    assert "--engine is 'torch', but" in fail("evaluate", folder / "packed", *data, "--engine", "torch", code=2)
    assert "holds no interactions, so name" in fail("evaluate", folder / "packed")
    assert "holds no interactions, so name" in fail("recommend", folder / "packed", "--all")
    assert "holds no packed network" in fail("evaluate", folder / "run" / "model.safetensors", *data)


def test_other_data_are_refused(folder: Path, tmp_path: Path, tiny_data: PreparedData) -> None:
    from data_prep.ratings.prepare import prepare
    from data_prep.ratings.synthetic import synthesize

    prepare(synthesize(50, 80, 1500, seed=1), n_negatives=20, source={"name": "synthetic"}).save(tmp_path / "other")
    assert "is not the data that" in fail("evaluate", folder / "packed", "--data", tmp_path / "other")


def test_pack_says_what_the_bytes_are(folder: Path, tmp_path: Path) -> None:
    document = succeed("pack", folder / "run", "--out", tmp_path / "int8", "--embeddings", "int8")
    assert document["embeddings"] == "int8"
    assert document["embedding_bytes"] == (120 + 150) * ((4 + 4) + (4 + 4))
    assert document["bytes"] == (tmp_path / "int8").stat().st_size
    evaluated = succeed("evaluate", tmp_path / "int8", "--data", folder / "data")
    assert document["hit_ratio"] == evaluated["hit_ratio"]
    assert document["hit_ratio_of_run"] == succeed("evaluate", folder / "run")["hit_ratio"]
    text = call("pack", folder / "run-1", "--out", tmp_path / "binary").stdout
    assert f"{(120 + 150) * (1 + 2) * 2:,} of them embeddings (binary)" in text
    assert "HR@10" in text
    assert "are 1-bit and are kept so" in fail(
        "pack", folder / "run-1", "--out", tmp_path / "x", "--embeddings", "int8", code=2
    )


@pytest.mark.parametrize("ending", ["", "-1"])
def test_inspect_finds_the_same_layers_in_both(folder: Path, ending: str) -> None:
    run, file = succeed("inspect", folder / f"run{ending}"), succeed("inspect", folder / f"packed{ending}")
    forms = [[layer.pop("form") for layer in document["layers"]] for document in (run, file)]
    assert run["layers"] == file["layers"]
    assert [form.replace("simulated", "packed") for form in forms[0]] == forms[1]
    names = [layer["name"] for layer in run["layers"]]
    assert names == ["gmf_user", "gmf_item", "mlp_user", "mlp_item", "first", *(f"mlp.{n}" for n in range(5)), "last"]
    by_name = {layer["name"]: layer for layer in file["layers"]}
    assert by_name["mlp.1"]["operations"] == {"1-bit multiply-add": 64}
    assert by_name["mlp.1"]["latent_bytes"] == 4 * 64
    assert by_name["mlp.1"]["packed_bytes"] == 8 * 8  # a word for each of eight channels
    assert by_name["gmf_item"]["latent_bytes"] == 4 * 4 * 150
    assert by_name["gmf_item"]["packed_bytes"] == (150 * 3 if ending else 4 * 4 * 150)
    assert file["operations"] == {
        "32-bit add": 8, "comparison": 20, "1-bit multiply-add": 96, "32-bit multiply-add": 12,
    }  # fmt: skip
    assert file["packed_bytes"] < file["file_bytes"]


def test_inspect_prints_a_table_of_any_run(folder: Path, tmp_path: Path) -> None:
    table = call("inspect", folder / "packed").stdout
    assert "1-bit multiply-add" in table
    assert "BatchNorm + PACT" in table
    succeed("train", "--data", folder / "data", "--out", tmp_path / "full", *TINY, "--split", 1, "--no-batch-norm")
    full = succeed("inspect", tmp_path / "full")
    assert {layer["form"] for layer in full["layers"]} == {"32-bit"}
    assert full["packed_bytes"] is None
    assert full["operations"] == {"32-bit add": 8, "comparison": 20, "32-bit multiply-add": 96 + 20 + 8}
    gmf = ["--model", "gmf", "--binarize-embeddings"]
    succeed("train", "--data", folder / "data", "--out", tmp_path / "gmf", *TINY, *gmf)
    assert [layer["bits"] for layer in succeed("inspect", tmp_path / "gmf")["layers"]] == [1, 1, 32]
    report = succeed("pack", tmp_path / "gmf", "--out", tmp_path / "gmf.packed")
    assert report["compared_bits"] > 0
    assert [layer["form"] for layer in succeed("inspect", tmp_path / "gmf.packed")["layers"]][:2] == ["packed"] * 2


def test_full_precision_is_latent_bytes(folder: Path) -> None:
    """Bytes at 32 bits are those of the model file's own tensors, scales and counters apart."""
    from ppt_core.runs.checkpoint import load_tensors

    tensors, _ = load_tensors(folder / "run" / "model.safetensors")
    kept = [tensor for name, tensor in tensors.items() if not name.endswith(("scale", "num_batches_tracked"))]
    assert succeed("inspect", folder / "run")["latent_bytes"] == sum(4 * tensor.numel() for tensor in kept)


def test_vectors_and_graphs_of_a_run(folder: Path, tmp_path: Path) -> None:
    run = folder / "run"
    document = succeed("export-embeddings", run, "--out", tmp_path / "vectors", "--format", "safetensors", "--verify")
    assert set(document["verification"]) == {"product", "similarity"}
    text = call("export-embeddings", run, "--out", tmp_path / "again", "--verify").stdout
    assert "by similarity: of the network's top 10" in text
    lists = ["recommend", run, "--user", 1, "-k", 3]
    assert succeed(*lists, "--candidates", tmp_path / "vectors", "--rerank", 150) == succeed(*lists)
    packed = ["recommend", folder / "packed", "--data", folder / "data", "--user", 1, "-k", 3]
    by_bits = succeed(*packed)
    assert succeed(*packed, "--candidates", tmp_path / "vectors", "--rerank", 150) == by_bits
    items = [answer["recommendations"][0]["item_ids"] for answer in (succeed(*lists), by_bits)]
    assert items[0] == items[1]
    assert "--rerank is 2; it must be at least" in fail(
        *lists, "--candidates", tmp_path / "vectors", "--rerank", 2, code=2
    )
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    assert succeed("export-onnx", run, "--out", tmp_path / "run.onnx")["largest_difference"] <= 1e-5
    assert "than in PyTorch" in call("export-onnx", run, "--out", tmp_path / "b.onnx").stdout
