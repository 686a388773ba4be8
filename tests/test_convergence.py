"""Epochs to a target, over seeds."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.ratings.interactions import PreparedData
from ppt_commands.programs import main
from ppt_core.runs.run import Run
from ppt_core.study.convergence import Attempt, Convergence, trimmed_mean
from tests.command_line import CommandLine

NCF = CommandLine(main)
SMALL = ["--factors", "4", "--layers", "8,8,8,4", "--batch-size", "256"]


@given(st.lists(st.integers(1, 20), min_size=3, max_size=9))
def test_the_mean_leaves_out_the_best_and_the_worst(epochs: list[int]) -> None:
    kept = list(epochs)
    kept.remove(max(kept))
    kept.remove(min(kept))
    assert trimmed_mean(epochs) == pytest.approx(sum(kept) / len(kept))


def test_no_mean_of_fewer_than_three() -> None:
    assert [trimmed_mean(values) for values in ([], [1.0], [1.0, 2.0])] == [None] * 3


def test_only_what_reached_the_target_counts() -> None:
    epochs = {0: 7, 1: 20, 2: 6, 3: 9, 4: 8}
    attempts = tuple(
        Attempt(seed=seed, reached=count < 20, epochs=count, seconds=10.0 * count, accuracy=0.6)
        for seed, count in epochs.items()
    )
    found = Convergence(target=0.635, metric="HR@10", protocol="strict", attempts=attempts)
    assert (found.n_reached, found.epochs, found.seconds) == (4, 7.5, 75)
    text = repr(found)
    assert "reached by 4 of 5" in text
    assert "7.50 epochs, 75.0 s: the mean of the runs that reached the target without" in text
    few = Convergence(target=0.635, metric="HR@10", protocol="strict", attempts=attempts[:3])
    assert "three must reach the target" in repr(few)


def test_the_command_trains_until_the_target_and_goes_on(tiny_data: PreparedData, tmp_path: Path) -> None:
    tiny_data.save(tmp_path / "data")
    target = ["--", "--recipe", "mlperf", *SMALL, "--threshold", "0.01", "--epochs", "3"]

    def call(n_trials: int) -> Any:
        folders = ["--data", tmp_path / "data", "--out", tmp_path / "trials"]
        done = NCF.call("study", "target", *folders, "--trials", n_trials, "--json", *target)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    first = call(2)
    assert [(trial["seed"], trial["reached"], trial["epochs"]) for trial in first["trials"]] == [
        (0, True, 1),
        (1, True, 1),
    ]
    assert first["epochs_to_target"] is None
    result = Run.open(tmp_path / "trials" / "seed0").result()
    assert (first["trials"][0]["seconds"], first["trials"][0]["accuracy"]) == (
        result.seconds,
        result.metrics["hit_ratio"],
    )
    model = (tmp_path / "trials" / "seed0" / "model.safetensors").stat().st_mtime_ns
    again = call(3)
    assert (tmp_path / "trials" / "seed0" / "model.safetensors").stat().st_mtime_ns == model
    assert again["trials"][:2] == first["trials"]
    assert (again["n_reached"], again["epochs_to_target"]) == (3, 1)
    run = Run.open(tmp_path / "trials" / "seed2")
    assert (run.config.training["seed"], run.config.groups["model"]["batch_norm"]) == (2, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SMALL, "threshold is None and eval_every is 1; a target needs a threshold"),
        (["--recipe", "mlperf", "--seed", "3"], "--seed behind -- is for the study to choose"),
    ],
)
def test_what_has_no_target_is_refused(
    tiny_data: PreparedData, tmp_path: Path, options: list[str], message: str
) -> None:
    tiny_data.save(tmp_path / "data")
    call = ["study", "target", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "trials"), "--", *options]
    assert message in NCF.fail(*call, code=2)
    assert not (tmp_path / "trials").exists()
