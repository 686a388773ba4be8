"""Train one model into a run folder: evaluations, checkpoints, exact resume. The same for users and for images."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ppt_core.distributed import World
from ppt_core.errors import DataError
from ppt_core.layers import find_not_finite
from ppt_core.runs.beginning import begin, refuse_other_first_phase
from ppt_core.runs.checkpoint import (
    in_whole,
    save_tensors,
    shards_of_state,
    training_state,
)
from ppt_core.runs.clock import PhaseClock
from ppt_core.runs.config import TrainingConfig
from ppt_core.runs.locks import sole_writer
from ppt_core.runs.machine import cpu_name
from ppt_core.runs.provenance import provenance, warn_of_other_code
from ppt_core.runs.record import FIRST_PHASE, PROVENANCE
from ppt_core.runs.run import EventLog, Run
from ppt_core.runs.stopping import Stopping
from ppt_core.runs.task import Task, WarmStart
from ppt_core.schedule import Phase, PhaseSchedule
from ppt_core.steady_products import steady
from ppt_core.thread_tuner import ThreadTuner, tuned
from ppt_core.threads import all_threads, are_chosen, usable_cores
from ppt_core.train import TrainStep, train_steps


@dataclass(frozen=True)
class Progress:
    """Where a training stands after an iteration.

    Attributes:
        iteration: iterations done.
        iterations: iterations in all.
        phase: the phase of the last iteration.
        metrics: of the evaluation that took place just now, else None.
    """

    iteration: int
    iterations: int
    phase: Phase
    metrics: dict[str, Any] | None


def fit(
    task: Task,
    path: Path,
    config: TrainingConfig,
    *,
    resume: bool = False,
    checkpoint_seconds: float = 60,
    started: float | None = None,
    world: World = World(),  # noqa: B008 (frozen)
    first_phase: Run | None = None,
) -> Iterator[Progress]:
    """Train into the run folder ``path``, yielding after every iteration; the run's `result` is there at the end.

    The model reported and kept is the last one. Training is a function of the task and the config: interrupted
    and resumed, it ends with the same bytes. Time spent on evaluations, checkpoints and between two yields does
    not count as training time; the switch of precision does.

    Args:
        task: the model, its data and its measure.
        path: a new run folder; with ``resume`` an existing one, whose settings must equal these.
        config: the recipe.
        resume: go on from the last checkpoint of ``path``; a finished run is left as it is. By other code than the run
            was started by it goes on with a `DataWarning`, and the run keeps that it did.
        checkpoint_seconds: least time between two checkpoints.
        started: when the data began to be read, in seconds since 1970: the log's run starts there, as MLPerf's clock
            does. None is now.
        world: the processes that train together, each in this function. The first evaluates, with its own running
            statistics of BatchNorm, and writes; ``path`` must be a folder that all see. A run may go on with
            another number of them.
        first_phase: a finished run at full precision, of the same settings and as many iterations as the first phase
            has. Its network and its seconds are taken over, which ends with the bytes of a training that does not:
            the learning-rate schedule is compressed into each phase, and the second begins with a fresh optimizer.

    Raises `DataError` for an existing ``path`` without ``resume``, for other settings with it, while another process
    trains into it, and if training diverges.
    """
    if config.patience is not None and task.validate is None:
        raise DataError(
            f"patience is {config.patience}, but the data hold no validation set; prepare one or leave it out"
        )
    settings = {**task.settings, "training": config.to_dict()}
    if first_phase is not None:
        refuse_other_first_phase(first_phase, settings, config.schedule(task.iterations_per_epoch, task.learning_rate))
    with ExitStack() as stack:
        matter = not task.tune_threads and world.device == "cpu"
        if world.agree(
            lambda: _open(path, settings, stack, resume=resume, threads_matter=matter, first_phase=first_phase)
        ):
            return
        run = Run.open(path)
        yield from _train(run, task, config, checkpoint_seconds, started or time.time(), stack, world, first_phase)
    world.barrier()  # no process goes on before the first has written


def _open(
    path: Path,
    settings: dict[str, Any],
    stack: ExitStack,
    *,
    resume: bool,
    threads_matter: bool,
    first_phase: Run | None,
) -> bool:
    """Make the run folder, or check that it can be resumed; return whether its training has finished.

    If it has not, ``stack`` keeps other processes out of the folder.
    """
    if not resume:
        taken = {} if first_phase is None else {FIRST_PHASE: first_phase.path.name}
        Run.create(path, {**settings, PROVENANCE: provenance(), **taken})
    run = Run.open(path)
    run.refuse_other_settings(settings)
    if not run.finished:
        stack.enter_context(sole_writer(path))
        if resume and warn_of_other_code(
            str(path), run.config.provenance, now := provenance(), threads_matter=threads_matter
        ):
            run.note_resumed_by(now)
    return run.finished  # by now: it may have ended between the two


def _train(
    run: Run,
    task: Task,
    config: TrainingConfig,
    checkpoint_seconds: float,
    started: float,
    stack: ExitStack,
    world: World,
    first_phase: Run | None,
) -> Iterator[Progress]:
    schedule, per_epoch = config.schedule(task.iterations_per_epoch, task.learning_rate), task.iterations_per_epoch
    iterations = schedule.iterations
    eval_every = max(1, round(config.eval_every * per_epoch)) if config.eval_every else iterations
    stopping = Stopping(metric=task.metric, threshold=config.threshold, patience=config.patience, schedule=schedule)
    begun = begin(run, task, schedule, first_phase)
    start, clock, start_seconds, optimizer = begun.iteration, begun.clock, begun.start_seconds, begun.optimizer
    world.agree(lambda: run.rewind_metrics(start))
    log = EventLog(run.path / "mlperf.log" if world.is_first else None, keep=begun.logged)
    stack.callback(log.close)
    begun_here = begun.logged == 0
    if begun_here:
        _log_start(log, task, config, started)
    else:
        log.event("resumed", metadata={"iteration": start})
    if start == 0 and task.warm_start is not None:
        start_seconds = _start(task, task.warm_start, world)
    tuner = ThreadTuner(all_threads())
    steps: Iterator[TrainStep] = train_steps(
        task.model,
        task.batches(start),
        task.loss,
        schedule,
        task.make_optimizer,
        start=start,
        optimizer=optimizer,
        at_switch=config.at_switch,
        scale=config.scale,
        project=task.project,
        world=world,
        record=task.record,
    )
    del optimizer, begun  # `steps` replaces it at the switch
    if task.tune_threads:
        steps = steady(steps, task.model)
    if task.tune_threads and tuner.most > 1 and world == World(device="cpu") and not are_chosen():
        steps = tuned(steps, tuner)
    if start % per_epoch == 0 or begun_here:
        log.start("epoch_start", metadata={"epoch_num": start // per_epoch + 1})
    reached = stalled = False
    saved_at = time.perf_counter()
    clock.start()
    for step in steps:
        done, phase = step.iteration + 1, schedule.phases[step.phase]
        is_evaluated = done % eval_every == 0 or done == iterations
        # What was evaluated is saved, so that an interruption repeats no evaluation.
        is_due = is_evaluated or time.perf_counter() - saved_at >= checkpoint_seconds
        if task.shards and not is_evaluated:  # a checkpoint needs the rows of all, who go by one clock
            is_due = world.agree(partial(bool, is_due))
        if is_due or (done < iterations and schedule.at(done)[0] != step.phase):
            step.loss.item()  # waits for a GPU, which may be many steps behind, and whose work counts here
        if is_evaluated:
            tuner.rest()
        clock.stop(step.phase)
        if done % per_epoch == 0 or done == iterations:
            log.end("epoch_stop", metadata={"epoch_num": math.ceil(done / per_epoch)})
        metrics = None
        if is_evaluated:
            metrics = _evaluate(task, log, step.loss, done, world)
            reached = stopping.reached(step.phase, metrics)
            metrics |= {
                **_timing(schedule, done, clock, start_seconds, task),
                "split": config.split,
                "seed": config.seed,
                "threshold_reached": None if config.threshold is None else reached,
                "threshold_phase": phase.precision if reached else None,
            }
            if world.is_first:
                run.append_metrics(metrics)
            stalled = config.patience is not None and world.agree(lambda: stopping.stalled(run.metrics()))
        is_last = reached or stalled or done == iterations
        if is_due and not is_last:
            if world.is_first or task.shards:
                look = partial(_refuse_diverged, task.model, step.loss, done)
                world.check(look) if task.shards else look()
                _save_checkpoint(run, task, done, clock, start_seconds, step.optimizer, log.size, world)
            saved_at = time.perf_counter()
        del step  # or the optimizer of this phase would be in memory beside that of the next
        yield Progress(done, iterations, phase, metrics)
        if reached or stalled:
            break
        if done % per_epoch == 0 and done < iterations:
            log.start("epoch_start", metadata={"epoch_num": done // per_epoch + 1})
        clock.start()
    if done % per_epoch and done < iterations:
        log.end("epoch_stop", metadata={"epoch_num": math.ceil(done / per_epoch)})
    tensors = in_whole(task.model.state_dict(), task.shards)
    save_tensors(run.model_path, tensors, {"precision": phase.precision}, world=world)
    log.end("run_stop", metadata={"status": "success" if reached or config.threshold is None else "aborted"})


def _log_start(log: EventLog, task: Task, config: TrainingConfig, started: float) -> None:
    """Log what MLPerf's rules want at the start of a run, whose clock runs from where the data began to be read."""
    began = {"time_ms": int(started * 1000)}
    for key, value in {
        "submission_org": "not submitted",
        "submission_platform": f"{usable_cores()} cores of {cpu_name()}",
        "submission_division": "open",
        "submission_status": "research",
        "cache_clear": False,
    }.items():
        log.event(key, value, **began)
    log.start("init_start", **began)
    log.end("init_stop", **began)
    log.start("run_start", **began)
    target = {} if config.threshold is None else {"eval_target": config.threshold}
    for key, value in {**task.events, **target}.items():
        log.event(key, value)


