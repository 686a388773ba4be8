import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from click import Command
from click.testing import CliRunner

from benchmarks import (
    als_settings,
    binary_embeddings,
    contention,
    conv,
    evaluate,
    hostile,
    noise,
    packed_images,
    prepare,
    prepare_rivals,
    quality,
    recipe,
    retrieval,
    scaling,
    score,
    serve,
    soak,
    speed_tables,
    swaps,
    time_to_quality,
    train_step,
    two_stage,
    vision_step,
)
from data_prep.images.synthetic import synthesize_images
from data_prep.ratings.any_source import prepare_source
from data_prep.ratings.interactions import PreparedData
from data_prep.ratings.prepare import prepare as prepare_ratings
from data_prep.ratings.synthetic import synthesize
from ncf_ppt.baselines import fit_baseline
from ncf_ppt.evaluation import evaluate as evaluate_scorer
from ncf_ppt.histories import histories_of
from ppt_core.threads import usable_cores


def run(command: Command, *arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def rows_of(output: str) -> Any:
    found = json.loads(output)
    assert {"command", "commit", "source", "processor", "cores", "threads", "versions"} == found["about"].keys()
    return found["rows"]


def test_quality_trains_what_is_missing_and_prints_the_table(tiny_data: PreparedData, tmp_path: Path) -> None:
    tiny_data.save(tmp_path / "data")
    tiny = ["--", "--factors", "4", "--layers", "8,8,8,4", "--batch-size", "512"]
    options = ["--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs"), "--seeds", "0"]
    table = run(quality.main, *options, "--epochs", "1,2", "--splits", "1", *tiny)
    assert "| full precision | 0." in table
    assert table.count("(1)") == 2
    model = tmp_path / "runs" / "split1-epochs2-seed0" / "model.safetensors"
    written = model.stat().st_mtime_ns
    rows = run(quality.main, *options, "--epochs", "1,2", "--splits", "1", "--json", *tiny).splitlines()
    assert [json.loads(row)["epochs"] for row in rows] == [1, 2]
    assert model.stat().st_mtime_ns == written


@pytest.mark.slow
def test_packed_images_are_timed_beside_the_same_network() -> None:
    pytest.importorskip("onnxruntime")
    options = ("--turns", "1", "--batch-sizes", "1,2", "--milliseconds", "0")
    found = rows_of(run(packed_images.main, *options, "--json"))
    assert [row["batch_size"] for row in found] == [1] * 5 + [2] * 5
    assert {row["row"]: row["packed_is_faster"] for row in found}["packed"] == 1
    assert all(
        row["images_per_second"] == pytest.approx(1e6 * row["batch_size"] / row["microseconds"]) for row in found
    )
    calls = packed_images.calls(1)
    calls["pytorch folded"] = calls["packed"]
    with pytest.raises(ValueError, match="pytorch folded gives other logits than pytorch"):
        packed_images.refuse_differences(calls, np.ones((1, 3, 32, 32), np.float32))


def test_train_step_goes_on_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert train_step.without_compiler(["stock", "ppt full fp32"]) == ["stock", "ppt full fp32"]
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert train_step.without_compiler(["stock", "compiled"]) == ["stock"]
    (tmp_path / "g++").write_text("#!/bin/sh\n")
    (tmp_path / "g++").chmod(0o755)
    assert train_step.without_compiler(["stock", "compiled"]) == ["stock", "compiled"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_the_compiled_network_trains_as_the_plain_one(tiny_data: PreparedData) -> None:
    if not train_step.without_compiler(["compiled"]):
        pytest.skip("no C++ compiler")
    weights = {}
    for row in ("stock", "compiled"):
        torch.manual_seed(0)
        model, step = train_step.make_stepper(row, tiny_data, 64)
        for _ in range(3):
            step()
        weights[row] = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    torch.testing.assert_close(weights["compiled"], weights["stock"], rtol=1e-3, atol=1e-4)


def test_train_step_prints_every_row() -> None:
    rows = "mlperf,fused,stock,ppt full fp32,ppt low fp32,ppt low bf16 grouped,ppt full fp32 recent"
    options = ["--scale", "0.002", "--turns", "1", "--steps", "1", "--batch-size", "64", "--no-memory", "--json"]
    results = rows_of(run(train_step.main, "--rows", rows, *options))
    assert [result["row"] for result in results] == rows.split(",")
    assert all(result["samples_per_second"] > 0 for result in results)
    assert {result["row"]: result["batch_size"] for result in results}["ppt low bf16 grouped"] == 60


@pytest.mark.slow
def test_time_to_quality_draws_curves_and_repeats_nothing(tiny_data: PreparedData, tmp_path: Path) -> None:
    tiny_data.save(tmp_path / "data")
    tiny = ["--", "--factors", "4", "--layers", "8,8,8,4", "--batch-size", "512", "--epochs", "0.5"]
    options = ["--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs"), "--plain-epochs", "1.5", "--json"]
    rows = ["plain PyTorch", "split 0.5", "from als with recent items", "als"]
    first = rows_of(run(time_to_quality.main, *options, "--rows", ",".join(rows[1:]), *tiny))
    assert [row["row"] for row in first] == rows[1:]
    found = rows_of(run(time_to_quality.main, *options, "--rows", ",".join(rows), *tiny))
    assert [row["row"] for row in found] == rows
    assert found[1:] == first
    for row in found:
        assert all(row["curves"])
        best = max(point["hit_ratio"] for curve in row["curves"] for point in curve)
        for wanted, seconds in row["seconds"].items():
            assert (seconds is not None) == (best >= float(wanted))
    assert "<svg" in (tmp_path / "runs" / "curves.svg").read_text("utf-8")
    assert time_to_quality.table(found).splitlines()[-1].startswith("| als | ")


