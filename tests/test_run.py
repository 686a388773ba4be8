import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from ppt_core.errors import DataError
from ppt_core.runs.files import write_json
from ppt_core.runs.record import PhaseRecord, RunResult
from ppt_core.runs.run import EventLog, Run, next_free

RESULT = {
    "hit_ratio": 0.5,
    "validation": {"hit_ratio": 0.25},
    "loss": 0.125,
    "iterations": 6,
    "epochs": 3.0,
    "split": 0.5,
    "seed": 1,
    "seconds": 2.0,
    "phases": [
        {"precision": "full", "iterations": 2, "seconds": 1.5},
        {"precision": "low", "iterations": 4, "seconds": 0.5},
    ],
    "samples_per_second": 300.0,
    "threshold_reached": None,
    "threshold_phase": None,
}
CONFIG = {"kind": "ncf", "training": {"split": 0.5, "iterations": None}}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", CONFIG)


def line(iteration: int) -> dict[str, Any]:
    return {"iterations": iteration, "hit_ratio": iteration / 7, "name": "Amélie"}


def one_line(raised: pytest.ExceptionInfo[DataError]) -> str:
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_settings_come_back(run: Run) -> None:
    found = Run.open(run.path)
    assert found.path == run.path
    assert found.config.to_dict() == CONFIG
    assert found.config == run.config
    assert (found.config.kind, found.config.training) == ("ncf", CONFIG["training"])
    assert repr(found) == f"Run({run.path}, ncf, not finished)"
    assert os.listdir(run.path) == ["config.json"]


def test_a_run_is_never_overwritten(run: Run) -> None:
    with pytest.raises(DataError, match=r"run already exists; choose another output or remove it first$"):
        Run.create(run.path, {})
    assert Run.open(run.path).config == run.config


def test_what_is_no_run_is_refused(tmp_path: Path, run: Run) -> None:
    for path in (tmp_path, tmp_path / "missing", run.path / "config.json"):
        with pytest.raises(DataError) as raised:
            Run.open(path)
        assert one_line(raised).startswith(f"{path} is not a run folder (it holds no config.json); make one with")


def test_changed_and_later_settings_are_refused(run: Run) -> None:
    path = run.path / "config.json"
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(DataError, match=r"config\.json was changed after it was written"):
        Run.open(run.path)
    write_json(path, {**CONFIG, "format_version": 2})
    with pytest.raises(DataError, match=r"has format version 2 .* upgrade ppt-ncf$"):
        Run.open(run.path)


def test_metrics_come_back(run: Run) -> None:
    assert run.metrics() == []
    for iteration in (3, 6):
        run.append_metrics(line(iteration))
    assert Run.open(run.path).metrics() == [line(3), line(6)]


def test_line_cut_off_at_any_place_is_left_out(run: Run) -> None:
    run.append_metrics(line(3))
    path = run.path / "metrics.jsonl"
    complete = path.read_bytes()
    for length in range(len(complete)):
        path.write_bytes(complete + complete[:length])
        assert run.metrics() == [line(3)]
    run.rewind_metrics(3)  # going on must not write behind the half line
    run.append_metrics(line(6))
    assert run.metrics() == [line(3), line(6)]


def test_rewinding_drops_what_will_be_written_again(run: Run) -> None:
    run.rewind_metrics(0)
    assert run.metrics() == []
    for iteration in (3, 6, 9):
        run.append_metrics(line(iteration))
    before = (run.path / "metrics.jsonl").read_bytes()
    run.rewind_metrics(9)
    assert (run.path / "metrics.jsonl").read_bytes() == before
    run.rewind_metrics(6)
    assert run.metrics() == [line(3), line(6)]
    run.append_metrics(line(9))
    assert (run.path / "metrics.jsonl").read_bytes() == before
    run.rewind_metrics(2)
    assert run.metrics() == []


