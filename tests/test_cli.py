import errno
from pathlib import Path

import click
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from cli import main
from data_prep.ratings.interactions import PreparedData
from ppt_commands.group import CommandGroup
from tests import reference
from tests.command_line import CommandLine

TINY = ["--factors", "4", "--layers", "8,8,8,4", "--epochs", "1", "--batch-size", "512", "--learning-rate", "0.01"]


PROGRAM = CommandLine(main)
call, succeed, fail = PROGRAM.call, PROGRAM.succeed, PROGRAM.fail


@pytest.fixture(scope="module")
def folder(tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared set ``data`` and a finished run ``run``."""
    folder = tmp_path_factory.mktemp("cli")
    tiny_data.save(folder / "data")
    succeed("train", "--data", folder / "data", "--out", folder / "run", *TINY)
    return folder


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    """Ratings of 40 users with ids from 100, as a csv file."""
    rng = np.random.default_rng(0)
    lines = ["userId,movieId,rating,timestamp"]
    for user in range(100, 140):
        lines += [f"{user},{item},5,{time}" for time, item in enumerate(rng.permutation(60)[:25])]
    path = tmp_path / "ratings.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_help_and_an_example(name: str) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"ppt-ncf {name}" in result.output
    command = main.commands[name]
    assert isinstance(command, click.Command)
    assert all(option.help for option in command.params if isinstance(option, click.Option)), "an option without help"


def test_help_says_what_to_type_first() -> None:
    assert "ppt-ncf train --split 0.5" in call("--help").output


def test_prepare(ratings: Path, tmp_path: Path) -> None:
    document = succeed("prepare", ratings, "--out", tmp_path / "data", "--negatives", 30)
    assert document["n_users"] == 40
    assert document["protocol"] == "leave-one-out, 30 negatives, strict"
    assert document["manifest"]["source"]["sha256"]
    text = call("prepare", ratings, "--out", tmp_path / "again", "--negatives", 30, "--protocol", "mlperf").stdout
    assert "40 users x 60 items" in text
    assert "not the published ones" not in text
    copy = call("prepare", "ml-100k", "--source", ratings, "--out", tmp_path / "copy", "--negatives", 30).stdout
    assert "the bytes are not the published ones" in copy
    assert "mlperf" in text


def test_a_run_from_ratings_to_vectors(folder: Path) -> None:
    metrics = succeed("evaluate", folder / "run", "--per-user", folder / "ranks.parquet", "-k", 5)
    assert metrics["k"] == 5
    for key in ("hit_ratio", "ndcg", "n_users", "n_negatives", "ranking", "engine", "iterations", "epochs", "seconds",
                "split", "phases", "seed", "protocol"):  # fmt: skip
        assert key in metrics
    ranks = pq.read_table(folder / "ranks.parquet")
    assert np.mean(ranks["rank"].to_numpy() < 5) == metrics["hit_ratio"]

    lists = succeed("recommend", folder / "run", "--user", "1", "--user", "7", "-k", 3)["recommendations"]
    assert [each["user_id"] for each in lists] == [1, 7]
    assert all(len(each["item_ids"]) == 3 for each in lists)
    (folder / "users.txt").write_text("1\n\n7\n")
    assert succeed("recommend", folder / "run", "--users", folder / "users.txt", "-k", 3)["recommendations"] == lists
    succeed("recommend", folder / "run", "--all", "--out", folder / "lists.parquet")
    assert len(pq.read_table(folder / "lists.parquet")) == 120 * 10
    assert "popular" in call("recommend", folder / "run", "--user", "999", "--new-users", "popular").stderr

    for file_format, dtype in (("parquet", "float32"), ("npy", "binary")):
        out = folder / f"vectors-{file_format}"
        document = succeed("export-embeddings", folder / "run", "--out", out, "--format", file_format, "--dtype", dtype)
        assert document["n_users"] == 120
        assert (out / "manifest.json").exists()


def test_the_packed_engine_answers_like_the_network(folder: Path) -> None:
    document = succeed("pack", folder / "run", "--out", folder / "network.packed")
    assert document["compared_bits"] > 0
    assert document["bytes"] == (folder / "network.packed").stat().st_size
    assert "already exists" in fail("pack", folder / "run", "--out", folder / "network.packed")
    for ranking in ("sampled", "full"):
        answers = [
            succeed("evaluate", folder / "run", "--ranking", ranking, "--engine", engine)
            for engine in ("torch", "packed")
        ]
        assert [answer.pop("engine") for answer in answers] == ["torch", "packed"]
        assert answers[0] == answers[1]
        assert ("mrr" in answers[0]) == (ranking == "full")
    lists = [succeed("recommend", folder / "run", "--all", "--engine", engine) for engine in ("torch", "packed")]
    items = [[entry["item_ids"] for entry in answer["recommendations"]] for answer in lists]
    assert items[0] == items[1]


@pytest.mark.parametrize("name", ["popular", "item-knn", "als", "bpr", "recent-item-knn", "markov"])
def test_baselines_answer_like_evaluate(folder: Path, name: str) -> None:
    document = succeed("baseline", name, "--data", folder / "data")
    evaluated = succeed("evaluate", folder / "run")
    for key in ("hit_ratio", "ndcg", "expected_hit_ratio", "tie_rate", "k", "n_users", "n_negatives", "protocol"):
        assert key in document
        assert key in evaluated
    chance = reference.guessed_hit_ratio(document["n_negatives"])
    assert reference.above_chance(document["hit_ratio"] * document["n_users"], document["n_users"], chance)
    full = succeed("baseline", name, "--data", folder / "data", "--ranking", "full")
    assert full["protocol"] != document["protocol"]
    assert full["hit_ratio"] <= document["hit_ratio"]


def test_train_prints_the_protocol_and_the_popularity_baseline(folder: Path, tmp_path: Path) -> None:
    result = call("train", "--data", folder / "data", "--out", tmp_path / "run", *TINY, "--threshold", 0.99)
    assert result.exit_code == 0, result.output
    assert "[leave-one-out, 50 negatives, strict; ties lost]" in result.stdout
    assert "popularity" in result.stdout
    assert "threshold 0.99 on the test set (MLPerf's rule): not reached" in result.stdout
    again = succeed(
        "train", "--data", folder / "data", "--out", tmp_path / "run", *TINY, "--threshold", 0.99, "--resume"
    )
    assert again["run"] == str(tmp_path / "run")


def test_data_that_moved_are_found_again(folder: Path, tmp_path: Path, tiny_data: PreparedData) -> None:
    tiny_data.save(tmp_path / "old")
    trained = succeed("train", "--data", tmp_path / "old", "--out", tmp_path / "run", *TINY)
    (tmp_path / "old").rename(tmp_path / "new")
    assert "is gone; say where it is now with --data" in fail("evaluate", tmp_path / "run")
    assert succeed("evaluate", tmp_path / "run", "--data", tmp_path / "new")["hit_ratio"] == trained["hit_ratio"]


def test_errors_are_one_line(folder: Path, ratings: Path, tmp_path: Path) -> None:
    data, run = folder / "data", folder / "run"
    assert "neither a file nor" in fail("prepare", tmp_path / "no-such.csv", "--out", tmp_path / "x")
    assert "neither a file nor a known data set" in fail("prepare", "ml-2m", "--out", tmp_path / "x")
    assert "already exists" in fail("prepare", ratings, "--out", data)
    assert "999 are needed" in fail("prepare", ratings, "--out", tmp_path / "x")
    assert "no user has at least 26 ratings" in fail("prepare", ratings, "--out", tmp_path / "x", "--min-ratings", 26)
    assert "--negatives is 0" in fail("prepare", ratings, "--out", tmp_path / "x", "--negatives", 0, code=2)
    assert "split is 1.5; it must be between" in fail("train", "--data", data, "--out", tmp_path / "x", "--split", 1.5,
                                                        code=2)  # fmt: skip
    assert "--layers is 'a,b'" in fail("train", "--data", data, "--layers", "a,b", "--out", tmp_path / "x", code=2)
    assert "already exists" in fail("train", "--data", data, "--out", run)
    assert "--resume needs --out" in fail("train", "--resume")
    assert "is not a folder" in fail("train", "--data", tmp_path / "none", "--out", tmp_path / "x")
    assert "--binarize-embeddings has no effect" in fail(
        "train", "--data", data, "--split", 1, "--binarize-embeddings", "--out", tmp_path / "x", code=2
    )
    assert "--rerank is 5 without --candidates" in fail("recommend", run, "--user", 1, "--rerank", 5, code=2)
    for value in ("inf", "nan", "0"):
        done = call("evaluate", run, "--memory", value)
        assert done.exit_code == 2
        assert f"{value} is not a number of MB above 0" in done.stderr
    (tmp_path / "users.txt").write_bytes("1".encode("utf-16"))
    assert "users.txt is not UTF-8 text" in fail("recommend", run, "--users", tmp_path / "users.txt")
    assert "not a run folder" in fail("evaluate", data)
    assert "user '999' is unknown" in fail("recommend", run, "--user", "999").replace("user 999", "user '999'")
    assert "name the users by one of" in fail("recommend", run)
    assert "already exists" in fail("export-embeddings", run, "--out", data)
    assert "already exists" in fail("evaluate", run, "--per-user", ratings)
    (tmp_path / "empty.csv").write_text("")
    assert "is empty" in fail("prepare", tmp_path / "empty.csv", "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_file_of_users_may_begin_with_a_byte_order_mark(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_bytes("1\n2\n".encode("utf-8-sig"))
    document = succeed("recommend", folder / "run", "--users", tmp_path / "users.txt")
    assert [entry["user_id"] for entry in document["recommendations"]] == [1, 2]


def test_ranks_in_the_whole_catalogue_are_labelled_so(folder: Path, tmp_path: Path) -> None:
    for command in (("evaluate", folder / "run"), ("baseline", "popular", "--data", folder / "data")):
        path = tmp_path / f"{command[0]}.parquet"
        metrics = succeed(*command, "--ranking", "full", "--per-user", path)
        assert "whole catalogue" in metrics["protocol"]
        assert pq.read_schema(path).metadata[b"protocol"].decode() == metrics["protocol"]


def test_a_reader_that_has_enough_is_no_error() -> None:
    """As in `ppt-ncf recommend run --all | head`."""
    group = CommandGroup("ppt-ncf")

    @group.command()
    def say() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    done = CliRunner().invoke(group, ["say"])
    assert (done.exit_code, done.output) == (1, "")


def test_an_unfinished_run_says_how_to_go_on(folder: Path, tmp_path: Path) -> None:
    from ncf_ppt.model import NCFConfig
    from ncf_ppt.training import fit_steps
    from ncf_ppt.training_config import NCFTrainingConfig

    steps = fit_steps(
        PreparedData.load(folder / "data"), tmp_path / "run", NCFConfig(layers=(8, 8, 8, 4)), NCFTrainingConfig()
    )
    next(steps)
    assert "has not finished training" in fail("evaluate", tmp_path / "run")