def test_score_compares_every_row() -> None:
    tiny = ["--users", "200", "--items", "2100", "--turns", "1", "--calls", "1,3", "--no-million", "--json"]
    found = rows_of(run(score.main, *tiny))
    assert {(row["threads"], row["users"]) for row in found["throughput"]} == {
        (threads, users) for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1) for users in (1, 3)
    }
    assert {"fp32 folded", "packed", "inner product"} <= {row["row"] for row in found["throughput"]}
    assert found["latency"][0]["milliseconds"] > 0


def test_vision_step_prints_every_row() -> None:
    rows = "plain full,plain low,ppt full fp32,ppt low fp32"
    options = ["--images", "64", "--turns", "1", "--steps", "1", "--batch-size", "8", "--json"]
    results = rows_of(run(vision_step.main, "--rows", rows, *options))
    assert [result["row"] for result in results] == rows.split(",")
    assert all(result["images_per_second"] > 0 for result in results)
    full, low = (result["images_per_second"] for result in results[:2])
    expected = [result["images_per_second"] / plain for result, plain in zip(results, (full, low) * 2, strict=True)]
    assert [result["against plain"] for result in results] == pytest.approx(expected)


@pytest.mark.slow
def test_evaluate_and_prepare_print_a_ratio() -> None:
    assert len(rows_of(run(evaluate.main, "--users", "131", "--turns", "1", "--json"))) == 4
    pytest.importorskip("polars")
    pytest.importorskip("duckdb")
    assert len(rows_of(run(prepare.main, "--scale", "0.002", "--json"))) == 5


@pytest.mark.filterwarnings("ignore::ppt_core.errors.DataWarning")  # of ties in time
@pytest.mark.parametrize("rival", list(prepare_rivals.RIVALS))
def test_rivals_prepare_what_this_project_does(rival: str, tmp_path: Path) -> None:
    pytest.importorskip(rival)
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 60, 2_000) ** 2 // 60 + 7, rng.integers(0, 300, 2_000) ** 2 // 300 * 3
    times = rng.integers(0, 40, 2_000)  # pairs repeat, and times within a user
    source = tmp_path / "ratings.csv"
    lines = [f"{user},{item},3.5,{time}" for user, item, time in zip(users, items, times, strict=True)]
    source.write_text("\n".join(["userId,movieId,rating,timestamp", *lines]))
    run(prepare_rivals.main, rival, str(source), str(tmp_path / "rival"), "--negatives", "9")
    expected = prepare_source(source, n_negatives=9, progress=False)
    found = {name: np.load(tmp_path / "rival" / f"{name}.npy") for name in ("test_items", "train_items", "offsets")}
    assert 5 < expected.n_users < 60
    np.testing.assert_array_equal(found["offsets"], expected.train.offsets)
    np.testing.assert_array_equal(found["test_items"], expected.test_items)
    np.testing.assert_array_equal(found["train_items"], histories_of(expected))
    negatives = np.load(tmp_path / "rival" / "test_negatives.npy")
    for user, row in enumerate(negatives.tolist()):
        own = found["train_items"][found["offsets"][user] : found["offsets"][user + 1]].tolist()
        assert not {*own, found["test_items"][user]} & set(row)
        assert len(set(row)) == 9


