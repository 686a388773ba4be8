"""Where a training begins: at its first iteration, at its checkpoint, or behind a first phase that another run was."""

import sys
from dataclasses import dataclass
from typing import Any

import torch

from ppt_core.damaged import checked, understanding
from ppt_core.errors import DataError
from ppt_core.identity import differences, in_words
from ppt_core.layers import set_precision
from ppt_core.runs.checkpoint import load_tensors, open_tensors, restore_training_state
from ppt_core.runs.clock import PhaseClock
from ppt_core.runs.run import Run
from ppt_core.runs.task import Task
from ppt_core.schedule import PhaseSchedule

_OF_THE_LENGTH = ("split", "epochs", "iterations", "threshold", "patience")


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """Where a training stands before its next iteration.

    Attributes:
        clock: with the seconds of each phase so far.
        iteration: the next one.
        start_seconds: those of the warm start.
        optimizer: with the moments that it goes on with; None in a phase that begins.
        logged: bytes of the log that were written by then.
    """

    clock: PhaseClock
    iteration: int = 0
    start_seconds: float = 0.0
    optimizer: torch.optim.Optimizer | None = None
    logged: int = 0


def begin(run: Run, task: Task, schedule: PhaseSchedule, first_phase: Run | None) -> Beginning:
    """Put the state that a training goes on from into the model: of ``run``'s last checkpoint, or of ``first_phase``.

    With neither the model stays as it is. Raises `DataError` for a checkpoint or a network that does not fit.
    """
    if run.checkpoint_path.exists():
        return _restore(run, task, schedule)
    if first_phase is not None:
        return _take_over(first_phase, task, schedule)
    return Beginning(clock=PhaseClock([0.0] * len(schedule.phases)))


def refuse_other_first_phase(first: Run, settings: dict[str, Any], schedule: PhaseSchedule) -> None:
    """Raise unless a training of these settings would begin with the steps of ``first``, and needs no more of it."""
    if len(schedule.phases) < 2:
        raise ValueError(f"{first.path} would be the whole of a training of one phase; give a split between 0 and 1")
    if settings["training"]["at_switch"] != "reset":
        raise ValueError("at_switch is keep; a first phase that was trained before leaves no moments, so use reset")
    for name, old, new in differences(first.config.settings(), settings):
        if name not in _OF_THE_LENGTH:
            raise DataError(f"{first.path} was trained {in_words(name, old, new)}; its network is no first phase here")
    taken, own = first.result().training.phases[-1], schedule.phases[0]
    if (taken.precision, taken.iterations) != (own.precision, own.iterations):
        raise DataError(
            f"{first.path} ends with {taken.iterations} iterations of {taken.precision} precision; the first phase has "
            f"{own.iterations} of {own.precision} precision"
        )


def _take_over(first: Run, task: Task, schedule: PhaseSchedule) -> Beginning:
    """Put the network of ``first`` into the model, as the first phase would leave it."""
    *before, taken = first.result().training.phases
    tensors, _ = load_tensors(first.model_path)
    with understanding(first.model_path, RuntimeError):
        task.model.load_state_dict({**task.model.state_dict(), **tensors})  # it has no steps of activations yet
    return Beginning(
        iteration=taken.iterations,
        clock=PhaseClock([taken.seconds] + [0.0] * (len(schedule.phases) - 1)),
        start_seconds=sum(phase.seconds for phase in before),
    )


def _restore(run: Run, task: Task, schedule: PhaseSchedule) -> Beginning:
    with open_tensors(run.checkpoint_path) as file, understanding(run.checkpoint_path, RuntimeError):
        about = checked(file.metadata, {"iteration": int, "seconds": list}, run.checkpoint_path)
        start, seconds = about["iteration"], [float(each) for each in about["seconds"]]
        if not 0 < start < schedule.iterations or len(seconds) != len(schedule.phases):
            raise ValueError(f"iteration {start} with the seconds of {len(seconds)} phases")
        if schedule.phases[schedule.at(start - 1)[0]].precision == "low":
            set_precision(task.model, "low")
        optimizer = task.make_optimizer(task.model)
        restore_training_state(file, task.model, optimizer, task.shards)
        return Beginning(
            iteration=start,
            clock=PhaseClock(seconds),
            start_seconds=float(about.get("start_seconds", 0.0)),
            optimizer=optimizer,
            logged=int(about.get("logged", sys.maxsize)),  # older checkpoints do not say
        )
