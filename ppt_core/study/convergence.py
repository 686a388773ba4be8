"""Epochs until a metric reaches its target, over several seeds: MLPerf's measure of a recipe."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ppt_core.errors import DataError
from ppt_core.runs.config import TrainingConfig
from ppt_core.runs.progress import follow
from ppt_core.runs.run import Run
from ppt_core.study.running import Train
from ppt_core.threads import limited_threads

RULE = "mean of the runs that reached the target without the fastest and the slowest (MLPerf v0.5)"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One training towards the target.

    Attributes:
        seed: of the training.
        reached: whether it reached the target.
        epochs: until then, or in all.
        seconds: of training until then, or in all, without evaluations.
        accuracy: the metric at the end.
    """

    seed: int
    reached: bool
    epochs: float
    seconds: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, repr=False)
class Convergence:
    """What several trainings towards one target came to.

    Attributes:
        target: what the metric had to reach.
        metric: its title.
        protocol: how it is measured, where there is a choice.
        attempts: one for each seed, in order.
    """

    target: float
    metric: str
    protocol: str
    attempts: tuple[Attempt, ...]

    @property
    def n_reached(self) -> int:
        """Trainings that reached the target."""
        return sum(attempt.reached for attempt in self.attempts)

    @property
    def epochs(self) -> float | None:
        """`trimmed_mean` of the epochs to the target, over those that reached it."""
        return trimmed_mean([attempt.epochs for attempt in self.attempts if attempt.reached])

    @property
    def seconds(self) -> float | None:
        """`trimmed_mean` of their seconds, likewise."""
        return trimmed_mean([attempt.seconds for attempt in self.attempts if attempt.reached])

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "target": self.target,
            "metric": self.metric,
            "protocol": self.protocol,
            "n_trials": len(self.attempts),
            "n_reached": self.n_reached,
            "epochs_to_target": self.epochs,
            "seconds_to_target": self.seconds,
            "rule": RULE,
            "trials": [asdict(attempt) for attempt in self.attempts],
        }

    def __repr__(self) -> str:
        protocol, width = f" [{self.protocol}]" if self.protocol else "", max(7, len(self.metric))
        lines = [f"seed  {self.metric:>{width}}  epochs  seconds  {self.metric} >= {self.target:g}{protocol}"]
        lines += [
            f"{each.seed:>4}  {each.accuracy:>{width}.4f}  {each.epochs:>6.2f}  {each.seconds:>7.1f}  "
            f"{'reached' if each.reached else 'not reached'}"
            for each in self.attempts
        ]
        lines.append(f"reached by {self.n_reached} of {len(self.attempts)}")
        if self.epochs is None or self.seconds is None:
            lines.append("no mean: it leaves out the fastest and the slowest, so three must reach the target")
        else:
            lines.append(f"{self.epochs:.2f} epochs, {self.seconds:.1f} s: the {RULE}")
        return "\n".join(lines)


def trimmed_mean(values: Sequence[float]) -> float | None:
    """Mean without the lowest and the highest of ``values``; None of fewer than three.

    Source: MLPerf training rules v0.5 (mlcommons/training_policies, commit ae9f1e0), section "Results".
    """
    return statistics.fmean(sorted(values)[1:-1]) if len(values) >= 3 else None


def run_attempts(
    train: Train,
    config: TrainingConfig,
    path: Path,
    *,
    n_trials: int,
    threads: int,
    metric: tuple[str, str],
) -> Iterator[Convergence]:
    """Train with seeds 0, 1, ... until the target, yielding what is known after each.

    Args:
        train: see `ppt_core.study.running.Train`.
        config: the recipe; its ``threshold`` is the target and its ``epochs`` the most that are tried.
        path: a folder for the run folders ``seed0``, ``seed1``, ...; those that have finished are not trained again,
            and one that was interrupted goes on.
        n_trials: number of trainings.
        threads: of each.
        metric: the key of a run's result that is compared with the target, and its title.

    Raises ValueError without a threshold, and `DataError`, naming the training, for other settings than a run in
    ``path`` has and for one that diverges.
    """
    if config.threshold is None or not config.eval_every:
        raise ValueError(
            f"threshold is {config.threshold} and eval_every is {config.eval_every:g}; a target needs a threshold and "
            "evaluations to compare with it, as the recipe mlperf has"
        )
    key, title = metric
    attempts: list[Attempt] = []
    for seed in range(n_trials):
        folder = path / f"seed{seed}"
        resume = (folder / "config.json").exists()
        try:
            with limited_threads(threads):
                follow(train(replace(config, seed=seed), folder, resume=resume), {title: key}, shown=None)
        except (DataError, ValueError) as error:
            raise DataError(f"seed {seed}: {error}") from None
        result = Run.open(folder).result()
        attempts.append(
            Attempt(
                seed=seed,
                reached=bool(result.threshold_reached),
                epochs=result.training.epochs,
                seconds=result.seconds,
                accuracy=result.metrics[key],
            )
        )
        yield Convergence(
            target=config.threshold,
            metric=title,
            protocol=result.metrics.get("protocol", ""),
            attempts=tuple(attempts),
        )
