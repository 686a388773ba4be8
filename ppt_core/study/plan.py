"""What a study trains, and on how many cores: asked for, estimated, and run."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ppt_core.runs.config import TrainingConfig
from ppt_core.study.jobs import cluster_workers, threads_of_a_job
from ppt_core.study.running import Train, probe, refuse_empty_phases
from ppt_core.study.speed import measure_speed
from ppt_core.study.study import Study, StudyProgress, run_study
from ppt_core.study.trials import Trial, curve_trials, grid_trials, in_order


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """The trials of a study.

    Attributes:
        budgets: lengths of training, in the unit.
        splits: fractions at full precision, tried at each budget.
        n_trials: trials of each kind, with seeds 0, 1, ...
        grid: lengths in the unit, of which every pair (and 0) is tried at full and at low precision.
        unit: of the lengths: ``epochs``, or ``iterations``, as the source counts them.
    """

    budgets: tuple[float, ...] = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
    splits: tuple[float, ...] = (1, 0.5, 0)
    n_trials: int = 3
    grid: tuple[float, ...] = ()
    unit: Literal["epochs", "iterations"] = "epochs"

    def in_epochs(self, iterations_per_epoch: int) -> "StudyPlan":
        """The same plan with lengths in epochs."""
        if self.unit == "epochs":
            return self
        budgets, grid = (
            tuple(length / iterations_per_epoch for length in lengths) for lengths in (self.budgets, self.grid)
        )
        return replace(self, budgets=budgets, grid=grid, unit="epochs")

    @property
    def trials(self) -> list[Trial]:
        """All trials, as if the lengths were epochs. Raises ValueError for a length or a split that cannot be."""
        trials = curve_trials(self.budgets, self.splits, self.n_trials)
        return trials + (grid_trials(self.grid, self.n_trials) if self.grid else [])


@dataclass(frozen=True)
class Experiment:
    """What a study trains.

    Attributes:
        train: see `ppt_core.study.running.Train`.
        config: the recipe that the trials share.
        metric: its key in a run's result, and its title.
        execution: what the seconds of a trial depend on, and its result does not.
    """

    train: Train
    config: TrainingConfig
    metric: tuple[str, str]
    execution: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where trials run.

    Attributes:
        workers: trials at a time.
        threads: of each trial.
        dask_address: the scheduler of the cluster whose workers run them; None is this machine.
    """

    workers: int = 1
    threads: int = 1
    dask_address: str | None = None

    @classmethod
    def of(cls, workers: int | None, threads: int | None, dask_address: str | None, device: str) -> "Places":
        """Fill in what is None: one trial at a time on all cores, or all workers of a cluster with a thread each.

        Raises ValueError for workers beside a cluster, or for several that would share a GPU.
        """
        if dask_address is not None:
            if workers is not None:
                raise ValueError(f"workers is {workers} beside dask_address; a cluster runs as many as it has")
            return cls(workers=cluster_workers(dask_address), threads=threads or 1, dask_address=dask_address)
        workers = workers or 1
        if workers > 1 and device != "cpu":
            raise ValueError(f"workers is {workers} on {device}; trials that share a GPU would not be timed, so use 1")
        return cls(workers=workers, threads=threads_of_a_job(workers, threads))


@dataclass(frozen=True, kw_only=True, repr=False)
class StudyCost:
    """What the trials of a plan that have not finished would take.

    Attributes:
        n_trials: trials of the plan.
        missing: those that have not finished.
        full_iterations: at full precision, of all missing trials; first phases that are trials themselves count once.
        low_iterations: at low precision, likewise.
        full_speed: iterations per second at full precision.
        low_speed: iterations per second at low precision.
        places: where they would run.
    """

    n_trials: int
    missing: tuple[Trial, ...]
    full_iterations: float
    low_iterations: float
    full_speed: float
    low_speed: float
    places: Places

    @property
    def seconds(self) -> float:
        """Of training; evaluations and starts come on top."""
        seconds = self.full_iterations / self.full_speed + self.low_iterations / self.low_speed
        return seconds / self.places.workers

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return {
            "trials": self.n_trials,
            "to_run": [trial.name for trial in self.missing],
            "full_iterations": round(self.full_iterations),
            "low_iterations": round(self.low_iterations),
            "iterations_per_second": {"full": self.full_speed, "low": self.low_speed},
            "seconds": self.seconds,
            "workers": self.places.workers,
            "threads": self.places.threads,
        }

    def __repr__(self) -> str:
        lines = [f"{trial.name}  {trial.full:g} + {trial.low:g} epochs" for trial in self.missing]
        lines.append(
            f"{self.n_trials} trials, {len(self.missing)} to run: {self.full_iterations:,.0f} full and "
            f"{self.low_iterations:,.0f} low iterations, about {duration(self.seconds)} of training "
            f"({self.full_speed:.1f} and {self.low_speed:.1f} iterations/s, {self.places.workers} trials at a time); "
            "evaluations and starts come on top"
        )
        return "\n".join(lines)


class PlannedStudy:
    """A plan for a study folder, whose data and settings have been tried in one iteration.

    Args:
        path: the study folder, new or to go on with.
        plan: the trials.
        experiment: what they train.

    Raises what the training raises for settings or data that do not fit, and ValueError for trials that are too short.
    """

    def __init__(self, path: Path, plan: StudyPlan, experiment: Experiment) -> None:
        self.path, self.experiment = path, experiment
        settings, self.iterations_per_epoch = probe(experiment.train, experiment.config)
        self.plan = plan.in_epochs(self.iterations_per_epoch)
        self.trials = self.plan.trials
        refuse_empty_phases(experiment.config, self.trials, self.iterations_per_epoch)
        metric = dict(zip(("key", "title"), experiment.metric, strict=True))
        self.settings = settings | {"metric": metric, **experiment.execution}

    def missing(self) -> list[Trial]:
        """The trials that have not finished."""
        return self._open().missing(self.trials)

    def cost(self, places: Places) -> StudyCost:
        """Estimate what the missing trials take. Nothing is written; the speed is measured if it is not known."""
        study, found, per_epoch = self._open(), self.experiment, self.iterations_per_epoch
        missing = study.missing(self.trials)
        speed = study.speed() or measure_speed(found.train, found.config, per_epoch, places.threads, epochs=1)
        shared = study.first_phases(self.trials, found.config, per_epoch)
        full = sum(trial.full for trial in missing if trial.name not in shared) * per_epoch
        low = sum(trial.low for trial in missing) * per_epoch
        return StudyCost(
            n_trials=len(in_order(self.trials)),
            missing=tuple(missing),
            full_iterations=full,
            low_iterations=low,
            full_speed=speed.full,
            low_speed=speed.low,
            places=places,
        )

    def run(self, places: Places) -> Iterator[StudyProgress]:
        """Run the missing trials, yielding after each; see `ppt_core.study.study.run_study`."""
        study = Study.create(self.path.resolve(), self.settings)
        study.extend_plan(self.trials, self.plan.splits)
        yield from run_study(
            study,
            self.trials,
            self.experiment.train,
            self.experiment.config,
            iterations_per_epoch=self.iterations_per_epoch,
            workers=places.workers,
            threads=places.threads,
            dask_address=places.dask_address,
        )

    def _open(self) -> Study:
        return Study.create(self.path, self.settings) if self.path.exists() else Study(self.path, self.settings)


def duration(seconds: float) -> str:
    """Seconds as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
