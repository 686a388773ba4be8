"""Training to the end in one call: with a run folder that stays, or without any."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ppt_core.distributed import World
from ppt_core.identity import Prepared
from ppt_core.runs.files import refuse_existing
from ppt_core.runs.progress import follow
from ppt_core.runs.run import Run
from ppt_core.runs.trackers import check_logs, logged


class Saveable(Prepared, Protocol):
    """A prepared set that can be saved."""

    def save(self, path: Path | str) -> Any:
        """Write it to a new folder and return what it reads back."""


class Trained(Protocol):
    """A trained network of any kind."""

    @property
    def network(self) -> Any:
        """The network, read when it is first asked for."""


Data = TypeVar("Data", bound=Saveable)
Result = TypeVar("Result", bound=Trained)


def fit_run(
    data: Data,
    out: Path | str | None,
    steps: Callable[..., Iterator[Any]],
    trained: Callable[[Run, str, Data], Result],
    *,
    metrics: dict[str, str],
    resume: bool,
    checkpoint_seconds: float,
    progress: bool | None,
    world: World | None,
    logs: Sequence[str] = (),
) -> Result:
    """Train to the end and return what was trained.

    Args:
        data: what to train on; if they were never saved, and a run folder is to stay, they are saved beside it.
        out: the run folder; None leaves nothing on disk.
        steps: trains step by step: ``steps(data, path, resume=, checkpoint_seconds=)``.
        trained: makes the result of a finished run, its name and its data.
        metrics: see `ppt_core.runs.progress.follow`.
        resume: go on with the run in ``out``.
        checkpoint_seconds: least time between two checkpoints.
        progress: see `ppt_core.runs.progress.follow`; of several processes the first alone shows any.
        world: the processes that train together.
        logs: trackers that get the numbers, too, from the first process: see `ppt_core.runs.trackers.logged`.

    Raises ValueError for a ``resume`` that has no run or no data to go on with, and for several processes without what
    all of them see, and `DataError` if ``out`` exists.
    """
    if world is not None and world.size > 1 and (out is None or (data.path is None and not data.is_sample)):
        raise ValueError(
            "several processes need a run folder and data that all of them see; give out=, and save the data first"
        )
    if out is None:
        if resume:
            raise ValueError("resume needs out=, the run folder to go on with")
        if logs:
            raise ValueError("log needs out=, the run folder whose numbers are logged")
        with tempfile.TemporaryDirectory(prefix="ppt-run-") as folder:
            path = Path(folder) / "run"
            follow(steps(data, path, checkpoint_seconds=float("inf")), metrics, shown=progress)
            result = trained(Run.open(path), "the network", data)
            _ = result.network  # before the folder goes
        return result
    check_logs(logs)
    out, saved = Path(out), None
    if data.path is None and not data.is_sample:
        if resume:
            raise ValueError(f"resume needs the data that the run saved: load_data({f'{out}.data'!r})")
        refuse_existing(out)
        data = data.save(f"{out}.data")
        saved = data.path
    is_first = world is None or world.is_first
    try:
        training = steps(data, out, resume=resume, checkpoint_seconds=checkpoint_seconds)
        follow(logged(training, logs if is_first else (), out), metrics, shown=progress if is_first else False)
    except BaseException:
        if saved is not None and not out.exists():  # what was refused leaves nothing
            shutil.rmtree(saved)
        raise
    return trained(Run.open(out), str(out), data)
