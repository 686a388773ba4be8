"""`ppt-ncf train --recipe` and `ppt-ncf recommend --history`."""

import json
from pathlib import Path

import pytest

from data_prep.ratings.interactions import PreparedData
from ppt_commands.programs import main
from tests.command_line import CommandLine

NCF = CommandLine(main)

SMALL = ["--factors", "6", "--layers", "8,8", "--epochs", "1", "--batch-size", "128", "--train-negatives", "16"]


@pytest.fixture(scope="module")
def folder(tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    tiny_data.save(folder / "data")
    options = ["--data", str(folder / "data"), "--recipe", "warm", *SMALL, "--als-alpha", "2", "--eval-every", "0"]
    NCF.succeed("train", *options, "--out", folder / "run")
    return folder


def test_a_run_says_what_its_recipe_came_to(folder: Path) -> None:
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["model"] == {
        "model": "two-tower", "factors": 6, "layers": [8, 8], "n_recent": 20, "batch_norm": True
    }  # fmt: skip
    assert config["training"]["warm_start"] == {"regularization": 30.0, "alpha": 2.0, "iterations": 15}
    assert config["training"]["learning_rate"] == 5e-3


def test_every_command_takes_the_run(folder: Path, tmp_path: Path) -> None:
    run = str(folder / "run")
    assert NCF.succeed("evaluate", run, "--ranking", "full")["n_users"] > 0
    NCF.succeed("export-embeddings", run, "--out", tmp_path / "vectors", "--verify")
    NCF.succeed("inspect", run)
    NCF.succeed("pack", run, "--out", tmp_path / "file")
    assert NCF.succeed("evaluate", tmp_path / "file", "--data", folder / "data")["engine"] == "packed"


def test_somebody_new_gets_a_list_from_a_history(folder: Path, tmp_path: Path) -> None:
    data = PreparedData.load(folder / "data")
    items = data.item_ids[:6].tolist()
    rows = [("new", item, place) for place, item in enumerate(items)] + [("other", items[0], 3), ("other", "?", 4)]
    file = tmp_path / "people.csv"
    file.write_text("user,item,time\n" + "".join(f"{user},{item},{time}\n" for user, item, time in rows))
    found = NCF.succeed("recommend", folder / "run", "--history", file, "-k", "4")
    lists = {entry["user_id"]: entry["item_ids"] for entry in found["recommendations"]}
    assert sorted(lists) == ["new", "other"]
    assert not set(lists["new"]) & set(items)
    one = NCF.succeed("recommend", folder / "run", "--history", file, "-k", "4", "--user", "new")
    assert one["recommendations"][0]["item_ids"] == lists["new"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--recipe", "warm", "--optimizer", "adam"],
            "no setting 'optimizer' for a two-tower network; leave it out",
        ),
        (["--recipe", "warm", "--warm-start", "none", "--als-alpha", "2"], "--als-alpha is a setting of --warm-start"),
        (["--als-alpha", "2"], "--als-alpha is a setting of --warm-start als; give that, too"),
    ],
)
def test_what_does_not_fit_the_recipe(tmp_path: Path, options: list[str], message: str) -> None:
    assert message in NCF.fail("train", *options, "--out", tmp_path / "run", code=2)
    assert not (tmp_path / "run").exists()
