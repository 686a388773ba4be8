"""What killed commands leave is removed, what living ones write is not, and of two writers to one name one succeeds."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli import main
from ppt_core.errors import DataError
from ppt_core.runs.files import new_directory, replaced_file
from ppt_core.runs.partial_files import exchange, leftovers
from ppt_core.runs.run import next_free
from tests.command_line import CommandLine

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}


def killed(folder: Path, code: str, expected: int = 7) -> None:
    """Run a program that ends in the middle of its work, an hour ago."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=ENVIRONMENT, check=False)
    assert done.returncode == expected
    for each in folder.rglob(".*"):
        os.utime(each, (0, 0))


def interrupted(function: str) -> str:
    return f"""if True:
        import os, pathlib
        from ppt_core.runs.files import {function}
        with {function}(pathlib.Path("out")) as partial:
            (partial / "file" if partial.is_dir() else partial).write_text("half")
            os._exit(7)"""


@pytest.mark.parametrize("output", [new_directory, replaced_file])
def test_the_next_that_succeeds_removes_what_a_killed_one_left(tmp_path: Path, output: Any) -> None:
    for _ in range(2):
        killed(tmp_path, interrupted(output.__name__))
    assert len(leftovers(tmp_path)) == 2
    (tmp_path / ".out.mine").write_text("of somebody else")
    with pytest.raises(ZeroDivisionError), output(tmp_path / "out"):
        raise ZeroDivisionError
    assert len(leftovers(tmp_path)) == 2
    with output(tmp_path / "other"):
        pass
    assert len(leftovers(tmp_path)) == 2
    with output(tmp_path / "out"):
        pass
    assert sorted(os.listdir(tmp_path)) == [".out.mine", "other", "out"]


@pytest.mark.parametrize("output", [new_directory, replaced_file])
def test_what_a_living_process_writes_is_left_alone(tmp_path: Path, output: Any) -> None:
    with output(tmp_path / "out") as partial:
        os.utime(partial, (0, 0))
        assert leftovers(tmp_path) == []
        assert leftovers(tmp_path, "**/.*") == []
    assert os.listdir(tmp_path) == ["out"]


def test_the_doctor_cleans_a_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    killed(tmp_path, interrupted("new_directory"))
    killed(tmp_path / "runs", interrupted("replaced_file"))
    (tmp_path / ".kept.partial").symlink_to(tmp_path / "runs")
    ncf = CommandLine(main)
    with new_directory(tmp_path / "runs" / "1") as living:
        os.utime(living, (0, 0))
        removed = ncf.succeed("doctor", "--clean", tmp_path)["removed"]
    assert sorted(Path(each).parent for each in removed) == [tmp_path, tmp_path / "runs"]
    assert sorted(os.listdir(tmp_path)) == [".kept.partial", "runs"]
    assert os.listdir(tmp_path / "runs") == ["1"]
    assert "0 left by commands that were killed" in ncf.call("doctor", "--clean", tmp_path).stdout
    assert "is not a folder" in ncf.fail("doctor", "--clean", tmp_path / "none")


def test_of_two_writers_to_a_new_file_one_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "lists.csv"

    def write(text: str, meanwhile: Callable[[], None]) -> None:
        with replaced_file(path, new=True) as partial:
            partial.write_text(text)
            meanwhile()

    with pytest.raises(DataError, match="already exists"):
        write("first", lambda: write("second", lambda: None))
    assert path.read_text() == "second"
    assert os.listdir(tmp_path) == ["lists.csv"]
    with pytest.raises(DataError, match="already exists"):
        write("third", lambda: None)


def test_two_trainings_without_a_folder_get_two(tmp_path: Path) -> None:
    code = """if True:
        import pathlib
        from ppt_core.runs.run import next_free
        print(next_free(pathlib.Path("runs")), flush=True)
        input()"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "runs/1"
        assert next_free(tmp_path / "runs") == tmp_path / "runs" / "2"
        assert next_free(tmp_path / "runs") == tmp_path / "runs" / "3"
        other.communicate("\n")
    assert next_free(tmp_path / "runs") == tmp_path / "runs" / "1"


def test_a_folder_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "report"
    for text in ("old", "new"):
        with new_directory(path, replace=True) as folder:
            (folder / "page").write_text(text)
            assert not path.exists() or (path / "page").read_text() == "old"
        assert (path / "page").read_text() == text
        assert os.listdir(tmp_path) == ["report"]
    with pytest.raises(ZeroDivisionError), new_directory(path, replace=True):
        raise ZeroDivisionError
    assert (path / "page").read_text() == "new"
    killed(
        tmp_path,
        """if True:
        import os, pathlib, shutil
        from ppt_core.runs.files import new_directory
        shutil.rmtree = lambda *_, **__: os._exit(7)
        with new_directory(pathlib.Path("report"), replace=True) as folder:
            (folder / "page").write_text("newest")""",
    )
    assert (path / "page").read_text() == "newest"


def test_where_no_exchange_is_there_are_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppt_core.runs.files.exchange", lambda *_: False)
    path = tmp_path / "report"
    for text in ("old", "new"):
        with new_directory(path, replace=True) as folder:
            (folder / "page").write_text(text)
    assert (path / "page").read_text() == "new"
    assert os.listdir(tmp_path) == ["report"]
    assert not exchange(tmp_path / "none", path)
