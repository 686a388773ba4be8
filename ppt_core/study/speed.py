"""Iterations per second of both precisions: the source's Table 2."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from ppt_core.device import usual_simulation
from ppt_core.runs.config import TrainingConfig
from ppt_core.runs.provenance import provenance
from ppt_core.study.rates import Rates, Speed
from ppt_core.study.running import Train, step_seconds
from ppt_core.threads import limited_threads

EPOCHS = 5
IGNORED = 3
_SHORTEST, _LONGEST, _LONGEST_SECONDS = 10, 100, 5
RULE = (
    f"mean of {EPOCHS} epochs, the first {IGNORED} iterations of each ignored (Renda and Fromm 2020, Table 2); an "
    f"epoch is cut to {_LONGEST} iterations or {_LONGEST_SECONDS} s, or goes on to {_SHORTEST} iterations; what is "
    "compared takes turns, epoch by epoch"
)
_STEPS: dict[str, Callable[[], AbstractContextManager[None]]] = {"kernels": nullcontext, "plain": usual_simulation}


def measure_speed(
    train: Train, config: TrainingConfig, iterations_per_epoch: int, threads: int, epochs: int = EPOCHS
) -> Speed:
    """Train at full and at low precision in turns and return the iterations per second of each.

    A measurement of its own, since trials of a study run at different moments, beside each other, and hold too few
    iterations where a budget is short: drift of the machine would pass for a slowdown.
    """
    timed = min(max(iterations_per_epoch - IGNORED, _SHORTEST), _LONGEST)
    n_steps = epochs * (IGNORED + timed)
    rates: dict[str, dict[str, list[float]]] = {step: {"full": [], "low": []} for step in _STEPS}
    with limited_threads(threads):
        trainings = {
            (step, name): step_seconds(train, replace(config, split=split), n_steps)
            for step in _STEPS
            for name, split in (("full", 1.0), ("low", 0.0))
        }
        for _ in range(epochs):
            for (step, name), seconds in trainings.items():
                with _STEPS[step]():
                    rates[step][name].append(_rate(seconds, timed))
        for seconds in trainings.values():
            seconds.close()
    origin = {
        "batch_size": config.batch_size,
        "iterations_per_epoch": iterations_per_epoch,
        "rule": RULE,
        **provenance(),
        "threads": threads,
    }
    return Speed(**_means(rates["kernels"]), plain=Rates(**_means(rates["plain"])), origin=origin)


def _rate(seconds: Iterator[float], n_steps: int) -> float:
    """Iterations per second of the next epoch."""
    for _ in range(IGNORED):
        next(seconds)
    taken: list[float] = []
    while len(taken) < _SHORTEST or (len(taken) < n_steps and sum(taken) < _LONGEST_SECONDS):
        taken.append(next(seconds))
    return len(taken) / sum(taken)


def _means(rates: dict[str, list[float]]) -> dict[str, Any]:
    full, low = (statistics.mean(rates[name]) for name in ("full", "low"))
    return {"full": full, "low": low, "by_epoch": rates}
