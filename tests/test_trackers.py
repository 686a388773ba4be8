"""TensorBoard and MLflow get the numbers of metrics.jsonl, those alone, and once each."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ncf_ppt
from cli import main, vision
from data_prep.ratings.interactions import PreparedData
from ppt_core.errors import DataError
from ppt_core.runs import trackers
from ppt_core.runs.run import Run
from ppt_core.runs.settings import settings_by_name
from ppt_core.runs.trackers import logged, numbers
from tests.command_line import CommandLine

TINY = ["--factors", "4", "--layers", "8,8,8,4", "--batch-size", "512"]


def expected(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The numbers of metrics.jsonl, each a curve over iterations."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        for name, value in numbers(line):
            curves.setdefault(name, []).append((line["iterations"], value))
    return curves


def tensorboard_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reading.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_the_numbers_of_a_line() -> None:
    line = {
        "hit_ratio": 0.5,
        "k": 10,
        "protocol": "p",
        "threshold_reached": None,
        "phases": [{"seconds": 1}],
        "x": True,
    }
    assert dict(numbers(line | {"validation": {"ndcg": 0.25}})) == {"hit_ratio": 0.5, "k": 10, "validation/ndcg": 0.25}
    assert settings_by_name({"a": {"b": 1, "c": {"d": None}}, "e": "f"}) == {"a.b": "1", "a.c.d": "None", "e": "f"}


def test_tensorboard_gets_the_same_numbers(tiny_data: PreparedData, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    tiny_data.save(tmp_path / "data")
    arguments = ["train", "--data", tmp_path / "data", "--out", tmp_path / "run", "--epochs", 2, *TINY]
    assert CommandLine(main).call(*arguments, "--log", "tensorboard").exit_code == 0
    found, wanted = tensorboard_curves(tmp_path / "run"), expected(tmp_path / "run")
    assert len(wanted["hit_ratio"]) == 2
    assert found.keys() == wanted.keys()
    for name, points in wanted.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points]
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in points])


def test_what_goes_on_is_logged_once(tiny_data: PreparedData, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from ncf_ppt.training import fit_steps

    config = ncf_ppt.NCFTrainingConfig(epochs=3, batch_size=512)
    network = ncf_ppt.NCFConfig(factors=4, layers=(8, 8, 8, 4))
    path = tmp_path / "run"
    for resume in (False, True):
        n_evaluations = 0
        for step in logged(fit_steps(tiny_data, path, network, config, resume=resume), ["tensorboard"], path):
            n_evaluations += step.metrics is not None
            if n_evaluations == 2 and not resume:
                break
    found = tensorboard_curves(path)
    assert [step for step, _ in found["hit_ratio"]] == [step for step, _ in expected(path)["hit_ratio"]]
    assert [value for _, value in found["hit_ratio"]] == pytest.approx([v for _, v in expected(path)["hit_ratio"]])


def test_mlflow_gets_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="the extra `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tiny")
    run = Run.create(tmp_path / "run", {"training": {"split": 0.5}, "kind": "ncf"})
    lines = [{"iterations": n, "hit_ratio": n / 7} for n in (3, 6)]
    for line in lines:
        run.append_metrics(line)
        for _ in logged([SimpleNamespace(iteration=line["iterations"], metrics=line)], ["mlflow"], run.path):
            pass
    for _ in logged([SimpleNamespace(iteration=6, metrics=lines[1])], ["mlflow"], run.path):
        pass  # taken again after an interruption
    client = tracking.MlflowClient()
    name = (run.path / "mlflow-run").read_text().strip()
    found = client.get_metric_history(name, "hit_ratio")
    assert [(each.step, each.value) for each in found] == expected(run.path)["hit_ratio"]
    kept = client.get_run(name)
    assert kept.info.status == "FINISHED"
    assert kept.data.params == {"training.split": "0.5", "kind": "ncf"}
    assert client.get_experiment(kept.info.experiment_id).name == "tiny"


def test_a_tracker_hears_how_the_training_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[bool] = []

    class Kept:
        def __init__(self, *_: Any) -> None: ...

        def write(self, *_: Any) -> None: ...

        def close(self, *, failed: bool) -> None:
            ends.append(failed)

    monkeypatch.setitem(trackers._TRACKERS, "tensorboard", Kept)
    monkeypatch.setattr(trackers, "check_logs", lambda _: None)
    run = Run.create(tmp_path / "run", {"kind": "ncf"})

    def steps(error: Exception | None) -> Any:
        yield SimpleNamespace(iteration=1, metrics={"hit_ratio": 0.5})
        if error is not None:
            raise error

    assert len(list(logged(steps(None), ["tensorboard"], run.path))) == 1
    with pytest.raises(DataError, match="diverged"):
        list(logged(steps(DataError("diverged")), ["tensorboard"], run.path))
    left = logged(steps(None), ["tensorboard"], run.path)
    next(left)
    left.close()
    assert ends == [False, True, False]


def test_a_missing_package_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for program, more in ((main, TINY), (vision, ["--batch-size", "8"])):
        out = tmp_path / "run"
        line = CommandLine(program).fail("train", "--out", out, "--iterations", 1, "--log", "tensorboard", *more)
        assert line == (
            "Error: --log is 'tensorboard', which needs the package tensorboard; `pip install 'ppt-ncf[tensorboard]'` "
            "brings it"
        )
        assert not out.exists()
    data: Any = ncf_ppt.load_data()
    wrong: Any = ["wandb"]
    with pytest.raises(ValueError, match="log is 'wandb'; it must be tensorboard or mlflow"):
        ncf_ppt.fit(data, out=tmp_path / "run", log=wrong)
    with pytest.raises(ValueError, match="log needs out=, the run folder"):
        ncf_ppt.fit(data, log=["mlflow"])
    with pytest.raises(DataError, match="needs the package tensorboard"):
        ncf_ppt.fit(data, out=tmp_path / "run", log=["tensorboard"])
