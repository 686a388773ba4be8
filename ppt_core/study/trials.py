"""Which trainings a study consists of, as pure values."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

TO_THE_END: dict[str, Any] = {"eval_every": 0, "threshold": None, "patience": None}
"""Settings of a training that nothing stops early and that is evaluated at its end, as every trial is."""
OF_A_TRIAL = ("split", "epochs", "iterations", "seed", *TO_THE_END)
"""The settings of `ppt_core.runs.config.TrainingConfig` that each trial has for itself; the study shares the others."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One independent training: a whole schedule compressed to its budget, never a point on a longer run's curve.

    Attributes:
        full: epochs at full precision, to 6 significant digits, as the name has them.
        low: epochs at low precision, after those, likewise.
        seed: of the training.
    """

    full: float
    low: float
    seed: int

    def __post_init__(self) -> None:
        for name in ("full", "low"):
            object.__setattr__(self, name, float(f"{getattr(self, name):g}"))
        if not (0 <= self.full < math.inf and 0 <= self.low < math.inf and self.epochs > 0):
            raise ValueError(
                f"a trial of {self.full:g} + {self.low:g} epochs cannot be; give at least 0, together more"
            )
        from ppt_core.random_words import check_seed  # and NumPy, which `--help` need not load

        check_seed(self.seed)

    @classmethod
    def of(cls, epochs: float, split: float, seed: int) -> "Trial":
        """Spend the fraction ``split`` of ``epochs`` at full precision."""
        if not 0 <= split <= 1:
            raise ValueError(f"split is {split}; it is the fraction of training at full precision, between 0 and 1")
        return cls(full=epochs * split, low=epochs - epochs * split, seed=seed)

    @property
    def epochs(self) -> float:
        """The whole budget."""
        return self.full + self.low

    @property
    def split(self) -> float:
        """Fraction of the budget at full precision: 1 is full-precision training, 0 low-precision training."""
        return self.full / self.epochs

    @property
    def name(self) -> str:
        """What its folder is called, like ``full2-low2-seed0``."""
        return f"full{self.full:g}-low{self.low:g}-seed{self.seed}"


def curve_trials(budgets: Iterable[float], splits: Iterable[float], n_trials: int) -> list[Trial]:
    """The trials of accuracy over budget: each split at each budget (in epochs), with seeds 0 .. n_trials - 1."""
    splits = list(splits)
    return [Trial.of(epochs, split, seed) for epochs in budgets for split in splits for seed in range(n_trials)]


def grid_trials(lengths: Sequence[float], n_trials: int) -> list[Trial]:
    """The trials of a grid: each length (in epochs, 0 included) at full with each at low precision."""
    for length in lengths:
        if not 0 <= length < math.inf:
            raise ValueError(f"a grid with {length:g} epochs cannot be; give lengths of at least 0")
    lengths = sorted({0.0, *lengths})
    pairs = [(full, low) for full in lengths for low in lengths if full + low > 0]
    return [Trial(full=full, low=low, seed=seed) for full, low in pairs for seed in range(n_trials)]


def in_order(trials: Iterable[Trial]) -> list[Trial]:
    """Each trial once, short ones first: a study that is stopped early is a smaller study."""
    return sorted({trial.name: trial for trial in trials}.values(), key=lambda t: (t.seed, t.epochs, t.full))
