"""Starting from a finished run on other data: what is taken over, by original ids, and what is not."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ncf_ppt
from cli import main
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.continuation import Continuation, continue_from
from ncf_ppt.model import NCF, NCFConfig
from ncf_ppt.row_adam import RowEmbedding
from ncf_ppt.trained import TrainedNCF
from ncf_ppt.two_tower import TwoTower
from ppt_core.errors import DataError
from ppt_core.runs.run import Run
from tests.command_line import CommandLine

SMALL: dict[str, Any] = {"factors": 4, "layers": (8, 8, 8, 4), "epochs": 1, "batch_size": 512, "split": 0.5}
PROGRAM = CommandLine(main)


@pytest.fixture(scope="module")
def last_week(tiny_data: PreparedData) -> TrainedNCF:
    return ncf_ppt.fit(tiny_data, **SMALL)


@pytest.fixture(scope="module")
def next_week(tiny_data: PreparedData) -> PreparedData:
    """The same interactions by ids of which every third user and every fifth item is a new one."""
    users, items = tiny_data.user_ids[::-1].copy(), tiny_data.item_ids[::-1].copy()
    users[::3] += 1000
    items[::5] += 1000
    return replace(tiny_data, user_ids=users, item_ids=items)


def test_rows_go_by_their_ids_and_layers_whole(
    last_week: TrainedNCF, next_week: PreparedData, tiny_data: PreparedData
) -> None:
    model = NCF(120, 150, NCFConfig(factors=4, layers=(8, 8, 8, 4)), seed=5)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = continue_from(last_week, model, next_week)
    assert report.users == {"taken": 80, "fresh": 40, "left": 40}
    assert report.items == {"taken": 120, "fresh": 30, "left": 30}
    assert report.tables == ("gmf_user", "gmf_item", "mlp_user", "mlp_item")
    assert report.fresh == {}
    learned = last_week.network.state_dict()
    for name, tensor in model.state_dict().items():
        if not name.endswith(("user.weight", "item.weight")):
            assert name in report.layers
            assert torch.equal(tensor, learned[name])
            continue
        own, old = ((data.user_ids if "user" in name else data.item_ids).tolist() for data in (next_week, tiny_data))
        for row, each in enumerate(own):
            expected = learned[name][old.index(each)] if each in old else initial[name][row]
            assert torch.equal(tensor[row], expected)
    assert Continuation.from_dict(report.to_dict()) == report


def test_ids_of_another_type_are_the_same_ids(last_week: TrainedNCF, tiny_data: PreparedData) -> None:
    texts = replace(tiny_data, user_ids=np.array([str(each) for each in tiny_data.user_ids], object))
    model = NCF(120, 150, NCFConfig(factors=4, layers=(8, 8, 8, 4)), seed=5)
    assert continue_from(last_week, model, texts).users == {"taken": 120, "fresh": 0, "left": 0}


def test_other_shapes_start_fresh_and_are_named(last_week: TrainedNCF, tiny_data: PreparedData) -> None:
    deeper = NCF(120, 150, NCFConfig(factors=4, layers=(8, 8, 16, 4)), seed=5)
    report = continue_from(last_week, deeper, tiny_data)
    assert report.tables == ("gmf_user", "gmf_item", "mlp_user", "mlp_item")
    assert "first.weight" in report.layers
    assert report.fresh["mlp.1.weight"] == "its shape is (16, 8), and (8, 8) in the run"
    wider = NCF(120, 150, NCFConfig(factors=6, layers=(8, 8, 8, 4)), seed=5)
    report = continue_from(last_week, wider, tiny_data)
    assert report.tables == ("mlp_user", "mlp_item")
    assert report.fresh["gmf_user"] == "its shape is 6 a row, and 4 a row in the run"
    assert "gmf_user starts fresh: its shape is 6 a row, and 4 a row in the run" in list(report.lines())
    other = NCF(120, 150, NCFConfig(model="gmf", factors=6), seed=5)
    with pytest.raises(DataError, match=r"no row of .* fits this network \(gmf_item: its shape is 6 a row") as caught:
        continue_from(last_week, other, tiny_data)
    assert "\n" not in str(caught.value)


def test_two_towers(checkerboard: PreparedData) -> None:
    settings: dict[str, Any] = {"recipe": "warm", "factors": 4, "layers": (8, 8), "epochs": 1, "batch_size": 256}
    source = ncf_ppt.fit(checkerboard, **settings)
    again = ncf_ppt.fit(checkerboard, init=source, **settings)
    assert isinstance(again.network, TwoTower)
    init = again.result.metrics["init"]
    assert init["tables"] == ["recent", "item", "item_bias"]
    assert (init["users"], init["items"]["fresh"]) == (None, 0)  # a user has no row
    levels = [name for name, reason in init["fresh"].items() if reason == "it is set where the network becomes 1-bit"]
    assert sorted(levels) == [name for name in sorted(again.network.state_dict()) if name.endswith(("alpha", "scale"))]
    assert levels
    assert not any(line.startswith("users") for line in Continuation.from_dict(init).lines())
    assert [phase.precision for phase in source.result.training.phases] == ["als", "low"]
    assert [phase.precision for phase in again.result.training.phases] == ["low"]
    assert len([each for each in again.network.modules() if isinstance(each, RowEmbedding)]) == 3


def test_it_is_recorded_and_resumed_to_the_same_bytes(
    last_week: TrainedNCF, next_week: PreparedData, tmp_path: Path
) -> None:
    data = next_week.save(tmp_path / "data")
    whole = ncf_ppt.fit(data, out=tmp_path / "whole", init=last_week, **SMALL)
    record = Run.open(tmp_path / "whole").config.groups["init"]
    assert record == whole.result.metrics["init"]
    assert record["users"] == {"taken": 80, "fresh": 40, "left": 40}
    network, training = NCFConfig(factors=4, layers=(8, 8, 8, 4)), ncf_ppt.NCFTrainingConfig(batch_size=512, epochs=1)
    steps = ncf_ppt.fit_steps(data, tmp_path / "half", network, training, init=last_week, checkpoint_seconds=0)
    for _ in itertools.islice(steps, 5):
        pass
    steps.close()  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="half was started from the network, and not without it; to resume"):
        ncf_ppt.fit(data, out=tmp_path / "half", resume=True, **SMALL)
    other = ncf_ppt.fit(data, **SMALL)
    with pytest.raises(DataError, match="half was started from the network, and not from the network as it"):
        ncf_ppt.fit(data, out=tmp_path / "half", resume=True, init=other, **SMALL)
    ncf_ppt.fit(data, out=tmp_path / "half", resume=True, init=last_week, **SMALL)
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "half")]
    assert models[0] == models[1]
    assert (
        models[0]
        != (ncf_ppt.fit(data, out=tmp_path / "fresh", **SMALL), tmp_path / "fresh/model.safetensors")[1].read_bytes()
    )


def test_the_command(tiny_data: PreparedData, next_week: PreparedData, tmp_path: Path) -> None:
    ncf_ppt.fit(tiny_data.save(tmp_path / "data"), out=tmp_path / "run", **SMALL)
    next_week.save(tmp_path / "next")
    shape = ["--factors", "4", "--layers", "8,8,8,4", "--epochs", "1", "--batch-size", "512"]
    command = ["train", "--data", tmp_path / "next", "--init", tmp_path / "run", *shape]
    result = PROGRAM.call(*command, "--out", tmp_path / "next-run")
    assert f"users: 80 taken from {tmp_path / 'run'}, 40 start fresh, 40 of {tmp_path / 'run'} are not" in result.stderr
    document = PROGRAM.succeed(*command, "--out", tmp_path / "again")
    assert document["init"]["items"] == {"taken": 120, "fresh": 30, "left": 30}
    assert "two starts; leave one out" in PROGRAM.fail(*command, "--warm-start", "als", code=2)
    assert "no row of" in PROGRAM.fail(
        *command[:-6], "--model", "gmf", "--split", 1, "--factors", 9, "--out", tmp_path / "x"
    )
    assert "is not a run folder" in PROGRAM.fail("train", "--init", tmp_path / "data", "--out", tmp_path / "x")
