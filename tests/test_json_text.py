"""What is written as JSON is JSON."""

import ast
import json
from typing import Any

import pytest

from ppt_core.errors import DataError
from ppt_core.json_text import json_text
from ppt_core.runs.files import write_json
from ppt_core.runs.run import Run
from tests.test_structure import ROOT, sources

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("document", "place"),
    [
        (NAN, "document is nan"),
        ({"loss": NAN}, r"document\['loss'\] is nan"),
        ({"a": [1.5, {"b": (0, -INFINITE)}], "c": INFINITE}, r"document\['a'\]\[1\]\['b'\]\[1\] is -inf"),
    ],
)
def test_numbers_that_json_does_not_know_are_refused(document: Any, place: str) -> None:
    with pytest.raises(DataError, match=f"^{place}, a number that JSON cannot hold") as caught:
        json_text(document)
    assert "\n" not in str(caught.value)


def test_all_else_is_written_as_ever() -> None:
    document = {"é": [1e308, -0.0, 5e-324, None, True, "NaN"], "n": 2**70}
    assert json_text(document) == json.dumps(document)
    assert json_text(document, indent=2, ensure_ascii=False) == json.dumps(document, indent=2, ensure_ascii=False)
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises((ValueError, RecursionError)):
        json_text(loop)


def test_no_file_is_left_that_is_no_json(tmp_path: Any) -> None:
    run = Run.create(tmp_path / "run", {})
    run.append_metrics({"iterations": 1, "loss": 0.5})
    with pytest.raises(DataError, match="loss"):
        run.append_metrics({"iterations": 2, "loss": NAN})
    assert run.metrics() == [{"iterations": 1, "loss": 0.5}]
    with pytest.raises(DataError, match="speed"):
        write_json(tmp_path / "manifest.json", {"speed": INFINITE})
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_there_is_one_writer_of_json() -> None:
    """Two modules write their own: messages between processes, and headers of tensors, which hold counts alone."""
    own = {"ppt_core/json_text.py", "ppt_core/distributed.py", "ppt_core/runs/checkpoint.py"}
    packages = sources(*(path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()), "cli")
    for path in packages:
        if path.parts[0] in ("tests", "benchmarks") or path.as_posix() in own:
            continue
        names = {ast.unparse(node) for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8")))
                 if isinstance(node, ast.Attribute)}  # fmt: skip
        assert not names & {"json.dump", "json.dumps"}, f"{path} writes JSON past ppt_core.json_text"