@pytest.mark.slow
def test_preparing_in_parts_is_measured_beside_its_limit(tmp_path: Path) -> None:
    limits = ["--memory", "500MB", "--small-memory", "500MB"]
    options = ["--rows", "40000", "--small", "30000", *limits, "--negatives", "9"]
    found = importlib.util.find_spec("duckdb") is not None
    options.append("--duckdb" if found else "--no-duckdb")
    # In a process of its own: what the system keeps of a child begins with what its parent has.
    command = [sys.executable, "-m", "benchmarks.prepare_large", *options, "--folder", str(tmp_path), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    rows = json.loads(done.stdout)["rows"]
    assert [row["rows"] for row in rows] == [30_000] * (2 + found) + [40_000]
    assert all(0 < row["peak MB"] < 500 for row in rows if "--memory" in row["row"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log-30000.csv", "log-40000.csv"]


def test_noise_is_compared_at_every_place(tmp_path: Path) -> None:
    synthesize_images(seed=0, n_train=16, n_test=10).save(tmp_path / "images")
    options = ["--data", str(tmp_path / "images"), "--images", "8", "--seeds", "1", "--json"]
    results = {(row["network"], row["precision"]): row["correlations"] for row in rows_of(run(noise.main, *options))}
    assert {key: len(values) for key, values in results.items()} == {
        ("vgg16", "full"): 14, ("vgg16", "low"): 14, ("resnet20", "full"): 10, ("resnet20", "low"): 10
    }  # fmt: skip
    # The first BatchNorm, or block, reads what has 32 bits in both; then 1-bit activations lose more.
    assert results["vgg16", "full"][0] == results["vgg16", "low"][0] > 0.9
    assert all(results["vgg16", "low"][place] < results["vgg16", "full"][place] for place in range(1, 13))


def test_a_correlation_is_that_of_numpy() -> None:
    one, other = torch.randn(2, 5, 1, 3, 2, generator=torch.Generator().manual_seed(0))
    both = torch.stack([one, one + other])
    centred = (both - both.mean()).flatten(1).numpy()
    expected = np.dot(*centred) / np.prod(np.linalg.norm(centred, axis=1))
    assert noise.correlation(one, one + other) == pytest.approx(expected)


def test_conv_prints_every_shape() -> None:
    results = rows_of(run(conv.main, "--turns", "1", "--batch-sizes", "1", "--json"))
    assert [result["channels"] for result in results] == [16, 32, 64]
    assert all(result["ratio"] > 0 for result in results)


def test_retrieval_prints_every_row() -> None:
    options = ["--users", "300", "--items", "500", "--turns", "1", "--threads", "1", "--json"]
    results = {row["row"]: row for row in json.loads(run(retrieval.main, *options))["rows"]}
    assert {"torch", "numpy", "implicit", "codes, 64 bits", "codes, 128 bits", "codes, 256 bits"} <= results.keys()
    assert max(results[row]["against_fastest_fp32"] for row in ("torch", "numpy", "implicit", "faiss")) == 1


def test_contention_trains(tiny_data: PreparedData, tmp_path: Path) -> None:
    tiny_data.save(tmp_path / "data")
    assert contention.train(str(tmp_path / "data"), None, 0, 0.1, 64, 0.5) > 0


@pytest.mark.slow
def test_contention_prints_every_cell() -> None:
    rows = rows_of(run(contention.main, "--neighbours", "0,1", "--turns", "1", "--seconds", "0.2", "--json"))
    assert [row["neighbours"] for row in rows] == [0, 0, 0, 1, 1, 1]
    assert [row["threads"] for row in rows[:3]] == ["1 thread", f"{usable_cores()} threads", "auto"]
    alone = max(row["samples_per_second"] for row in rows[:3])
    share = usable_cores() / (usable_cores() + 1)
    for row in rows[3:]:
        assert row["of_fair_share"] == pytest.approx(row["samples_per_second"] / alone / share)


def test_two_stage_measures_every_row() -> None:
    options = ["--scale", "0.02", "--turns", "1", "--users", "64", "--mlp-share", "0.02", "--recall", "0.5", "--json"]
    rows = rows_of(run(two_stage.main, *options))
    assert {row["row"] for row in rows} == {"packed", "product", "codes", "two stages"}
    assert all(row["users_per_second"] > 0 for row in rows)
    assert rows[-1]["candidates"]["recall"] >= 0.4


def test_recipe_measures_the_network_beside_als(tiny_data: PreparedData, tmp_path: Path) -> None:
    tiny_data.save(tmp_path / "data")
    options = ["--data", str(tmp_path / "data"), "--seeds", "0"]
    rows = [json.loads(line) for line in run(recipe.main, *options, "--json").splitlines()]
    assert [(row["what"], row["data"], row["n_users"]) for row in rows] == [
        ("recipe warm", "data", 120),
        ("ALS", "data", 120),
    ]
    assert all(0 <= row[key] <= 1 for row in rows for key in ("hit_ratio", "ndcg", "full_hit_ratio", "full_ndcg"))
    of_als = evaluate_scorer(fit_baseline("als", tiny_data), tiny_data)
    assert rows[1]["hit_ratio"] == of_als.hit_ratio()
    line = recipe.table(rows).splitlines()[3]
    assert line.startswith(f"| data | ALS | {rows[1]['hit_ratio']:.3f} [{rows[1]['hit_ratio']:.3f}, ")


def test_als_at_its_best_is_chosen_on_validation_items(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is taken is the best of the grid, in which one has too much regularization to learn at all."""
    monkeypatch.setattr(als_settings, "FACTORS", (2, 8))
    monkeypatch.setattr(als_settings, "REGULARIZATIONS", (1.0, 1e6))
    monkeypatch.setattr(als_settings, "ALPHAS", (5.0,))
    data = prepare_ratings(
        synthesize(60, 80, 1500, seed=3), n_negatives=20, validation=True, source={"name": "synthetic"}
    )
    data.save(tmp_path / "data")
    options = ["--validation", str(tmp_path / "data"), "--data", str(tmp_path / "data"), "--seeds", "0"]
    rows = [json.loads(line) for line in run(als_settings.main, *options, "--json").splitlines()]
    assert [row["what"] for row in rows] == ["ALS at its best", "recipe warm from it"]
    assert {row["settings"]["regularization"] for row in rows} == {1.0}


def test_binary_embeddings_keep_most_in_fewer_bytes(tiny_data: PreparedData, tmp_path: Path) -> None:
    tiny_data.save(tmp_path / "data")
    options = ["--data", str(tmp_path / "data"), "--factors", "16", "--bits", "64", "--seeds", "0", "--json"]
    (row,) = map(json.loads, run(binary_embeddings.main, *options).splitlines())
    assert 0.8 < row["kept"] == row["bits_hit_ratio"] / row["full"]
    assert row["full"] > 0.3  # a fifth would be chance
    n_rows = tiny_data.n_users + tiny_data.n_items
    assert row["full_bytes"] == n_rows * 16 * 4
    assert n_rows * 64 / 8 < row["packed_bytes"] < row["full_bytes"]


def test_recipe_leaves_users_out_whole(tiny_data: PreparedData, tmp_path: Path) -> None:
    chosen = np.arange(120) % 5 == 0
    some = recipe.of_users(tiny_data, chosen)
    assert some.n_users == 24
    for number, user in enumerate(np.flatnonzero(chosen).tolist()):
        np.testing.assert_array_equal(some.train.items_of(number), tiny_data.train.items_of(user))
    assert some.history is not None
    assert len(some.history) == len(some.train)
    tiny_data.save(tmp_path / "data")
    options = ["--data", str(tmp_path / "data"), "--seeds", "3", "--held-out", "0.2", "--json"]
    rows = [json.loads(line) for line in run(recipe.main, *options).splitlines()]
    assert [row["what"] for row in rows] == ["from their histories alone", "trained with them"]
    assert rows[0]["n_users"] == rows[1]["n_users"] == int((np.random.default_rng(3).random(120) < 0.2).sum())


@pytest.mark.slow
def test_serve_asks_a_real_server(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = rows_of(run(serve.main, "--quick", "--rows", "packed; nothing", "--json"))
    monkeypatch.setattr(speed_tables, "measured", lambda _: measured)
    assert "| 600 | packed | " in speed_tables.over_http()
    rows = {row["row"]: row for row in measured}
    assert rows.keys() == {"packed", "nothing"}
    for row in rows.values():
        assert row["lost"] == []
        assert min(row["per_second"], row["half"]["per_second"], row["one_client"]["per_second"]) > 0
        assert 0 < row["full"]["p50_ms"] <= row["full"]["p99_ms"]
        assert min(process["pss"] for process in row["memory"]) > 0


@pytest.mark.slow
def test_serve_asks_every_rival() -> None:
    pytest.importorskip("fastapi")
    found = rows_of(run(serve.main, "--quick", "--json"))
    assert [row["row"] for row in found] == list(serve.ROWS)
    assert all(row["lost"] == [] and row["per_second"] > 0 for row in found)
    assert all(row["against"]["implicit"] > 0 for row in found)


@pytest.mark.parametrize("requests", [300, pytest.param(6000, marks=pytest.mark.slow)])
def test_hostile_requests_leave_a_server_as_it_was(requests: int) -> None:
    (found,) = rows_of(run(hostile.main, "--requests", str(requests), "--seed", str(requests), "--json"))
    assert found["requests"] >= requests * 0.9
    assert len(found["sent"]) == 8
    assert found["answers"]["400"] > 0
    assert found["log_lines"] > 0


@pytest.mark.parametrize(
    "received",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfour",
        b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nwhat: \x1b[31m\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nTraceback",
        b"oh",
    ],
)
def test_a_bad_answer_is_seen(received: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        hostile.read_answers(received)


def in_its_own_process(name: str, *arguments: str) -> list[dict[str, Any]]:
    """The rows of a benchmark that forks, which wants a process without threads of others."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, Any]] = rows_of(done.stdout)
    return found


FEW = ["prepare", "train --resume", "pack", "recommend --out .csv", "export-embeddings --format npy"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")
@pytest.mark.parametrize(
    ("kills", "only"), [(30, FEW), pytest.param(1000, [], marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_kills_lose_nothing(kills: int, only: list[str]) -> None:
    chosen = [word for name in only for word in ("--only", name)]
    fresh = "0" if only else "2"
    found = in_its_own_process("kills", "--kills", str(kills), "--fresh", fresh, "--seed", "1", *chosen)
    assert sum(row["kills"] for row in found) >= kills
    assert all(row["survived"] == row["kills"] and row["in_time"] > 0 for row in found)
    assert sum(row["left"] for row in found) > 0


READ = ["ratings: text", "ratings: gzip", "ratings: Parquet", "a prepared folder", "ids", "pairs", "titles"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")
@pytest.mark.parametrize(
    ("inputs", "commands", "only"),
    [(700, 16, READ), pytest.param(100_000, 1000, [], marks=pytest.mark.slow)],
    ids=["few", "all"],
)
def test_mutated_files_are_read_or_refused_in_a_line(inputs: int, commands: int, only: list[str]) -> None:
    chosen = [word for name in only for word in ("--only", name)]
    arguments = ("--inputs", str(inputs), "--commands", str(commands), "--seed", "1")
    found = in_its_own_process("fuzz", *arguments, *chosen)
    assert sum(row["readers"]["n"] for row in found) >= inputs
    assert sum(row["commands"]["n"] for row in found) >= commands
    assert all(row["readers"]["refused"] > 0 for row in found)


@pytest.mark.slow
def test_swaps_lose_nothing() -> None:
    rows = {row["row"]: row for row in rows_of(run(swaps.main, "--swaps", "2", "--restarts", "1", "--json"))}
    assert rows["swaps"]["n"] == 2
    assert all(row["lost"] == [] and row["answers"] > 0 for row in rows.values())


@pytest.mark.slow
def test_a_soak_tells_memory() -> None:
    rows = rows_of(run(soak.main, "--minutes", "0.05", "--json"))
    assert len(rows) == 10
    assert all(row["pss_mb"] > 0 and row["answers"] > 0 for row in rows)


@pytest.mark.slow
def test_tables_whole_and_dealt_out_are_trained_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "_LARGE", {"users": 300, "items": 90, "interactions": 5_000})
    rows = rows_of(run(scaling.main, "shards", "--json"))
    assert [(row["processes"], row["shard_embeddings"]) for row in rows] == [
        (1, False),
        (2, False),
        (2, True),
        (3, True),
    ]
    assert rows[1]["loss"] == rows[2]["loss"]
    assert all(len(row["peak_mb"]) == row["processes"] for row in rows)
    assert all(sent > 0 for row in rows for sent in row["bytes_per_step"])


def test_bytes_are_those_that_arrived_over_tcp() -> None:
    before = scaling.tcp_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        with sender, server.accept()[0] as receiver:
            sender.sendall(bytes(70_000))
            assert len(receiver.recv(70_000, socket.MSG_WAITALL)) == 70_000
            deadline = time.monotonic() + 10
            while scaling.tcp_bytes() - before < 70_000:  # what arrived is acknowledged within a moment
                assert time.monotonic() < deadline
            assert scaling.tcp_bytes() - before <= 70_002  # a connection's beginning counts as one
