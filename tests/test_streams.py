"""Standard streams that are closed, full, or that nobody reads."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "ppt_commands"]

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def run(arguments: list[str], **streams: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=ROOT, text=True, check=False, **streams)


def unread_pipe() -> int:
    """The writing end of a pipe whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"]], ids=" ".join)
def test_a_full_standard_output_is_named_in_one_line(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = run([*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE)
    assert done.stderr == "Error: standard output: No space left on device\n"
    assert done.returncode == 1


def test_an_output_that_nobody_reads_ends_quietly() -> None:
    pipe = unread_pipe()
    done = run([*COMMAND, "--help"], stdout=pipe, stderr=subprocess.PIPE)
    os.close(pipe)
    assert (done.returncode, done.stderr) == (1, "")


WORK = """if True:
    import sys, warnings
    from pathlib import Path
    from rich.console import Console
    from ppt_commands.output import tell
    from ppt_commands.streams import open_standard_streams
    open_standard_streams()
    for line in range(3):
        tell(f"epoch {line}")
        Console(stderr=True).print("half way")
        warnings.warn(f"slow {line}")
    with open(sys.argv[1], "w") as file:
        assert file.fileno() > 2, file.fileno()
        file.write("done")
    print("result")
"""


@pytest.mark.parametrize("fault", ["full", "unread", "closed"])
def test_work_goes_on_when_progress_cannot_be_shown(fault: str, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", WORK, str(tmp_path / "file")]
    if fault == "closed":
        arguments = ["sh", "-c", '"$@" 2>&-', "sh", *arguments]
    stderr = {"full": lambda: os.open("/dev/full", os.O_WRONLY), "unread": unread_pipe, "closed": unread_pipe}[fault]()
    done = run(arguments, stdout=subprocess.PIPE, stderr=stderr)
    os.close(stderr)
    assert (done.returncode, done.stdout) == (0, "result\n")
    assert (tmp_path / "file").read_text() == "done"


def test_no_file_takes_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    arguments = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-c", WORK, str(tmp_path / "file")]
    assert run(arguments).returncode == 0
    assert (tmp_path / "file").read_text() == "done"


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_text_of_any_language_is_written_in_a_plain_locale(locale: str) -> None:
    code = "from ppt_commands.output import print_json; print_json({'user': 'Zo\\xeb \\u4e2d'})"
    plain = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **plain}, capture_output=True, check=True
    )
    assert done.stdout.decode() == '{"user": "Zoë 中"}\n'


def test_a_letter_that_the_output_has_not_is_told_in_one_line() -> None:
    code = """if True:
        import click
        from ppt_commands.group import CommandGroup
        main = CommandGroup("main", commands=[click.Command("show", callback=lambda: click.echo("\\u4e2d"))])
        main(["show"])
    """
    done = run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: '\\u4e2d' cannot be written in latin-1; set PYTHONIOENCODING=utf-8\n"
