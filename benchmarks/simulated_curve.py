"""Seconds of whole trainings with simulated 1-bit layers, beside those that a study computes for them.

    python -m benchmarks.simulated_curve --data ml-100k-99 --json

A study computes what its iterations would take with 1-bit layers simulated in plain PyTorch: iterations by the rate of
such steps. Here whole trainings of each technique are simulated from end to end (`ppt_core.device.usual_simulation`).
Both are seconds of one thread on the processor, so that a machine that others share does not decide; the rates are of
the same session, 100 steps of each precision in turns before the trainings and 100 behind them.
"""

import os

from ppt_core.environment import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})

import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.provenance import document
from ncf_ppt.model import NCFConfig
from ncf_ppt.study import train
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_core.device import usual_simulation
from ppt_core.runs.run import Run
from ppt_core.study.running import step_seconds, trial_config
from ppt_core.study.speed import IGNORED
from ppt_core.study.trials import Trial
from ppt_core.threads import limited_threads

TURNS, STEPS = 5, 20
TECHNIQUES = {"full precision": 1.0, "partial pre-training": 0.5, "low precision": 0.0}


def measure_rates(start: Any, config: NCFTrainingConfig) -> dict[str, float]:
    """Iterations per second of simulated steps at full and at low precision, in turns."""
    n_steps = TURNS * (IGNORED + STEPS)
    trainings = {
        "full": step_seconds(start, NCFTrainingConfig(**{**vars(config), "split": 1.0}), n_steps),
        "low": step_seconds(start, NCFTrainingConfig(**{**vars(config), "split": 0.0}), n_steps),
    }
    rates: dict[str, list[float]] = {"full": [], "low": []}
    for _ in range(TURNS):
        for name, steps in trainings.items():
            for _ in range(IGNORED):
                next(steps)
            rates[name].append(STEPS / sum(_thread_seconds(steps, STEPS)))
    return {name: statistics.mean(found) for name, found in rates.items()}


def _thread_seconds(steps: Iterator[Any], n: int) -> Iterator[float]:
    for _ in range(n):
        start = time.thread_time()
        next(steps)
        yield time.thread_time() - start


def train_simulated(start: Any, config: NCFTrainingConfig, trial: Trial) -> tuple[int, float, float]:
    """Iterations, seconds and HR@10 of a whole training; its one evaluation does not count, as in a study."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        steps = start(trial_config(config, trial), path, checkpoint_seconds=float("inf"))
        seconds, begun = 0.0, time.thread_time()
        for step in steps:
            if step.metrics is None:
                seconds = time.thread_time() - begun
        result = Run.open(path).result()
    n = result.training.iterations
    return n, seconds * n / (n - 1), result.metrics["hit_ratio"]  # the last step cannot be told from its evaluation


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="Prepared folder.")
@click.option("--budgets", default="0.25,0.5,1", show_default=True, help="Epochs.")
@click.option("--json", "as_json", is_flag=True)
def main(data: Path, budgets: str, as_json: bool) -> None:
    """Measure."""
    start, config = partial(train, data, NCFConfig(), "cpu"), NCFTrainingConfig()
    rows: list[dict[str, Any]] = []
    with limited_threads(1), usual_simulation():
        before = measure_rates(start, config)
        trainings = [
            (technique, Trial.of(budget, split, 0), train_simulated(start, config, Trial.of(budget, split, 0)))
            for budget in map(float, budgets.split(","))
            for technique, split in TECHNIQUES.items()
        ]
        behind = measure_rates(start, config)
    rates = {name: (before[name] + behind[name]) / 2 for name in before}
    rows = []
    for technique, trial, (n, seconds, hit_ratio) in trainings:
        n_full = round(n * trial.split)
        computed = n_full / rates["full"] + (n - n_full) / rates["low"]
        rows.append(
            {
                "technique": technique,
                "epochs": trial.epochs,
                "iterations": n,
                "seconds": seconds,
                "computed_seconds": computed,
                "ratio": computed / seconds,
                "hit_ratio": hit_ratio,
            }
        )
    slowdown = rates["full"] / rates["low"]
    if as_json:
        return click.echo(document({"rates": rates, "slowdown": slowdown, "data": data.name, "trainings": rows}))
    for row in rows:
        click.echo(
            f"{row['technique']:>22} {row['epochs']:>5g} epochs: {row['seconds']:.1f} s, computed "
            f"{row['computed_seconds']:.1f} s"
        )
    click.echo(f"iterations/s: full {rates['full']:.1f}, low {rates['low']:.1f}, slowdown {slowdown:.2f}")


if __name__ == "__main__":
    main()
