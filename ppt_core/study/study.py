"""A study folder: what its trials share, their run folders and their results.

::

    study.json      format version, every setting that the trials share, what they were trained on
    plan.json       the trials asked for so far, and the splits that are drawn as curves
    speed.json      iterations per second of both precisions
    trials/NAME/    the run folder of each trial, with a ``trial.json`` once it has finished
    results.jsonl   the finished trials, one JSON object a line
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppt_core.damaged import understanding
from ppt_core.errors import DataError
from ppt_core.identity import differences, in_words
from ppt_core.json_text import json_text
from ppt_core.runs.config import TrainingConfig
from ppt_core.runs.files import new_directory, read_json, replaced_file, write_json
from ppt_core.study.jobs import run_jobs
from ppt_core.study.rates import Speed
from ppt_core.study.running import FORMAT_VERSION, Train, first_phase_of, run_trial
from ppt_core.study.speed import measure_speed
from ppt_core.study.trials import Trial, in_order

_NEEDED_KEYS: dict[str, type | tuple[type, ...]] = {
    **{"name": str, "full": (int, float), "low": (int, float), "seed": int, "iterations": int},
    **{"seconds": (int, float), "phases": list},
}


class Study:
    """One study folder. `create` makes it, `open` reads it, `run_study` fills it."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings

    @classmethod
    def create(cls, path: Path, settings: dict[str, Any]) -> "Study":
        """Make the folder, or go on with one of the same settings.

        Raises `DataError` if ``path`` is something else, or a study of other settings or data.
        """
        if not path.exists():
            with new_directory(path) as folder:
                write_json(folder / "study.json", {"format_version": FORMAT_VERSION, "settings": settings})
        study = cls.open(path)
        for name, old, new in differences(study.settings, settings):
            raise DataError(
                f"{path} was started {in_words(name, old, new)}; go on with the same settings and data, or give "
                "another folder"
            )
        return study

    @classmethod
    def open(cls, path: Path) -> "Study":
        """Open a study folder. Raises `DataError` if it is none or is damaged."""
        if not (path / "study.json").exists():
            raise DataError(f"{path} is not a study (it holds no study.json); make one with `study run --out {path}`")
        found = read_json(path / "study.json", format_version=FORMAT_VERSION, needed={"settings": dict})
        return cls(path, found["settings"])

    def trial_path(self, trial: Trial) -> Path:
        """The run folder of a trial."""
        return self.path / "trials" / trial.name

    def plan(self) -> dict[str, Any]:
        """``trials``: the names of all that were asked for; ``splits``: those compared over all budgets."""
        path = self.path / "plan.json"
        needed = {"trials": list, "splits": list}
        return (
            read_json(path, format_version=FORMAT_VERSION, needed=needed)
            if path.exists()
            else {key: [] for key in needed}
        )

    def extend_plan(self, trials: Sequence[Trial], splits: Sequence[float]) -> None:
        """Add trials and splits to the plan."""
        old = self.plan()
        names = sorted({*old["trials"], *(trial.name for trial in trials)})
        every = sorted({*old["splits"], *splits}, reverse=True)
        write_json(self.path / "plan.json", {"format_version": FORMAT_VERSION, "trials": names, "splits": every})

    def first_phases(
        self, trials: Sequence[Trial], config: TrainingConfig, iterations_per_epoch: int
    ) -> dict[str, Path]:
        """Of each trial, by its name, where its first phase is: a trial of its own among these, or finished."""
        found = {}
        there = {trial.name for trial in trials}
        for trial in trials:
            first = first_phase_of(config, trial, iterations_per_epoch)
            if first is not None and (first.name in there or not self.missing([first])):
                found[trial.name] = self.trial_path(first)
        return found

    def missing(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those that have not finished, in the order that they run in."""
        return [trial for trial in in_order(trials) if not (self.trial_path(trial) / "trial.json").exists()]

    def records(self) -> list[dict[str, Any]]:
        """The finished trials, short ones first. Raises `DataError` if one was changed since."""
        found = [
            read_json(path, format_version=FORMAT_VERSION, needed=_NEEDED_KEYS)
            for path in self.path.glob("trials/*/trial.json")
        ]
        return sorted(found, key=lambda record: (record["full"] + record["low"], record["full"], record["seed"]))

    def speed(self) -> Speed | None:
        """What `ppt_core.study.speed.measure_speed` measured, if it has."""
        path = self.path / "speed.json"
        if not path.exists():
            return None
        with understanding(path):
            return Speed.from_dict(read_json(path, format_version=FORMAT_VERSION))

    def write_results(self) -> None:
        """Write ``results.jsonl`` anew."""
        lines = [json_text(record) + "\n" for record in self.records()]
        with replaced_file(self.path / "results.jsonl") as partial:
            partial.write_text("".join(lines), encoding="utf-8")


@dataclass(frozen=True)
class StudyProgress:
    """Where a study stands after a trial.

    Attributes:
        done: trials finished.
        trials: trials in all.
        record: of the trial that finished just now.
        seconds_left: an estimate from what this invocation has finished so far.
    """

    done: int
    trials: int
    record: dict[str, Any]
    seconds_left: float


def run_study(
    study: Study,
    trials: Sequence[Trial],
    train: Train,
    config: TrainingConfig,
    *,
    iterations_per_epoch: int,
    workers: int = 1,
    threads: int = 1,
    dask_address: str | None = None,
) -> Iterator[StudyProgress]:
    """Run the trials that have not finished, yielding after each; then ``results.jsonl`` holds all that have.

    Killed at any moment and run again, it ends with the same results, up to seconds. The speed of both precisions is
    measured first, while nothing else runs. A trial begins with the network of the trial that is its first phase
    (`ppt_core.study.running.first_phase_of`), if that one has finished by then.

    Args:
        study: where to.
        trials: which; those that have finished are never run again.
        train: see `ppt_core.study.running.Train`.
        config: the recipe that the trials share.
        iterations_per_epoch: of this recipe on these data.
        workers: trials at a time, each in a process of its own.
        threads: of each trial.
        dask_address: see `ppt_core.study.jobs.run_jobs`; the cluster must see the study and the data under these
            very paths.

    Raises `DataError`, naming the trial, if one fails.
    """
    where: dict[str, Any] = {"workers": workers, "threads": threads, "dask_address": dask_address}
    missing = study.missing(trials)
    speed = study.speed()
    if speed is None:
        (speed,) = run_jobs(measure_speed, [(train, config, iterations_per_epoch, threads)], **where | {"workers": 1})
        write_json(study.path / "speed.json", {"format_version": FORMAT_VERSION, **speed.to_dict()})
    shared = study.first_phases(trials, config, iterations_per_epoch)
    jobs = [(train, config, trial, study.trial_path(trial), threads, shared.get(trial.name)) for trial in missing]
    cost = {trial.name: (0 if trial.name in shared else trial.full) + trial.low * speed.slowdown for trial in missing}
    start, finished = time.monotonic(), 0.0
    n_all = len(in_order(trials))
    for number, record in enumerate(run_jobs(run_trial, jobs, **where), n_all - len(missing) + 1):
        study.write_results()
        finished += cost[record["name"]]
        left = (sum(cost.values()) - finished) * (time.monotonic() - start) / finished
        yield StudyProgress(number, n_all, record, left)
    study.write_results()
