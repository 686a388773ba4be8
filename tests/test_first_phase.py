"""A training that takes its first phase over from a run that is nothing else, as trials of a study do."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data_prep.ratings.interactions import PreparedData
from ncf_ppt.model import NCFConfig
from ncf_ppt.study import train
from ncf_ppt.training import fit_steps
from ncf_ppt.training_config import NCFTrainingConfig
from ncf_ppt.warm_start import ALSStart
from ppt_core.errors import DataError
from ppt_core.runs.files import read_json, write_json
from ppt_core.runs.fit import Progress
from ppt_core.runs.run import Run
from ppt_core.study.plan import Experiment, Places, PlannedStudy, StudyPlan
from ppt_core.study.running import FORMAT_VERSION, first_phase_of, run_trial
from ppt_core.study.trials import Trial
from tests.test_vision_training import NETWORK, prepared
from vision_ppt.training import VisionTrainingConfig
from vision_ppt.training import fit_steps as fit_images

NCF = NCFConfig(factors=4, layers=(8, 8, 8, 4))
SHORT = NCFTrainingConfig(iterations=8, batch_size=256, learning_rate=1e-2, eval_every=0)
PLACES = Places(threads=1)


def to_the_end(steps: Iterator[Progress]) -> None:
    for _ in steps:
        pass


def trained(path: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The network, and what was measured, without seconds."""
    times = ("seconds", "samples_per_second", "phases")
    lines = [{key: line[key] for key in line if key not in times} for line in Run.open(path).metrics()]
    return (path / "model.safetensors").read_bytes(), lines


def first_run(data: PreparedData, path: Path, config: NCFTrainingConfig = SHORT, model: NCFConfig = NCF) -> Run:
    to_the_end(fit_steps(data, path, model, replace(config, split=1, iterations=4)))
    return Run.open(path)


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (NCF, {"optimizer": "adam"}),
        (replace(NCF, binarize_embeddings=True), {}),
        (replace(NCF, n_recent=3), {"warm_start": ALSStart(), "eval_every": 0.02}),
    ],
)
def test_ends_with_the_same_bytes(
    tiny_data: PreparedData, tmp_path: Path, model: NCFConfig, changes: dict[str, Any]
) -> None:
    config = replace(SHORT, **changes)
    to_the_end(fit_steps(tiny_data, tmp_path / "whole", model, config))
    first = first_run(tiny_data, tmp_path / "first", config, model)
    to_the_end(fit_steps(tiny_data, tmp_path / "run", model, config, first_phase=first))
    run = Run.open(tmp_path / "run")
    network, lines = trained(run.path)
    expected, all_lines = trained(tmp_path / "whole")
    assert network == expected
    assert lines == [line for line in all_lines if line["iterations"] > 4]
    taken, done = first.result().training.phases, run.result().training.phases
    assert done[:-1] == taken
    assert (done[-1].precision, done[-1].iterations) == ("low", 4)
    assert run.result().seconds == pytest.approx(sum(phase.seconds for phase in done))
    assert run.config.first_phase == "first"
    assert Run.open(tmp_path / "whole").config.settings() == run.config.settings()
    log = (run.path / "mlperf.log").read_text()
    assert log.count('"run_start"') == log.count('"run_stop"') == 1
    assert log.count('"epoch_start"') == log.count('"epoch_stop"') == 1
    assert '"resumed"' not in log


def test_images_end_with_the_same_bytes(tmp_path: Path) -> None:
    data, config = prepared(), VisionTrainingConfig(iterations=8, batch_size=16, eval_every=0)
    to_the_end(fit_images(data, tmp_path / "whole", NETWORK, config))
    to_the_end(fit_images(data, tmp_path / "first", NETWORK, replace(config, split=1, iterations=4)))
    to_the_end(fit_images(data, tmp_path / "run", NETWORK, config, first_phase=Run.open(tmp_path / "first")))
    assert trained(tmp_path / "run") == trained(tmp_path / "whole")


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("checkpoint_seconds", [0, float("inf")])
def test_is_resumed(tiny_data: PreparedData, tmp_path: Path, n_steps: int, checkpoint_seconds: float) -> None:
    """From its checkpoint, or from the network that it took over if it has none yet."""
    to_the_end(fit_steps(tiny_data, tmp_path / "whole", NCF, SHORT))
    first = first_run(tiny_data, tmp_path / "first")
    steps = fit_steps(tiny_data, tmp_path / "run", NCF, SHORT, first_phase=first, checkpoint_seconds=checkpoint_seconds)
    for expected in range(5, 5 + n_steps):
        assert next(steps).iteration == expected
    steps.close()  # type: ignore[attr-defined]
    assert (tmp_path / "run" / "checkpoint.safetensors").exists() == (checkpoint_seconds == 0)
    rest = fit_steps(tiny_data, tmp_path / "run", NCF, SHORT, resume=True, first_phase=first)
    assert next(rest).iteration == (5 + n_steps if checkpoint_seconds == 0 else 5)
    to_the_end(rest)
    assert trained(tmp_path / "run") == trained(tmp_path / "whole")