def _save_checkpoint(
    run: Run,
    task: Task,
    done: int,
    clock: PhaseClock,
    start_seconds: float,
    optimizer: torch.optim.Optimizer,
    logged: int,
    world: World,
) -> None:
    state = {"iteration": done, "seconds": clock.seconds, "logged": logged}
    if task.warm_start is not None:
        state["start_seconds"] = start_seconds
    tensors = training_state(task.model, optimizer)
    shards = shards_of_state(tensors, task.model, optimizer, task.shards)
    save_tensors(run.checkpoint_path, in_whole(tensors, shards), state, world=world)


def _start(task: Task, warm_start: WarmStart, world: World) -> float:
    """Start the model warm in every process; return the seconds that it took."""
    clock = time.perf_counter()
    world.agree(warm_start.run)
    world.copy_from_first(task.model.parameters())
    return time.perf_counter() - clock


def _refuse_diverged(model: nn.Module, loss: Tensor, done: int) -> None:
    found = find_not_finite(model)
    if found or not math.isfinite(loss.item()):
        what = f"{found} holds values that are not finite" if found else f"the loss is {loss.item()}"
        raise DataError(f"training diverged: {what} at iteration {done}; lower the learning rate")


def _evaluate(task: Task, log: EventLog, loss: Tensor, done: int, world: World) -> dict[str, Any]:
    world.check(lambda: _refuse_diverged(task.model, loss, done))
    whole, rest = divmod(done, task.iterations_per_epoch)
    epoch = {"epoch_num": done / task.iterations_per_epoch if rest else whole}
    log.start("eval_start", metadata=epoch)
    metrics = task.evaluate()
    if task.validate is not None:
        metrics["validation"] = task.validate()
    log.event("eval_accuracy", metrics[task.metric], metadata=epoch)
    log.end("eval_stop", metadata=epoch)
    return {**metrics, **task.result, "loss": loss.item()}


def _timing(schedule: PhaseSchedule, done: int, clock: PhaseClock, start_seconds: float, task: Task) -> dict[str, Any]:
    phases: list[dict[str, Any]] = []
    left = done
    if task.warm_start is not None:
        phases.append({"precision": task.warm_start.name, "iterations": 0, "seconds": start_seconds})
    for phase, phase_seconds in zip(schedule.phases, clock.seconds, strict=True):
        iterations = min(left, phase.iterations)
        phases.append({"precision": phase.precision, "iterations": iterations, "seconds": phase_seconds})
        left -= iterations
    epochs = done / task.iterations_per_epoch
    return {
        "iterations": done,
        "epochs": epochs,
        "seconds": start_seconds + clock.total,
        "samples_per_second": epochs * task.samples_per_epoch / clock.total,
        "phases": phases,
    }
