"""The numbers of a run in the trackers that people look at, TensorBoard and MLflow: those of its ``metrics.jsonl``."""

import importlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from ppt_core.errors import DataError
from ppt_core.json_text import json_text
from ppt_core.runs.run import Run
from ppt_core.runs.settings import settings_by_name

Log = Literal["tensorboard", "mlflow"]
_MODULES = {"tensorboard": "tensorboard", "mlflow": "mlflow.tracking"}
_LONGEST_VALUE = 500  # letters of a setting in MLflow


class Tracker(Protocol):
    """Where the numbers go."""

    def write(self, numbers: Mapping[str, float], iteration: int) -> None:
        """Add the numbers of one evaluation."""

    def close(self, *, failed: bool) -> None:
        """Finish; ``failed`` says that the training ended in an error."""


def check_logs(logs: Sequence[str]) -> None:
    """Raise ValueError for a tracker that is not known, and `DataError` for one whose package is not installed."""
    for log in logs:
        if log not in get_args(Log):
            raise ValueError(f"log is {log!r}; it must be {' or '.join(get_args(Log))}")
        try:
            importlib.import_module(_MODULES[log])
        except ImportError:
            raise DataError(
                f"log is {log!r}, which needs the package {log}; `pip install 'ppt-ncf[{log}]'` brings it"
            ) from None


def logged(steps: Iterable[Any], logs: Sequence[str], path: Path) -> Generator[Any, None, None]:
    """Yield the steps of a training, and write what each evaluation measured.

    A training that goes on writes behind what was written before; what an interruption lost is written again.

    Args:
        steps: yields a `ppt_core.runs.fit.Progress` after each iteration.
        logs: where to, see `Log`. TensorBoard's files go into the folder ``tensorboard`` of the run. MLflow's server
            and experiment are those of its own environment variables; the run folder keeps the id in ``mlflow-run``.
        path: the run folder.

    Raises what `check_logs` raises, before anything is trained.
    """
    check_logs(logs)
    opened: list[Tracker] = []
    with ExitStack() as stack:
        for step in steps:
            if step.metrics is not None and logs:
                if not opened:
                    run = Run.open(path)
                    for log in logs:
                        opened.append(_TRACKERS[log](run, step.iteration))
                        stack.push(partial(_close, opened[-1]))
                for tracker in opened:
                    tracker.write(dict(numbers(step.metrics)), step.iteration)
            yield step


def _close(tracker: Tracker, kind: type[BaseException] | None, *_: object) -> None:
    # A generator that is left alone ends by GeneratorExit: whoever took its steps had enough.
    tracker.close(failed=kind is not None and kind is not GeneratorExit)


def numbers(line: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a line of ``metrics.jsonl`` by name; those of a group behind its name: ``validation/ndcg``."""
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{within}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{within}{name}", float(value)


class TensorBoard:
    """TensorBoard's event files, beside the run."""

    def __init__(self, run: Run, iteration: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=iteration)
        text = json_text(run.config.settings(), indent=1)
        self._writer.add_text("settings", f"```json\n{text}\n```")

    def write(self, numbers: Mapping[str, float], iteration: int) -> None:
        """Add a point to the curve of each number."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, iteration)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        """Close the file, which has no word for a failure."""
        self._writer.close()


class MLflow:
    """A run of an MLflow server, or of its folder; the same one when the training goes on."""

    def __init__(self, run: Run, iteration: int) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        kept = run.path / "mlflow-run"
        if kept.exists():
            self._id = kept.read_text("utf-8").strip()
            self._client.update_run(self._id, status="RUNNING")
            logged_before = self._client.get_metric_history(self._id, "iterations")
            self._last = max((point.step for point in logged_before), default=0)
        else:
            self._last = 0
            created = self._client.create_run(self._experiment(), run_name=run.path.name)
            self._id = created.info.run_id
            kept.write_text(f"{self._id}\n", "utf-8")
            for name, value in settings_by_name(run.config.settings()).items():
                self._client.log_param(self._id, name, value[:_LONGEST_VALUE])

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def write(self, numbers: Mapping[str, float], iteration: int) -> None:
        """Add a point to the curve of each number."""
        if iteration <= self._last:  # written before the interruption, and the same
            return
        for name, value in numbers.items():
            self._client.log_metric(self._id, name, value, step=iteration)

    def close(self, *, failed: bool) -> None:
        """Say how the run has ended."""
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


_TRACKERS: dict[str, Callable[[Run, int], Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow}
