"""What every `train` does around the library's call."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppt_commands.output import progress_bar, tell

if TYPE_CHECKING:
    from ppt_core.distributed import World


def run_folder(out: Path | None, world: "World", *, resume: bool) -> Path:
    """Choose the run folder, the same in every process: ``out``, or the next free one of `runs`."""
    from ppt_core.errors import DataError
    from ppt_core.runs.run import next_free

    if resume and out is None:
        raise DataError("--resume needs --out, the run folder to go on with")
    return Path(world.agree(lambda: str(next_free(Path("runs"))))) if out is None else out


def data_reference(data: Path | None) -> dict[str, Any]:
    """Where a run finds its data again; None is the built-in sample."""
    if data is None:
        tell("no --data: training on the built-in synthetic sample")
    return {"path": None if data is None else str(data.resolve())}


def follow(progress: Iterable[Any], path: Path, metrics: dict[str, str], world: "World") -> dict[str, Any] | None:
    """Train to the end and return the result; None in all processes but the first, which has nothing more to do.

    It shows a progress bar, with ``metrics`` under their titles.
    """
    from ppt_core.runs.run import Run

    tell(f"training into {path}")
    if not world.is_first:
        for _ in progress:
            pass
        return None
    with progress_bar(metrics) as show:
        for step in progress:
            show(step)
    return Run.open(path).result()
