import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli import main
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.model import NCFConfig
from ncf_ppt.study import train
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core.drawings import COLORS, NARROW, to_svg
from ppt_core.errors import DataError
from ppt_core.runs.files import write_json
from ppt_core.study.curves import Cell, SpeedUp, Trials
from ppt_core.study.figures import diagonals, draw
from ppt_core.study.page import page
from ppt_core.study.plan import Experiment, Places, PlannedStudy, StudyPlan
from ppt_core.study.rates import Speed
from ppt_core.study.report import MethodCurve, MethodSpeedUp, Point, StudyReport
from ppt_core.study.running import probe, run_trial, step_seconds, trial_config
from ppt_core.study.several import StudiesReport
from ppt_core.study.several_page import page as several_page
from ppt_core.study.speed import _rate
from ppt_core.study.study import Study
from ppt_core.study.summary import method_speed_up, point_of, summarize
from ppt_core.study.trials import OF_A_TRIAL, TO_THE_END, Trial
from tests.test_curves import cell
from vision_ppt.training import VisionTrainingConfig

TINY = ["--", "--factors", "4", "--layers", "8,8,8,4", "--batch-size", "512", "--learning-rate", "0.01"]
TIMES = ("seconds", "samples_per_second", "phases", "resumed", "sha256", "cores", "threads")


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def lines(study: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (study / "results.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


@pytest.fixture(scope="module")
def data(tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "data"
    tiny_data.save(path)
    return path


@pytest.fixture(scope="module")
def study(data: Path) -> Path:
    """A finished study of two budgets."""
    path = data.parent / "study"
    options = ["--budgets", "1/2, 1", "--trials", 1, "--threads", 1, "--json"]
    done = call("study", "run", "--data", data, "--out", path, *options, *TINY)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["trials"] == {"finished": 6, "planned": 6}
    return path


def test_trials_say_what_and_where_they_were(study: Path, tiny_data: PreparedData) -> None:
    records = Study.open(study).records()
    assert len(records) == len({record["name"] for record in records}) == 6
    for record in records:
        assert [phase["precision"] for phase in record["phases"]] == [
            name for name in ("full", "low") if record[name] > 0
        ]
        assert record["epochs"] == pytest.approx(record["full"] + record["low"], rel=0.05)
        assert record["threads"] == 1
        assert record["protocol"] == tiny_data.protocol_label
        for key in ("version", "torch", "numba", "cpu", "wall_clock"):
            assert record[key]
        assert len((study / "trials" / record["name"] / "metrics.jsonl").read_text().splitlines()) == 1
    settings = Study.open(study).settings
    assert settings["model"]["factors"] == 4
    assert settings["data"]["sha256"]
    speed = Study.open(study).speed()
    assert speed is not None
    assert speed.slowdown == pytest.approx(speed.full / speed.low)
    assert speed.plain is not None
    assert len(speed.by_epoch["low"]) == len(speed.plain.by_epoch["low"]) == 5
    written = json.loads((study / "speed.json").read_text())
    assert speed.to_dict() == written
    del written["plain"]  # as older studies have it
    assert Speed.from_dict(written).to_dict() == written


def test_trials_start_from_als_and_read_recent_items(data: Path, tmp_path: Path) -> None:
    warm = ["--warm-start", "als", "--recent", "3"]
    options = ["--budgets", "0.5", "--trials", 1, "--threads", 1, "--json"]
    done = call("study", "run", "--data", data, "--out", tmp_path / "warm", *options, *TINY, *warm)
    assert done.exit_code == 0, done.output
    study = Study.open(tmp_path / "warm")
    assert study.settings["model"]["n_recent"] == 3
    for record in study.records():
        start, *phases = record["phases"]
        assert (start["precision"], start["iterations"]) == ("als", 0)
        assert start["seconds"] > 0
        assert [phase["precision"] for phase in phases] == [name for name in ("full", "low") if record[name] > 0]
    document = json.loads(call("study", "report", tmp_path / "warm", "--json").stdout)
    assert Path(document["report"]).is_dir()


@pytest.mark.parametrize(("seconds", "n_taken"), [(0.01, 40), (0.3, 17), (2.0, 10)])
def test_slow_iterations_are_measured_for_seconds(seconds: float, n_taken: int) -> None:
    """40 of them, or as many as take 5 s, but 10 at least; the first three are not counted."""
    taken = iter([9.0] * 3 + [seconds] * 100)
    assert _rate(taken, 40) == pytest.approx(1 / seconds)
    assert len(list(taken)) == 100 - n_taken


def test_finished_trials_are_never_run_again(study: Path, data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.glob("trials/*/*")}
    done = call("study", "run", "--data", data, "--out", study, "--budgets", "0.5,1", "--trials", 1, "--threads", 1,
                "--grid", "0.5", *TINY)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "0 trials to run" in done.stderr  # the grid's three cells are on the curves
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert Study.open(study).plan()["splits"] == [1, 0.5, 0]


def test_report(study: Path) -> None:
    document = json.loads(call("study", "report", study, "--json").stdout)
    folder = Path(document["report"])
    assert json.loads((folder / "report.json").read_text()).items() <= document.items()
    assert [curve["name"] for curve in document["curves"]] == [
        "full precision",
        "partial pre-training",
        "low precision",
    ]
    assert {entry["cost"] for entry in document["speed_ups"]} == {"iterations", "seconds", "plain_seconds"}
    page = (folder / "index.html").read_text()
    for name in ("figure1", "figure2"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / f"{name}.svg").read_text()
        assert f'id="{name}-wide-' in page
        assert f'id="{name}-narrow-' in page
    assert not re.search(r"""(src|href)=["'](?!#)""", page.replace('xlink:href="data:', "")), "it needs other files"
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)
    drawings = page[page.index("<svg") :]
    assert "var(--ppt)" in drawings
    assert COLORS["ppt"] not in drawings
    assert "currentColor" in drawings
    assert str(study.parent) not in page
    assert "path" not in document["settings"]["data"]
    text = call("study", "report", study)  # made anew
    assert "speed-up of partial pre-training over low precision, in iterations" in text.stdout
    assert "over low precision, in computed seconds of simulated layers" in text.stdout
    assert "iterations/s with layers simulated in plain PyTorch: full precision" in text.stdout
    assert "1-bit layers simulated in plain PyTorch" in page
    assert "already exists" in call("study", "report", study, "--out", folder).stderr
    (folder / "report.json").unlink()  # what was half when reports were made anew file by file
    assert call("study", "report", study).exit_code == 0
    assert (folder / "report.json").exists()
    (folder / "notes.txt").write_text("of somebody else")
    assert "already exists" in call("study", "report", study).stderr
    assert (folder / "notes.txt").exists()
    (folder / "notes.txt").unlink()


def test_a_report_is_a_value(study: Path) -> None:
    found = summarize(Study.open(study))
    rows = found.to_pandas()
    assert rows["median"].tolist() == [point.median for point in found.grid]
    assert rows["n_trials"].tolist() == [1] * 6
    assert repr(found).splitlines()[0].endswith("median (lowest-highest), 6 of 6 trials finished")
    assert "<table" in found._repr_html_()


def by_cell(trials: list[Trials]) -> dict[Cell, Trials]:
    """Cells of any epochs."""
    return {(0.5 * n, 0.5 * n): each for n, each in enumerate(trials, 1)}


def test_a_card_shows_what_its_speed_up_rests_on(study: Path) -> None:
    """Both the interval and the share of the accuracies, where curves begin above half of the best."""
    ppt = [cell(10, 0.6, 0.61, 0.62), cell(20, 0.8, 0.81, 0.82)]
    low = [cell(10, 0.3, 0.31, 0.32), cell(40, 0.8, 0.81, 0.82)]
    entry = method_speed_up(0.5, by_cell(ppt), by_cell(low), "iterations")
    assert entry.found.range_covered == pytest.approx((0.81 - 0.61) / (0.81 - 0.405))
    assert entry.resamples.interval is not None
    report = replace(summarize(Study.open(study)), speed_ups=(entry,))
    (card,) = re.findall(r'<div class="card"><b>[^/]*</b>speed-up.*?</div>', page(report, {}))
    assert "95% interval {:.2f} to {:.2f}; ".format(*entry.resamples.interval) in card
    assert "over accuracies from .610 to .810, the last both reach: 49% of the paper&#x27;s range" in card
    ppt, low = [cell(10, 0.6), cell(20, 0.8)], [cell(10, 0.3), cell(40, 0.8)]
    entry = method_speed_up(0.5, by_cell(ppt), by_cell(low), "iterations")
    assert "no interval: one trial at some budget; over accuracies from .600" in page(
        replace(report, speed_ups=(entry,)), {}
    )


def test_a_third_split_says_which_was_best(study: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "study")
    options = ["--budgets", "1", "--splits", "0.25", "--trials", 1, "--threads", 1]
    done = call("study", "run", "--data", data, "--out", tmp_path / "study", *options, *TINY)
    assert done.exit_code == 0, done.output
    document = json.loads(call("study", "report", tmp_path / "study", "--json").stdout)
    (found,) = document["splits"]
    medians = {cell["full"]: cell["median"] for cell in document["grid"] if cell["full"] + cell["low"] == 1}
    assert found["epochs"] == 1
    assert found["half"]["median"] == medians[0.5]
    assert found["best"]["median"] == medians[found["best"]["split"]] == max(medians[f] for f in (0, 0.25, 0.5))
    assert found["chosen_on"] == "test"
    assert "best split at 1 epochs, chosen on the test set: " in done.stdout
    drawn = (Path(document["report"]) / "index.html").read_text()
    assert "Which split was best" in drawn
    assert "The best is chosen by the test set" in drawn

    for path in (tmp_path / "study" / "trials").glob("*/trial.json"):
        record = json.loads(path.read_text())
        validation = {document["metric"]["key"]: 0.4 if record["full"] == 0 else 0.3}
        write_json(path, {**record, "validation": validation})
    again = call("study", "report", tmp_path / "study", "--json")
    (found,) = json.loads(again.stdout)["splits"]
    assert (found["chosen_on"], found["best"]["split"], found["best"]["median"]) == ("validation", 0, medians[0])
    assert "The best is chosen by the validation set" in (Path(document["report"]) / "index.html").read_text()


def test_a_study_that_has_just_begun_has_a_report(study: Path, tmp_path: Path) -> None:
    """Of one trial at low precision, and then of one that is on no curve."""
    path = tmp_path / "study"
    shutil.copytree(study, path)
    for trial in (path / "trials").iterdir():
        if trial.name != "full0-low0.5-seed0":
            shutil.rmtree(trial)
    document = json.loads(call("study", "report", path, "--json").stdout)
    assert [curve["name"] for curve in document["curves"]] == ["low precision"]
    assert document["speed_ups"] == []
    write_json(path / "plan.json", {**Study.open(path).plan(), "splits": [0.75]})
    done = call("study", "report", path)
    assert done.exit_code == 0, done.output
    assert "1 of 6 trials finished" in done.stdout
    assert sorted(file.name for file in (path / "report").iterdir()) == ["index.html", "report.json"]


def test_the_grid_and_its_diagonals_are_drawn(study: Path) -> None:
    def point(full: float, low: float) -> Point:
        value = 0.1 * full + 0.05 * low
        return point_of((full, low), cell(9, value - 0.01, value, value))

    grid = tuple(point(full, low) for full in range(4) for low in range(4) if full + low)
    report = replace(
        summarize(Study.open(study)), grid=grid, curves=(MethodCurve(split=1, points=grid[:3]),), metric={"title": "HR"}
    )
    assert list(diagonals(report)) == [2, 3]  # that of 1 has two ways, and beyond 3 one end is missing
    figures = draw(report, NARROW)
    assert list(figures) == ["figure1", "figure2", "figure3a", "figure3b"]
    drawing = to_svg(figures["figure3a"], "grid")
    assert ">.350<" in drawing  # of 2 + 3 epochs
    assert ">3 epochs<" in to_svg(figures["figure3b"], "diagonals")
    # Budgets 1, 2, 4, 8 of three splits overlap in some cells and are no grid.
    overlapping = [point(full * n, low * n) for n in (1, 2, 4, 8) for full, low in ((0, 1), (0.5, 0.5), (1, 0))]
    assert list(draw(replace(report, grid=tuple(overlapping)), NARROW)) == ["figure1", "figure2", "figure3b"]


def test_a_plan_from_python_costs_and_runs_what_is_missing(study: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "study")
    config = NCFTrainingConfig(batch_size=512, learning_rate=0.01)
    network = NCFConfig(factors=4, layers=(8, 8, 8, 4))
    found = Experiment(partial(train, data, network, "cpu"), config, ("hit_ratio", "HR@10"), {"device": "cpu"})
    plan = StudyPlan(budgets=(0.5, 1), n_trials=1, grid=(0.5,))
    planned = PlannedStudy(tmp_path / "study", plan, found)
    places = Places.of(None, 1, None, "cpu")
    cost = planned.cost(places)
    assert (cost.n_trials, cost.missing, cost.seconds) == (6, (), 0)
    assert repr(cost).startswith("6 trials, 0 to run: 0 full and 0 low iterations, about 0 s of training")
    assert list(planned.run(places)) == []
    shutil.rmtree(tmp_path / "study" / "trials" / "full0-low1-seed0")
    assert [trial.name for trial in planned.missing()] == ["full0-low1-seed0"]
    assert planned.cost(places).to_dict()["to_run"] == ["full0-low1-seed0"]
    assert [progress.record["name"] for progress in planned.run(places)] == ["full0-low1-seed0"]


def test_budgets_in_iterations_are_those_in_epochs(study: Path, data: Path) -> None:
    """An epoch has 38 iterations, so this is the study of 0.5 and 1 epochs, in which nothing is left to run."""
    options = ["--unit", "iterations", "--budgets", "19,38", "--trials", 1, "--threads", 1, "--dry-run", "--json"]
    document = json.loads(call("study", "run", "--data", data, "--out", study, *options, *TINY).stdout)
    assert (document["trials"], document["to_run"]) == (6, [])
    plan = StudyPlan(budgets=(7, 1000), grid=(3,), unit="iterations").in_epochs(38)
    assert (plan.budgets, plan.grid, plan.unit) == ((7 / 38, 1000 / 38), (3 / 38,), "epochs")
    assert plan.in_epochs(38) == plan
    for trial in plan.trials:  # what a name keeps of the epochs is still that iteration
        assert round(trial.epochs * 38) in (3, 6, 7, 1000)


def test_several_studies_stand_side_by_side(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "other")
    shutil.copytree(study, tmp_path / "third")
    done = call("study", "report", study, tmp_path / "other", tmp_path / "third", "--out", tmp_path / "all", "--json")
    document = json.loads(done.stdout)
    assert list(document["studies"]) == ["study", "other", "third"]
    assert json.loads((tmp_path / "all" / "report.json").read_text()).items() <= document.items()
    page = (tmp_path / "all" / "index.html").read_text()
    assert page.count("<svg ") == 4
    assert (tmp_path / "all" / "figure1.png").exists()
    for heading in (
        "Table 1. Settings",
        "Table 2. Iterations per second",
        "The numbers of other",
        "budgets, iterations",
    ):
        assert heading in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert str(tmp_path) not in page
    assert "--out names the new folder" in call("study", "report", study, tmp_path / "other").stderr
    assert "is named 2 times" in call("study", "report", study, study, "--out", tmp_path / "x").stderr
    shutil.copytree(study, tmp_path / "more" / "study")
    named = StudiesReport.of([str(study), str(tmp_path / "more" / "study")], [summarize(Study.open(study))] * 2)
    assert list(named.reports) == [str(study), str(tmp_path / "more" / "study")]


def test_the_mean_is_over_studies_that_all_have_a_factor(study: Path) -> None:
    report = summarize(Study.open(study))

    def with_factor(factor: float | None) -> StudyReport:
        entry = MethodSpeedUp(split=0.5, cost="iterations", found=SpeedUp(factor=factor, range_covered=0.4))
        return replace(report, speed_ups=(entry,))

    found = StudiesReport(reports={"a": with_factor(1.2), "b": with_factor(1.5)})
    assert found.mean_speed_up("iterations") == pytest.approx(1.35)
    assert found.mean_speed_up("seconds") is None
    assert "mean over 2 studies, in iterations: 1.35x" in repr(found)
    shown = several_page(found, {})
    assert "mean speed-up in iterations" in shown
    assert "over these shares of the paper&#x27;s range: 40% (a), 40% (b)" in shown  # on the card of the mean
    assert StudiesReport(reports={"a": with_factor(1.2), "b": with_factor(None)}).mean_speed_up("iterations") is None


def test_a_dry_run_trains_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    done = call("study", "run", "--data", data, "--out", out, "--threads", 1, "--dry-run", "--json", *TINY)
    document = json.loads(done.stdout)
    assert len(document["to_run"]) == document["trials"] == 63  # 7 budgets, 3 splits, 3 seeds
    assert document["seconds"] > 0
    assert not out.exists()


def test_refuses_in_one_line(data: Path, study: Path, tmp_path: Path) -> None:
    def fail(*arguments: Any, code: int) -> str:
        done = call("study", "run", "--data", data, "--threads", 1, *arguments)
        assert done.exit_code == code, done.output
        (line,) = done.stderr.splitlines()
        return line

    new = tmp_path / "new"
    assert "was started with factors = 4, not 64" in fail("--out", study, "--budgets", "1", code=1)
    assert "--split behind -- is for the study" in fail("--out", new, "--", "--split", "0.5", code=2)
    assert "behind --: No such option" in fail("--out", new, "--", "--spilt", "0.5", code=2)
    assert "--budgets is '1;2'" in fail("--out", new, "--budgets", "1;2", code=2)
    assert "split is 2" in fail("--out", new, "--splits", "2", code=2)
    assert "need" in fail("--out", new, "--workers", 1000, code=2)
    assert "a grid with -1 epochs" in fail("--out", new, "--grid", "1,-1", code=2)
    assert "as many as it has" in fail("--out", new, "--workers", 2, "--dask-address", "tcp://127.0.0.1:1", code=2)
    for budgets, splits in (("0.01", "0"), ("0.1", "0.99")):  # less than an iteration, and no low one
        line = fail("--out", new, "--budgets", budgets, "--splits", splits, *TINY, code=2)
        assert "is too short: an epoch has 38 iterations and each part needs one" in line
    assert "not a study" in fail("--out", data, *TINY, code=1)
    assert not new.exists()
    assert "not a study" in call("study", "report", data).stderr


def test_a_failing_trial_is_named(data: Path, tmp_path: Path) -> None:
    config = NCFTrainingConfig(learning_rate=1e30, batch_size=512)
    broken = partial(train, data, NCFConfig(factors=4, layers=(8, 8, 8, 4)), "cpu")
    with pytest.raises(DataError, match=r"^trial full1-low0-seed0: .*diverged"):
        run_trial(broken, config, Trial(full=1, low=0, seed=0), tmp_path / "run", 1)


def test_a_study_takes_a_config_that_would_stop_early(data: Path, tmp_path: Path) -> None:
    """Evaluations, threshold and patience are a trial's own, and none stops: there is nothing to stop a study with."""
    recipe = NCFTrainingConfig(batch_size=512)
    stopping = replace(recipe, patience=2, threshold=0.01, eval_every=0.1, epochs=3, iterations=7, seed=5, split=0.5)
    training = partial(train, data, NCFConfig(factors=4, layers=(8, 8, 8, 4)), "cpu")
    assert probe(training, stopping) == probe(training, recipe)
    assert next(step_seconds(training, stopping, 1)) > 0
    trial = Trial(full=0.05, low=0.05, seed=1)
    assert trial_config(stopping, trial) == trial_config(recipe, trial)
    assert run_trial(training, stopping, trial, tmp_path / "run", 1)["threshold_reached"] is None


@pytest.mark.parametrize("config", [NCFTrainingConfig, VisionTrainingConfig])
def test_a_setting_is_either_the_trials_or_the_recipes(config: Any) -> None:
    names = {field.name for field in fields(config)}
    assert set(OF_A_TRIAL) <= names
    usual = replace(config(), **TO_THE_END)
    set_by_trial = {
        name
        for trial in (Trial(full=3, low=0, seed=9), Trial(full=1, low=4, seed=9))
        for name in names
        if getattr(trial_config(usual, trial), name) != getattr(usual, name)
    }
    assert set_by_trial <= set(OF_A_TRIAL)


@pytest.mark.slow
def test_a_killed_study_ends_like_one_left_alone(data: Path, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "ppt_commands", "study", "run", "--data", str(data), "--out", str(out),
               "--budgets", "0.5,1", "--trials", "1", "--workers", "2", *TINY]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 100
    while len(list(out.glob("trials/*/trial.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(list(out.glob("trials/*/trial.json"))) < 6
    subprocess.run(command, check=True, capture_output=True)
    assert lines(out) == lines(study)


@pytest.mark.slow
def test_a_dask_cluster_takes_the_same_study(cluster: str, data: Path, study: Path, tmp_path: Path) -> None:
    options = ["--budgets", "0.5,1", "--trials", 1, "--dask-address", cluster]
    done = call("study", "run", "--data", data, "--out", tmp_path / "study", *options, *TINY)
    assert done.exit_code == 0, done.output
    assert lines(tmp_path / "study") == lines(study)