def test_refuses_what_is_no_first_phase(tiny_data: PreparedData, tmp_path: Path) -> None:
    first = first_run(tiny_data, tmp_path / "first")

    def fails(error: type[Exception], match: str, **changes: Any) -> None:
        with pytest.raises(error, match=match):
            next(fit_steps(tiny_data, tmp_path / "run", NCF, replace(SHORT, **changes), first_phase=first))

    fails(DataError, "was trained with seed = 0, not 1", seed=1)
    fails(DataError, "ends with 4 iterations of full precision; the first phase has 5 of full", iterations=10)
    fails(ValueError, "would be the whole of a training of one phase", split=0.0)
    fails(ValueError, "would be the whole of a training of one phase", split=1.0, iterations=4)
    fails(DataError, "was trained with eval_every = 0, not 1", eval_every=1)
    fails(ValueError, "at_switch is keep; a first phase that was trained before leaves no moments", at_switch="keep")
    assert not (tmp_path / "run").exists()


def test_which_trial_is_a_first_phase() -> None:
    def found(full: float, low: float, iterations_per_epoch: int = 38, **changes: Any) -> Trial | None:
        return first_phase_of(NCFTrainingConfig(**changes), Trial(full=full, low=low, seed=3), iterations_per_epoch)

    assert found(2, 2) == found(2, 1) == Trial(full=2, low=0, seed=3)
    assert found(1, 0) is found(0, 1) is None
    assert found(2, 2, at_switch="keep") is None
    assert found(0.5, 0.5, 3) == Trial(full=0.5, low=0, seed=3)  # round(3 * .5) is 2 both times
    assert found(0.5, 1, 3) is None  # of 4 iterations a third are 1


def test_a_study_trains_a_phase_once(tiny_data: PreparedData, tmp_path: Path) -> None:
    tiny_data.save(tmp_path / "data")
    recipe = NCFTrainingConfig(batch_size=512)
    experiment = Experiment(
        partial(train, tmp_path / "data", NCF, "cpu"), recipe, ("hit_ratio", "HR@10"), {"device": "cpu"}
    )
    plan = StudyPlan(budgets=(0.2, 0.4), n_trials=1)
    planned = PlannedStudy(tmp_path / "study", plan, experiment)
    cost = planned.cost(PLACES)
    assert cost.full_iterations == pytest.approx((0.2 + 0.4 + 0.1) * planned.iterations_per_epoch)
    assert cost.low_iterations == pytest.approx((0.2 + 0.4 + 0.3) * planned.iterations_per_epoch)
    records = {progress.record["name"]: progress.record for progress in planned.run(PLACES)}
    begun_by_another = {name: record["first_phase"] for name, record in records.items() if record["first_phase"]}
    assert begun_by_another == {"full0.2-low0.2-seed0": "full0.2-low0-seed0"}
    assert records["full0.2-low0.2-seed0"]["phases"][0] == records["full0.2-low0-seed0"]["phases"][0]

    trial = Trial(full=0.2, low=0.2, seed=0)
    first = tmp_path / "study" / "trials" / "full0.2-low0-seed0"
    assert first == planned._open().first_phases([trial], recipe, planned.iterations_per_epoch)[trial.name]
    whole = run_trial(experiment.train, recipe, trial, tmp_path / "whole", 1)
    assert whole["first_phase"] is None
    assert trained(tmp_path / "whole") == trained(tmp_path / "study" / "trials" / trial.name)

    document = read_json(first / "trial.json", format_version=FORMAT_VERSION)
    write_json(first / "trial.json", {**document, "cpu": "another one"})
    elsewhere = run_trial(experiment.train, recipe, trial, tmp_path / "elsewhere", 1, first)
    assert elsewhere["first_phase"] is None
    assert json.loads((tmp_path / "elsewhere" / "trial.json").read_text())["first_phase"] is None
