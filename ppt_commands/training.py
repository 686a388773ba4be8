"""What every `train` does around the library's call."""

from pathlib import Path
from typing import TYPE_CHECKING

from ppt_commands.output import tell

if TYPE_CHECKING:
    from ppt_core.distributed import World


def run_folder(out: Path | None, world: "World", *, resume: bool) -> Path:
    """Choose the run folder, the same in every process: ``out``, or the next free one of `runs`."""
    from ppt_core.errors import DataError
    from ppt_core.runs.run import next_free

    if resume and out is None:
        raise DataError("--resume needs --out, the run folder to go on with")
    return Path(world.agree(lambda: str(next_free(Path("runs"))))) if out is None else out


def say_what_is_trained(data: Path | None, path: Path) -> None:
    """Say where the data come from, if not from a folder, and where the run goes."""
    if data is None:
        tell("no --data: training on the built-in synthetic sample")
    tell(f"training into {path}")
