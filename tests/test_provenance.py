"""What a run says of the code and the machine that made it."""

import json
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import ncf_ppt
import vision_ppt
from cli import main
from data_prep.images.synthetic import synthesize_images
from data_prep.ratings.interactions import PreparedData
from ppt_core.errors import DataWarning
from ppt_core.runs import provenance as module
from ppt_core.runs.provenance import commit, in_words, provenance, source_identity, warn_of_other_code
from ppt_core.runs.run import Run
from tests.command_line import CommandLine

SMALL: dict[str, Any] = {"factors": 4, "layers": (8, 8, 8, 4), "batch_size": 512}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the core, as if another version were installed."""
    shutil.copytree(Path(module.__file__).parents[1], tmp_path / "ppt_core", ignore=shutil.ignore_patterns("*.pyc"))
    return tmp_path


def test_the_source_is_what_the_files_hold(tree: Path) -> None:
    before = source_identity(tree)
    assert len(before) == 64
    source_identity.cache_clear()
    assert source_identity(tree) == before
    (tree / "ppt_core" / "__pycache__" / "x.txt").parent.mkdir(exist_ok=True)
    (tree / "ppt_core" / "__pycache__" / "x.txt").write_text("no code")
    source_identity.cache_clear()
    assert source_identity(tree) == before
    with (tree / "ppt_core" / "errors.py").open("a") as file:
        file.write("# another\n")
    source_identity.cache_clear()
    assert source_identity(tree) != before


def test_the_commit_is_named_where_there_is_one(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commit(tree) is None
    git = ["git", "-C", str(tree), "-c", "user.name=x", "-c", "user.email=x@x"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    commit.cache_clear()
    found = commit(tree)
    assert found is not None
    assert set(found) <= set("0123456789abcdef")
    (tree / "ppt_core" / "errors.py").write_text("")
    commit.cache_clear()
    assert commit(tree) == f"{found}-dirty"
    monkeypatch.setenv("PATH", str(tree))  # no git there
    commit.cache_clear()
    assert commit(tree) is None


@pytest.mark.parametrize("recipe", ["mlperf", "warm"])
def test_a_run_names_its_code_and_goes_on_with_other_code(
    tiny_data: PreparedData, tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_data.save(tmp_path / "data")
    settings = SMALL if recipe == "mlperf" else {"factors": 4, "n_recent": 3, "batch_size": 512}
    from ncf_ppt.recipes import RECIPES
    from ncf_ppt.training import fit_steps

    chosen = RECIPES[recipe].with_settings(**settings, iterations=6)

    def steps(**options: Any) -> Any:
        return fit_steps(data, tmp_path / "run", chosen.network, chosen.training, **options)

    for progress in steps(checkpoint_seconds=0):
        if progress.iteration == 3:
            break
    run = Run.open(tmp_path / "run")
    assert run.config.provenance == provenance()
    assert {"source", "torch", "numba", "numpy", "python", "cpu", "threads", "commit"} <= set(run.config.provenance)
    before = (run.path / "config.json").read_bytes()
    for _ in zip(range(1), steps(resume=True), strict=False):  # the same code: no word
        pass
    assert (run.path / "config.json").read_bytes() == before

    other = provenance() | {"source": "f" * 64, "torch": "9.9"}
    monkeypatch.setattr("ppt_core.runs.fit.provenance", lambda: other)
    with pytest.warns(DataWarning, match=r"other code or on another machine \(source \w{12}, now ffffffffffff; torch"):
        for _ in steps(resume=True):
            pass
    assert run.finished
    found = Run.open(run.path).config
    assert found.provenance == provenance()
    assert found.groups["resumed_by"] == [other]
    for _ in steps(resume=True):  # it has finished: no word
        pass


def test_other_threads_are_other_circumstances_where_they_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In image networks PyTorch adds in an order that depends on them."""
    here = provenance()
    there = here | {"threads": here["threads"] + 1}
    assert not warn_of_other_code("run", here, there)
    with pytest.warns(DataWarning, match=rf"run was started .* \(threads {here['threads']}, now {there['threads']}\)"):
        assert warn_of_other_code("run", here, there, threads_matter=True)


def test_the_command_prints_the_remark_as_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ncf = CommandLine(main)
    options = ["--out", str(tmp_path / "run"), "--factors", "4", "--layers", "8,8,8,4", "--iterations", "2"]
    assert ncf.call("train", *options).exit_code == 0
    (tmp_path / "run" / "model.safetensors").unlink()  # as if it had not finished
    monkeypatch.setattr("ppt_core.runs.fit.provenance", lambda: provenance() | {"source": "f" * 64})
    done = ncf.call("train", *options, "--resume")
    assert done.exit_code == 0
    (line,) = [line for line in done.stderr.splitlines() if "other code" in line]
    assert line.startswith(f"warning: {tmp_path / 'run'} was started by other code or on another machine (source ")


def test_image_runs_name_their_code_too(tmp_path: Path) -> None:
    data = synthesize_images(16, 10)
    model = vision_ppt.fit(data, out=tmp_path / "run", batch_size=8, iterations=1)
    assert Run.open(tmp_path / "run").config.provenance == provenance()
    assert asdict(model.result.training)["iterations"] == 1


def test_equal_runs_have_equal_configs(tmp_path: Path) -> None:
    for name in "ab":
        ncf_ppt.fit(ncf_ppt.load_data(), out=tmp_path / name, **SMALL, iterations=1)
    first, second = ((tmp_path / name / "config.json").read_bytes() for name in "ab")
    assert first == second
    assert json.loads(first)["provenance"]["source"] == source_identity()


def test_in_words() -> None:
    found = provenance() | {
        "gpu": "G",
        "commit": "abc",
        "source": "1234567890abcdef",
        "cpu": "C",
        "threads": 1,
        "cores": 2,
    }
    assert in_words(found).startswith("C, G, 1 of 2 cores; ppt-ncf ")
    assert ", commit abc, source 1234567890ab, torch " in in_words(found)
    older = {key: value for key, value in found.items() if key not in ("commit", "source")}
    assert "source" not in in_words(older)
