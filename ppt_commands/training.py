"""What every `train` does around the library's call."""

from pathlib import Path
from typing import TYPE_CHECKING

from ppt_commands.output import tell

if TYPE_CHECKING:
    from ppt_core.distributed import World


def run_folder(out: Path | None, world: "World", *, resume: bool) -> tuple[Path, bool]:
    """Choose the run folder, and whether its training goes on: the same in every process.

    The folder is ``out``, or the next free one of `runs`. A training that torchrun starts anew since a process died
    (``--max-restarts``) goes on as with ``--resume``, unless there is nothing to go on with yet.
    """
    from ppt_core.distributed import n_restarts
    from ppt_core.errors import DataError
    from ppt_core.runs.run import next_free

    restarts, most_restarts = n_restarts()
    if out is None:
        if resume:
            raise DataError("--resume needs --out, the run folder to go on with")
        if most_restarts:
            raise DataError("--max-restarts of torchrun needs --out, the run folder that a restart goes on with")
        return Path(world.agree(lambda: str(next_free(Path("runs"))))), False
    return out, resume or (restarts > 0 and world.agree((out / "config.json").exists))


def say_what_is_trained(data: Path | None, path: Path) -> None:
    """Say where the data come from, if not from a folder, and where the run goes."""
    if data is None:
        tell("no --data: training on the built-in synthetic sample")
    tell(f"training into {path}")
