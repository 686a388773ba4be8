"""What a study shows, as values: points, curves, speed-ups, best splits, and how all that came about."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ppt_core.study.curves import Cost, Resamples, SpeedUp
from ppt_core.study.rates import Speed

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 1
ChosenOn = Literal["validation", "test"]
COST_NAMES: dict[Cost, str] = {
    "iterations": "iterations",
    "seconds": "seconds",
    "plain_seconds": "computed seconds of simulated layers",
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """The trials that differ in their seed alone.

    Attributes:
        full: epochs at full precision.
        low: epochs at low precision, after them.
        iterations: the median of the trials.
        seconds: the median of the trials.
        median: the median accuracy.
        lowest: the lowest accuracy.
        highest: the highest accuracy.
        accuracies: of each trial.
    """

    full: float
    low: float
    iterations: float
    seconds: float
    median: float
    lowest: float
    highest: float
    accuracies: tuple[float, ...]

    @property
    def epochs(self) -> float:
        """The budget."""
        return self.full + self.low

    @property
    def accuracy_range(self) -> str:
        """Median, lowest and highest accuracy in words."""
        return f"{self.median:.4f} ({self.lowest:.4f}-{self.highest:.4f})"

    def to_dict(self) -> dict[str, Any]:
        """The attributes but the epochs, which whatever holds the point says, and ``n_trials``, as JSON values."""
        values = {key: value for key, value in vars(self).items() if key not in ("full", "low")}
        return {**values, "accuracies": list(self.accuracies), "n_trials": len(self.accuracies)}


@dataclass(frozen=True, kw_only=True)
class MethodCurve:
    """One way to spend a budget, over all budgets; `ppt_core.study.curves.Curve` is what is computed with.

    Attributes:
        split: fraction of a budget at full precision.
        points: in ascending order of budget.
    """

    split: float
    points: tuple[Point, ...]

    @property
    def name(self) -> str:
        """What the curve is called."""
        return method_name(self.split)

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return {"split": self.split, "name": self.name, "points": [point.to_dict() for point in self.points]}


@dataclass(frozen=True, kw_only=True)
class MethodSpeedUp:
    """How much sooner one split reaches an accuracy than low precision throughout.

    Attributes:
        split: fraction of a budget at full precision.
        cost: what is compared.
        found: the speed-up; its note says what else a reader must know.
        resamples: how far it would vary with other trials.
    """

    split: float
    cost: Cost
    found: SpeedUp
    resamples: Resamples = field(default_factory=Resamples)

    @property
    def name(self) -> str:
        """What the technique is called."""
        return method_name(self.split)

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        interval = None if self.resamples.interval is None else list(self.resamples.interval)
        spread = {**vars(self.resamples), "interval": interval}
        return {"split": self.split, "name": self.name, "cost": self.cost, **vars(self.found), **spread}

    def __str__(self) -> str:
        note = f" ({self.found.note})" if self.found.note else ""
        if self.found.factor is None:
            return f"none{note}"
        interval = self.resamples.interval
        within = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
        return f"{self.found.factor:.2f}x{within}{note}"


@dataclass(frozen=True, kw_only=True)
class BestSplit:
    """The best split of a budget that was split in three ways or more.

    Attributes:
        epochs: the budget.
        split: the best fraction at full precision.
        best: what was measured with it.
        half: what was measured with split 0.5; None where that was not trained.
        chosen_on: the set on which it is the best, ``validation`` where the data have one, else ``test``. What was
            measured is measured on the test set always.
    """

    epochs: float
    split: float
    best: Point
    half: Point | None
    chosen_on: ChosenOn = "test"

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        half = None if self.half is None else self.half.to_dict()
        best = {"split": self.split, **self.best.to_dict()}
        return {"epochs": self.epochs, "best": best, "half": half, "chosen_on": self.chosen_on}


@dataclass(frozen=True, kw_only=True, repr=False)
class StudyReport:
    """The evidence of a study, finished or not: `ppt_core.study.summary.summarize` makes it.

    Attributes:
        metric: the ``key`` and the ``title`` of the accuracy.
        settings: those that the trials share, without the place of the data, as JSON values.
        protocol: how the accuracy was measured, where there is a choice.
        n_finished: trials that have finished.
        n_planned: trials that were asked for.
        curves: one for each split that was compared: full precision, splits from 0.5 on, low precision.
        grid: every combination of epochs, in ascending order of budget.
        speed_ups: of each split between 0 and 1 over low precision: in iterations, in seconds, and in the seconds that
            the same iterations would take at the rates of `ppt_core.device.usual_simulation`, computed and not
            measured, which say how much of the gain hangs on this project's own low-precision step.
        splits: the best split of each budget that was split in three ways or more.
        speed: iterations per second of both precisions, if they were measured.
        wall_clock: what the seconds hold.
        provenance: the machines and versions that trials ran on, with ``n_trials`` each, as JSON values.
        n_resumed: trials that were interrupted.
        n_shared: trials that began with the network of another, the one that is their first phase.
    """

    metric: Mapping[str, str]
    settings: Mapping[str, Any]
    protocol: str | None
    n_finished: int
    n_planned: int
    curves: tuple[MethodCurve, ...]
    grid: tuple[Point, ...]
    speed_ups: tuple[MethodSpeedUp, ...]
    splits: tuple[BestSplit, ...]
    speed: Speed | None
    wall_clock: str
    provenance: tuple[Mapping[str, Any], ...]
    n_resumed: int
    n_shared: int

    def to_dict(self) -> dict[str, Any]:
        """The document of ``report.json``."""
        return {
            "format_version": FORMAT_VERSION,
            "metric": dict(self.metric),
            "settings": dict(self.settings),
            "protocol": self.protocol,
            "trials": {"finished": self.n_finished, "planned": self.n_planned},
            "curves": [curve.to_dict() for curve in self.curves],
            "grid": [{"full": point.full, "low": point.low, **point.to_dict()} for point in self.grid],
            "speed_ups": [each.to_dict() for each in self.speed_ups],
            "splits": [each.to_dict() for each in self.splits],
            "speed": None if self.speed is None else self.speed.to_dict(),
            "wall_clock": self.wall_clock,
            "provenance": [dict(each) for each in self.provenance],
            "n_resumed": self.n_resumed,
            "n_shared": self.n_shared,
        }

    def to_pandas(self) -> "pd.DataFrame":
        """One row for each combination of epochs, with what its trials reached."""
        import pandas as pd

        rows = [{"full": point.full, "low": point.low, **point.to_dict()} for point in self.grid]
        return pd.DataFrame(rows).drop(columns="accuracies")

    def _repr_html_(self) -> str:
        return str(self.to_pandas().to_html(index=False))

    def __repr__(self) -> str:
        lines = [
            f"{self.metric['title']} [{self.protocol or 'test set'}], median (lowest-highest), {self.n_finished} of "
            f"{self.n_planned} trials finished"
        ]
        for curve in self.curves:
            lines.append(f"{curve.name}:")
            lines += [
                f"  {point.iterations:>9,.0f} iterations {point.seconds:>8,.1f} s   {point.accuracy_range}"
                for point in curve.points
            ]
        if self.speed is not None:
            for name, rates in {"": self.speed, " with layers simulated in plain PyTorch": self.speed.plain}.items():
                if rates is not None:
                    lines.append(
                        f"iterations/s{name}: full precision {rates.full:.1f}, low precision {rates.low:.1f}; "
                        f"slowdown {rates.slowdown:.2f}"
                    )
        for split in self.splits:
            half = f"; split 0.5 {split.half.accuracy_range}" if split.half is not None else ""
            chosen = f"best split at {split.epochs:g} epochs, chosen on the {split.chosen_on} set"
            lines.append(f"{chosen}: {split.split:.2g}, {split.best.accuracy_range}{half}")
        lines += [
            f"speed-up of {each.name} over low precision, in {COST_NAMES[each.cost]}: {each}" for each in self.speed_ups
        ]
        return "\n".join(lines)


def method_name(split: float) -> str:
    """What a technique is called."""
    if split in (0, 1):
        return "full precision" if split else "low precision"
    return "partial pre-training" if split == 0.5 else f"partial pre-training, split {split:g}"
