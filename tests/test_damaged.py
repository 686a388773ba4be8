"""Documents that were sealed anew with other values in them: one line that names the file, whatever they say."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ncf_ppt
from cli import main
from data_prep.ratings.interactions import PreparedData
from ncf_ppt.rank_files import read_ranks
from ncf_ppt.side_files import read_pairs
from ppt_core.damaged import checked, understanding
from ppt_core.errors import DataError
from ppt_core.runs.checkpoint import load_tensors, save_tensors
from ppt_core.runs.files import write_json
from ppt_core.runs.run import EventLog
from ppt_core.study.study import Study
from ppt_core.study.summary import summarize
from ppt_core.study.trials import Trial
from tests.command_line import CommandLine

NCF = CommandLine(main)
LAST_RESORT = "which nobody expected"


@pytest.fixture(scope="module")
def run(tiny_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    settings: dict[str, Any] = {"factors": 4, "layers": (8, 8, 8, 4), "epochs": 1, "batch_size": 512}
    ncf_ppt.fit(tiny_data.save(folder / "data"), out=folder / "run", split=0.5, **settings)
    NCF.succeed("export-embeddings", folder / "run", "--out", folder / "vectors")
    return folder / "run"


def variants(document: dict[str, Any], n_others: int = 2) -> Iterator[tuple[str, dict[str, Any]]]:
    """The document without each of its keys, and with values of other types in their places."""
    for key in document:
        if key in ("sha256", "format_version"):
            continue
        yield f"no {key}", {name: value for name, value in document.items() if name != key}
        wrongs: tuple[Any, ...] = (7, [[]], "x", None)
        others = [each for each in wrongs if type(each) is not type(document[key])]
        for wrong in others[:n_others]:
            yield f"{key} = {wrong}", {**document, key: wrong}


def one_line(*arguments: Any, what: str) -> str:
    """What a command says: it succeeds, or fails in one line of which the reader knew."""
    result = NCF.call(*arguments)
    if result.exit_code == 0:
        return ""
    assert isinstance(result.exception, SystemExit), what
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert len(lines) == 1, (what, result.output)
    assert LAST_RESORT not in lines[0], (what, lines)
    return lines[0]


@pytest.mark.parametrize(
    ("document", "command"),
    [
        ("run/config.json", ("inspect", "run")),
        ("run/config.json", ("evaluate", "run")),
        ("data/manifest.json", ("baseline", "popular", "--data", "data")),
        ("vectors/manifest.json", ("evaluate", "run", "--ranking", "full", "--candidates", "vectors")),
    ],
)
def test_documents_of_other_values(
    run: Path, monkeypatch: pytest.MonkeyPatch, document: str, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(run.parent)
    path = Path(document)
    before = path.read_bytes()
    values = json.loads(before)
    refused = 0
    try:
        for what, other in variants(values):
            write_json(path, other)
            refused += bool(one_line(*command, what=what))
        for inner in ("data", "training", "model", "tables"):
            for what, other in variants(values.get(inner) or {}, 1) if isinstance(values.get(inner), dict) else ():
                write_json(path, {**values, inner: other})
                one_line(*command, what=f"{inner}: {what}")
    finally:
        path.write_bytes(before)
    assert refused > 5
    assert one_line(*command, what="as it was") == ""


@pytest.mark.parametrize("line", ["7", "{}", "[" * 100_000, "null", '{"iterations": "x"}', '{"iterations": 3}', '"x'])
def test_metrics_have_no_seal(run: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(run.parent)
    path = Path("run/metrics.jsonl")
    before = path.read_bytes()
    try:
        path.write_bytes(line.encode() + b"\n")
        for command in (
            ("evaluate", "run"),
            ("inspect", "run"),
            ("train", "--data", "data", "--out", "run", "--resume"),
        ):
            assert one_line(*command, what=line[:20])
    finally:
        path.write_bytes(before)


def test_a_pipe_in_the_place_of_a_file(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "config.json")
    assert "is no regular file" in NCF.fail("evaluate", tmp_path / "run")
    os.mkfifo(tmp_path / "titles")
    for command in (
        ("recommend", run, "--users", tmp_path / "titles"),
        ("recommend", run, "--user", 1, "--titles", tmp_path / "titles"),
        ("prepare", tmp_path / "titles", "--out", tmp_path / "x"),
    ):
        assert "titles is not a regular file; save what it gives" in NCF.fail(*command)


def test_the_last_resort_names_what_was_read_and_how_to_report(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)

    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("a thing\nthat nobody thought of")

    monkeypatch.setattr("ncf_ppt.trained.load", fail)
    line = NCF.fail("evaluate", "run")
    assert line.startswith("Error: KeyError: 'a thing")
    assert "test_damaged.py, line" in line
    assert "run may be damaged, or made by another program; else please report it with the output of" in line
    assert "`ppt-ncf doctor`" in line
    monkeypatch.setenv("PPT_TRACEBACK", "1")
    assert isinstance(NCF.call("evaluate", "run").exception, KeyError)


def test_what_is_checked() -> None:
    document = {"a": 1, "b": {}, "c": True}
    assert checked(document, {"a": int, "b": dict, "c": bool}, "x") is document
    for needed in ({"d": int}, {"a": str}, {"c": int}):
        with pytest.raises(DataError, match=r"^x is damaged"):
            checked(document, needed, "x")
    with pytest.raises(DataError, match="not a JSON object"):
        checked([], {}, "x")
    with (
        pytest.raises(DataError, match=r"x is damaged, or of another program \(KeyError: 'd'\); make it again"),
        understanding("x"),
    ):
        document["d"]
    with pytest.raises(OSError, match="disk"), understanding("x"):
        raise OSError("disk")


def test_a_checkpoint_of_another_network(tiny_data: PreparedData, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"factors": 4, "layers": (8, 8, 8, 4), "epochs": 1, "batch_size": 512, "eval_every": 0.5}
    data = tiny_data.save(tmp_path / "data")
    ncf_ppt.fit(data, out=tmp_path / "run", **settings)
    (tmp_path / "run" / "model.safetensors").unlink()
    path = tmp_path / "run" / "checkpoint.safetensors"
    tensors, metadata = load_tensors(path)
    name = "model.mlp.0.weight"
    for changed in ({**tensors, name: tensors[name][:1]}, {each: tensors[each] for each in tensors if each != name}):
        save_tensors(path, changed, metadata)
        with pytest.raises(DataError, match=r"checkpoint.safetensors is damaged, or of another program \(RuntimeError"):
            ncf_ppt.fit(data, out=tmp_path / "run", resume=True, **settings)
    wrongs: list[dict[str, Any]] = [{"iteration": 0}, {"iteration": "1"}, {"seconds": []}, {"seconds": [{}, 1]}]
    for wrong in (*wrongs, {"logged": "x"}, {"start_seconds": {}}):
        save_tensors(path, tensors, {**metadata, **wrong})
        with pytest.raises(DataError, match=r"checkpoint.safetensors is damaged"):
            ncf_ppt.fit(data, out=tmp_path / "run", resume=True, **settings)


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "mlperf.log")
    full = Path("/dev/full")
    if full.exists():
        log._handler.stream.close()  # type: ignore[attr-defined]
        log._handler.stream = full.open("w")  # type: ignore[attr-defined]
        with pytest.raises(DataError, match=r"mlperf.log cannot be written \(No space left on device\)"):
            log.event("a", 1)
        with contextlib.suppress(OSError):
            log.close()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe is no regular file"):
        EventLog(tmp_path / "pipe")


def test_a_trial_of_other_values(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "study", {"metric": {"key": "hit_ratio", "name": "HR@10"}})
    study.extend_plan([Trial.of(1.0, 0.0, 0)], [0.0])
    folder = tmp_path / "study" / "trials" / "x"
    folder.mkdir(parents=True)
    record = {"name": "x", "full": 0.0, "low": 1.0, "seed": 0, "iterations": 1, "seconds": 1.0}
    wrongs: list[list[Any]] = [[7], [[]], [{}]]
    for phases in wrongs:
        write_json(folder / "trial.json", {"format_version": 1, **record, "phases": phases})
        with pytest.raises(DataError, match=r"study is damaged, or of another program"):
            summarize(study)


def test_side_files_of_broken_bytes(tmp_path: Path) -> None:
    for name, content in {
        "pairs.jsonl": b'{"\xffuser_id": 1, "item_id": 2}\n{"user_id": 1, "item_id": 2}\n',
        "pairs.csv": b'user_id,item_id\n1,2\n"3\r4,5\n',
        "lines.csv": b"user_id,item_id\n1,2\n3\r\r4,5,\x00\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            read_pairs(tmp_path / name)
    (tmp_path / "ranks.parquet").write_bytes(b"PAR1" + bytes(50) + b"PAR1")
    with pytest.raises(DataError, match=r"^[^\n]*ranks.parquet is damaged[^\n]*$"):
        read_ranks(tmp_path / "ranks.parquet")
