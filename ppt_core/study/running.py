"""Run one trial of a study, and say where and how it ran."""

import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ppt_core.errors import DataError
from ppt_core.runs.config import TrainingConfig
from ppt_core.runs.files import read_json, write_json
from ppt_core.runs.fit import Progress
from ppt_core.runs.provenance import provenance
from ppt_core.runs.run import Run
from ppt_core.schedule import Constant
from ppt_core.study.trials import OF_A_TRIAL, TO_THE_END, Trial
from ppt_core.threads import limited_threads

FORMAT_VERSION = 1
WALL_CLOCK = (
    "seconds from just before the first iteration to just after the last: drawing batches and the projection at the "
    "switch count; loading, compilation, evaluations and checkpoints do not"
)
Train = Callable[..., Iterator[Progress]]
"""``train(config, path, resume=False, checkpoint_seconds=60, first_phase=None)`` trains into a run folder, as
`ppt_core.runs.fit.fit` does.

It must be importable by name in another process: a function at the top of a module, or a `functools.partial` of one
with plain values.
"""

_WARM_UP = 4


def run_trial(
    train: Train, config: TrainingConfig, trial: Trial, path: Path, threads: int, first_phase: Path | None = None
) -> dict[str, Any]:
    """Train into the run folder ``path``, or the rest of it, and write ``trial.json`` there: what it returns.

    Args:
        train: see `Train`.
        config: the recipe; the trial sets its split, length and seed. It is evaluated at the end only.
        trial: what to train.
        path: a new run folder, or one that an interrupted trial left.
        threads: of PyTorch and Numba.
        first_phase: where the trial is that is the first phase of this one. If it has finished by now, by this code, on
            this machine and with as many threads, its network and its seconds are taken over: the bytes are the same.

    Raises `DataError`, naming the trial, for what goes wrong with the data or in training.
    """
    config = trial_config(config, trial)
    resume = (path / "config.json").exists()
    try:
        with limited_threads(threads):
            here = {**provenance(), "threads": threads}
            takes = Run.open(path).config.first_phase is not None if resume else _has_finished(first_phase, here)
            first = Run.open(first_phase) if first_phase is not None and takes else None
            _warm_up(train, config)
            for _ in train(config, path, resume=resume, first_phase=first):
                pass
        run = Run.open(path)
        result = run.result().to_dict()
    except (DataError, ValueError) as error:  # some of them do not survive the way back from another process
        raise DataError(f"trial {trial.name}: {error}") from None
    record = {
        "format_version": FORMAT_VERSION,
        "name": trial.name,
        "full": trial.full,
        "low": trial.low,
        **result,
        "wall_clock": WALL_CLOCK,
        "resumed": resume,
        "first_phase": run.config.first_phase,
        **here,
    }
    write_json(path / "trial.json", record)
    return record


def trial_config(config: TrainingConfig, trial: Trial) -> TrainingConfig:
    """The recipe of one trial: evaluated at the end, and never stopped early."""
    return replace(config, split=trial.split, epochs=trial.epochs, iterations=None, seed=trial.seed, **TO_THE_END)


def _has_finished(trial: Path | None, here: dict[str, Any]) -> bool:
    """Whether there is a trial that has finished, by the code and on the machine that ``here`` describes."""
    if trial is None or not (trial / "trial.json").exists():
        return False
    record = read_json(trial / "trial.json", format_version=FORMAT_VERSION)
    return all(record.get(key) == value for key, value in here.items())


def first_phase_of(config: TrainingConfig, trial: Trial, iterations_per_epoch: int) -> Trial | None:
    """The trial that is the first phase of this one, bit for bit; None if there can be none.

    Each phase goes through the whole learning-rate schedule, and the second begins with a fresh optimizer: so split
    0.5 of 4 epochs begins as split 1 of 2 epochs does, where rounding makes them as many iterations.
    """
    if config.at_switch != "reset" or not (trial.full and trial.low):
        return None
    first = Trial(full=trial.full, low=0, seed=trial.seed)
    own, taken = (
        trial_config(config, each).schedule(iterations_per_epoch, Constant(0)).phases[0] for each in (trial, first)
    )
    return first if own == taken else None


def refuse_empty_phases(config: TrainingConfig, trials: Iterable[Trial], iterations_per_epoch: int) -> None:
    """Raise ValueError if rounding to whole iterations leaves a trial without one of its phases.

    It would be trained as another technique than its name says.
    """
    for trial in trials:
        phases = trial_config(config, trial).schedule(iterations_per_epoch, Constant(0)).phases
        wanted = [precision for precision in ("full", "low") if getattr(trial, precision) > 0]
        if round(trial.epochs * iterations_per_epoch) < 1 or [phase.precision for phase in phases] != wanted:
            raise ValueError(
                f"a trial of {trial.full:g} full + {trial.low:g} low epochs is too short: an epoch has "
                f"{iterations_per_epoch} iterations and each part needs one; give longer budgets or smaller batches"
            )


def probe(train: Train, config: TrainingConfig) -> tuple[dict[str, Any], int]:
    """Return the settings that all trials of a study share, as JSON values, and the iterations of an epoch.

    Trains one iteration into a folder that is thrown away. Raises what ``train`` raises for settings or data that do
    not fit, before a study is begun.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        first = next(train(replace(config, epochs=1, iterations=None, **TO_THE_END), path))
        settings = Run.open(path).config.settings()
    settings["training"] = {key: value for key, value in settings["training"].items() if key not in OF_A_TRIAL}
    return settings, first.iterations


def step_seconds(train: Train, config: TrainingConfig, n_steps: int) -> Generator[float, None, None]:
    """Yield the seconds of each of ``n_steps`` iterations of a training that is then thrown away.

    The first ones compile and allocate. Raises what ``train`` raises.
    """
    config = replace(config, iterations=n_steps + 1, **TO_THE_END)  # the last one would evaluate
    with tempfile.TemporaryDirectory() as folder:
        steps = train(config, Path(folder) / "run", checkpoint_seconds=float("inf"))
        for _ in range(n_steps):
            start = time.perf_counter()
            next(steps)
            yield time.perf_counter() - start


def _warm_up(train: Train, config: TrainingConfig) -> None:
    """Let a few iterations of each precision compile what they need, so that no trial's time holds it."""
    split = config.split if config.split in (0, 1) else 0.5
    for _ in step_seconds(train, replace(config, split=split), _WARM_UP):
        pass
