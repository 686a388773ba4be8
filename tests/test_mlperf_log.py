"""The log of a run, by the compliance checker of mlperf-logging."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlperf_logging.compliance_checker import mlp_compliance, mlp_parser

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.model import NCFConfig
from ncf_ppt.training import fit_steps
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core.runs.run import Run

RULESET = "0.7.0"
STOCK = Path(mlp_compliance.__file__).parent / f"training_{RULESET}" / "common.yaml"
OURS = Path(__file__).parent.parent / "benchmarks" / "mlperf_ncf.yaml"


def steps(data: PreparedData, path: Path, *, started: float | None = None, **settings: Any) -> Iterator[Any]:
    resume = settings.pop("resume", False)
    recipe = {"epochs": 2, "batch_size": 256, "split": 1, "threshold": 0.01, **settings}
    network = NCFConfig(factors=4, layers=(8, 8, 8, 4))
    return fit_steps(
        data, path, network, NCFTrainingConfig(**recipe), resume=resume, checkpoint_seconds=0, started=started
    )


def train(data: PreparedData, path: Path, **settings: Any) -> list[dict[str, Any]]:
    """The events of a training."""
    for _ in steps(data, path, **settings):
        pass
    return events(path)


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in (path / "mlperf.log").read_text().splitlines()]


def complaints(path: Path, rules: Path) -> list[str]:
    """What the checker says by one file of rules, warnings included."""
    lines, errors = mlp_parser.parse_file(str(path / "mlperf.log"), ruleset=RULESET)
    assert not errors
    checker = mlp_compliance.make_checker("training", RULESET, quiet=False, werror=True)
    checker.configured_checks(lines, str(rules))
    mlp_compliance.enqueued_configs.clear()
    return [*checker.warnings.values(), *checker.overwritable.values(), *checker.not_overwritable]


def test_the_stock_rules_accept_all_but_the_name_of_the_benchmark(tiny_data: PreparedData, tmp_path: Path) -> None:
    """They know no NCF, so nobody's log of it can pass them."""
    train(tiny_data, tmp_path / "run")
    found = complaints(tmp_path / "run", STOCK)
    assert len(found) == 1
    assert "CHECK for 'submission_benchmark' failed" in found[0]
    assert complaints(tmp_path / "run", OURS) == []


def test_a_run_that_misses_the_target_fails(tiny_data: PreparedData, tmp_path: Path) -> None:
    train(tiny_data, tmp_path / "run", threshold=1.0)
    found = "\n".join(complaints(tmp_path / "run", OURS))
    assert "Failed checks for eval_accuracy" in found
    assert "v['metadata']['status'] == 'success'" in found


@pytest.mark.parametrize("length", [{"epochs": 1.5}, {"epochs": 2}, {"epochs": 2, "eval_every": 0.5}])
def test_epochs_count_from_one(tiny_data: PreparedData, tmp_path: Path, length: dict[str, float]) -> None:
    found = train(tiny_data, tmp_path / "run", threshold=None, split=0.5, **length)
    for key in ("epoch_start", "epoch_stop"):
        assert [event["metadata"]["epoch_num"] for event in found if event["key"] == key] == [1, 2]
    evaluated = [event["metadata"]["epoch_num"] for event in found if event["key"] == "eval_accuracy"]
    assert evaluated == [line["epochs"] for line in Run.open(tmp_path / "run").metrics()]
    assert [event["key"] for event in found].count("run_stop") == 1


@pytest.mark.parametrize("stop", [1, 20, 63])
def test_an_interrupted_run_has_one_start_and_loses_no_event(
    tiny_data: PreparedData, tmp_path: Path, stop: int
) -> None:
    whole = train(tiny_data, tmp_path / "whole", threshold=None)
    part = steps(tiny_data, tmp_path / "run", threshold=None)
    for _ in range(stop):
        next(part)
    del part
    resumed = train(tiny_data, tmp_path / "run", threshold=None, resume=True)
    without = [event for event in resumed if event["key"] != "resumed"]
    assert [(event["key"], event["value"]) for event in without] == [(event["key"], event["value"]) for event in whole]
    assert len(resumed) == len(without) + 1


def test_the_clock_runs_from_where_the_data_began_to_be_read(tiny_data: PreparedData, tmp_path: Path) -> None:
    started = time.time() - 60
    found = {event["key"]: event for event in train(tiny_data, tmp_path / "run", started=started)}
    assert found["run_start"]["time_ms"] == int(started * 1000)
    assert found["run_stop"]["time_ms"] - found["run_start"]["time_ms"] >= 60_000
    assert found["cache_clear"]["value"] is False
    assert found["eval_target"]["value"] == 0.01
