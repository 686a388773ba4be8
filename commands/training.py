"""What every `train` does around the library's call."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from commands.output import progress_bar, tell


def run_folder(out: Path | None, *, resume: bool) -> Path:
    """Choose the run folder: ``out``, or the next free one of `runs`."""
    from ppt_core.errors import DataError
    from ppt_core.runs import next_free

    if resume and out is None:
        raise DataError("--resume needs --out, the run folder to go on with")
    return next_free(Path("runs")) if out is None else out


def data_reference(data: Path | None) -> dict[str, Any]:
    """Where a run finds its data again; None is the built-in sample."""
    if data is None:
        tell("no --data: training on the built-in synthetic sample")
    return {"path": None if data is None else str(data.resolve())}


def follow(progress: Iterable[Any], path: Path, metrics: dict[str, str]) -> dict[str, Any]:
    """Train to the end with a progress bar, ``metrics`` under their titles, and return the result."""
    from ppt_core.runs import Run

    tell(f"training into {path}")
    with progress_bar(metrics) as show:
        for step in progress:
            show(step)
    return Run.open(path).result()
