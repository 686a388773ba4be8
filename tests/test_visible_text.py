"""What a terminal would obey is shown: in errors, in results, in JSON."""

import json
import zipfile
from pathlib import Path

import pytest

from cli import main
from ppt_core.json_text import json_text
from ppt_core.visible_text import visible
from tests.command_line import CommandLine

HOSTILE = "a\x1b[31m\x9b2J\x7f\u202eb"


def test_only_what_is_obeyed_is_written_out() -> None:
    assert visible(HOSTILE) == r"a\x1b[31m\x9b2J\x7f\u202eb"
    assert visible("tab\t line\nück 用户 😀 \\x1b") == "tab\t line\nück 用户 😀 \\x1b"


@pytest.mark.parametrize("indent", [None, 2])
def test_json_means_the_same(indent: int | None) -> None:
    text = json_text({"id": HOSTILE, "other": ["ü", "\n"]}, indent=indent, ensure_ascii=False)
    assert json.loads(text) == {"id": HOSTILE, "other": ["ü", "\n"]}
    assert visible(text) == text
    assert "ü" in text


def test_names_and_ids_of_strangers_reach_no_terminal(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in (f"{HOSTILE}.csv", "b.csv"):
            archive.writestr(name, "user_id,item_id\n1,2\n")
    rows = "".join(f"{HOSTILE}{user},{HOSTILE}{item},{item}\n" for user in range(30) for item in range(user, user + 25))
    (tmp_path / "ratings.csv").write_text("user_id,item_id,timestamp\n" + rows)
    ncf = CommandLine(main)
    failed = ncf.call("prepare", tmp_path / "two.zip", "--out", tmp_path / "out")
    assert r"a\x1b[31m" in failed.stderr
    done = ncf.call("prepare", tmp_path / "ratings.csv", "--out", tmp_path / "out", "--negatives", 5)
    assert done.exit_code == 0, done.output
    assert r"user_id (a\x1b[31m" in done.stdout
    unknown = ncf.call("baseline", "popular", "--data", f"{tmp_path}/{HOSTILE}")
    for result in (failed, done, unknown):
        for text in (result.stdout, result.stderr):
            assert visible(text) == text