@pytest.mark.parametrize("damage", [b'{"iteration": 3\n', b"\xff\n", b"\n", b"\0\n"])
def test_damaged_metrics(run: Run, damage: bytes) -> None:
    run.append_metrics(line(3))
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(damage)
    run.append_metrics(line(6))
    with pytest.raises(DataError) as raised:
        run.metrics()
    assert one_line(raised).startswith(f"{run.path / 'metrics.jsonl'} is damaged (")
    assert one_line(raised).endswith("train again into a new folder")


def test_result_is_the_last_line_of_a_finished_run(run: Run) -> None:
    for step in ("nothing", "metrics"):
        if step == "metrics":
            run.append_metrics(line(3))
            run.append_metrics(line(6))
        assert not run.finished
        with pytest.raises(DataError) as raised:
            run.result()
        assert one_line(raised) == (
            f"{run.path} has not finished training; go on with `train --out {run.path} --resume`"
        )
    run.model_path.touch()
    assert run.finished
    with pytest.raises(DataError, match=r"metrics.jsonl is damaged, or of another program \(KeyError: 'epochs'\)"):
        run.result()
    run.append_metrics(RESULT)
    found = run.result()
    assert found.to_dict() == RESULT
    assert found.metrics == {"hit_ratio": 0.5, "validation": {"hit_ratio": 0.25}}
    assert found.training.phases == (
        PhaseRecord(precision="full", iterations=2, seconds=1.5),
        PhaseRecord(precision="low", iterations=4, seconds=0.5),
    )
    assert found.training.to_dict(with_times=False) == {"iterations": 6, "epochs": 3.0, "split": 0.5, "seed": 1}
    older = {key: value for key, value in RESULT.items() if not key.startswith("threshold")}
    assert RunResult.from_dict(older) == found


def test_full_disk_is_one_line_that_names_the_file(run: Run) -> None:
    run.append_metrics(line(3))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(DataError) as raised:
            run.append_metrics(line(6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert one_line(raised).startswith(f"{run.path / 'metrics.jsonl'} cannot be written (File too large)")
    assert run.metrics() == [line(3)]


def test_next_free_folder(tmp_path: Path) -> None:
    assert next_free(tmp_path / "runs") == tmp_path / "runs" / "1"
    for name in ("1", "2", "4", "x"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert next_free(tmp_path / "runs") == tmp_path / "runs" / "3"


def test_events(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    path = run.path / "mlperf.log"
    kept = 0
    for seed in (1, 2):  # the second as after an interruption
        log = EventLog(path, keep=kept)
        log.start("run_start")
        log.event("seed", seed)
        log.end("run_stop", metadata={"status": "success"})
        kept = log.size
        log.event("seed", 3)  # behind the checkpoint that an interruption goes back to
        log.close()
    log = EventLog(path, keep=kept)
    assert log.size == kept
    log.close()
    lines = path.read_text().splitlines()
    assert all(text.startswith(":::MLLOG ") for text in lines)
    events = [json.loads(text.removeprefix(":::MLLOG ")) for text in lines]
    assert [event["key"] for event in events] == ["run_start", "seed", "run_stop"] * 2
    assert [event["event_type"] for event in events[:3]] == ["INTERVAL_START", "POINT_IN_TIME", "INTERVAL_END"]
    assert [event["value"] for event in events if event["key"] == "seed"] == [1, 2]
    assert events[2]["metadata"]["status"] == "success"
    assert not any(event["metadata"]["file"].startswith("/") for event in events)  # nobody's folders
    assert capfd.readouterr() == ("", "")


def test_logs_of_two_runs_stay_apart(tmp_path: Path) -> None:
    logs = [EventLog(tmp_path / name) for name in ("a", "b")]
    for log, seed in zip(logs, (1, 2), strict=True):
        log.event("seed", seed)
    for log in logs:
        log.close()
    assert ['"value": 1' in (tmp_path / name).read_text() for name in ("a", "b")] == [True, False]
    assert ['"value": 2' in (tmp_path / name).read_text() for name in ("a", "b")] == [False, True]
