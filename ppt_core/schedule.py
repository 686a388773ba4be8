"""What happens at which iteration, as pure values: phases of a precision, and learning rates within them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Precision = Literal["full", "low"]
LearningRate = Callable[[float], float]
"""A learning rate as a function of progress, the fraction (0 <= progress < 1) of its schedule that has passed."""


@dataclass(frozen=True)
class Constant:
    """The same learning rate throughout."""

    value: float

    def __post_init__(self) -> None:
        _check_learning_rate(self.value)

    def __call__(self, progress: float) -> float:
        """Return ``value``."""
        return self.value


@dataclass(frozen=True)
class Step:
    """``value``, multiplied by ``factor`` once for each milestone passed; milestones are fractions of the schedule.

    ``Step(0.1, milestones=(0.5, 0.75), factor=0.1)`` is 0.1, then 0.01 from half-time, then 0.001.
    """

    value: float
    milestones: tuple[float, ...]
    factor: float = 0.1

    def __post_init__(self) -> None:
        _check_learning_rate(self.value)
        for milestone in self.milestones:
            if not 0 <= milestone <= 1:
                raise ValueError(f"milestone is {milestone}; it is a fraction of the schedule, between 0 and 1")
        if not 0 < self.factor < math.inf:
            raise ValueError(f"factor is {self.factor}; it must be above 0 and finite")

    def __call__(self, progress: float) -> float:
        """Return the learning rate after ``progress`` of the schedule."""
        return float(self.value * self.factor ** sum(progress >= milestone for milestone in self.milestones))


@dataclass(frozen=True)
class Cosine:
    """From ``value`` down to 0 along half a cosine (Loshchilov and Hutter 2017, without restarts)."""

    value: float

    def __post_init__(self) -> None:
        _check_learning_rate(self.value)

    def __call__(self, progress: float) -> float:
        """Return ``value * (1 + cos(pi * progress)) / 2``."""
        return self.value * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Linear:
    """From ``value`` down to 0 along a line."""

    value: float

    def __post_init__(self) -> None:
        _check_learning_rate(self.value)

    def __call__(self, progress: float) -> float:
        """Return ``value * (1 - progress)``."""
        return self.value * (1 - progress)


@dataclass(frozen=True)
class WarmUp:
    """``after``, scaled linearly from 0 during the first ``fraction`` (Goyal et al. 2017: 0.4 * t / 5 epochs)."""

    after: LearningRate
    fraction: float

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction}; it is a fraction of the schedule, above 0 and at most 1")

    def __call__(self, progress: float) -> float:
        """Return the learning rate after ``progress`` of the schedule."""
        return self.after(progress) * min(1.0, progress / self.fraction)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """``iterations`` steps at one precision."""

    precision: Precision
    iterations: int

    def __post_init__(self) -> None:
        if self.precision not in ("full", "low"):
            raise ValueError(f"precision is {self.precision!r}; it must be 'full' or 'low'")
        if self.iterations < 1:
            raise ValueError(f"iterations is {self.iterations}; a phase has at least 1")


@dataclass(frozen=True, kw_only=True)
class PhaseSchedule:
    """An ordered, gapless run of phases over iterations ``0 .. iterations - 1``.

    ::

        PhaseSchedule.split(1000, 0.5, Constant(1e-3))  # partial pre-training: 500 full, then 500 low
        PhaseSchedule.split(1000, 1.0, Constant(1e-3))  # the full-precision upper bound
        PhaseSchedule.split(1000, 0.0, Constant(1e-3))  # standard low-precision training

    The whole learning-rate schedule is compressed into *each* phase: progress counts from the start of the phase.
    """

    phases: tuple[Phase, ...]
    learning_rate: LearningRate

    @classmethod
    def split(cls, iterations: int, split: float, learning_rate: LearningRate) -> "PhaseSchedule":
        """Train the first ``split`` (0 to 1) of the iterations at full precision and the rest at low precision.

        The switch is at ``round(iterations * split)``; a phase without iterations is left out.
        """
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}; it must be at least 1")
        if not 0 <= split <= 1:
            raise ValueError(f"split is {split}; it is the fraction of training at full precision, between 0 and 1")
        n_full = round(iterations * split)
        lengths: dict[Precision, int] = {"full": n_full, "low": iterations - n_full}
        phases = tuple(Phase(precision=precision, iterations=n) for precision, n in lengths.items() if n)
        return cls(phases=phases, learning_rate=learning_rate)

    @property
    def iterations(self) -> int:
        """Length of all phases together."""
        return sum(phase.iterations for phase in self.phases)

    def at(self, iteration: int) -> tuple[int, float]:
        """Return (number of the phase, learning rate) of an iteration. Raises ValueError outside the schedule."""
        first = 0
        for number, phase in enumerate(self.phases):
            if first <= iteration < first + phase.iterations:
                return number, self.learning_rate((iteration - first) / phase.iterations)
            first += phase.iterations
        raise ValueError(f"iteration {iteration} is outside 0..{self.iterations - 1}")


def _check_learning_rate(value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"the learning rate is {value}; it must be a finite number, at least 0")


def batches_per_epoch(n_samples: int, batch_size: int) -> int:
    """Number of batches that cover an epoch; a rest of one sample joins the last full batch.

    No sample is dropped, and BatchNorm never meets a batch of one sample, which has no variance.
    """
    full, rest = divmod(n_samples, batch_size)
    return max(1, full + (rest > 1))
