"""Accuracy over the cost of training: medians over trials, and how much sooner one curve reaches what another does."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ppt_core.study.rates import Rates

N_TARGETS = 100
LOWEST_SHARE = 0.5
Cost = Literal["iterations", "seconds", "plain_seconds"]
Cell = tuple[float, float]
"""(epochs at full precision, epochs at low precision) of the trials that differ in their seed alone."""


@dataclass(frozen=True)
class Trials:
    """The trials of one cell.

    Attributes:
        iterations: of each trial, (n,).
        seconds: of each trial, (n,).
        accuracy: of each trial, (n,).
        plain_seconds: its iterations at the measured rates of steps without kernels, (n,); NaN if not measured.
    """

    iterations: NDArray[np.float64]
    seconds: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    plain_seconds: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.accuracy)

    def cost(self, cost: Cost) -> NDArray[np.float64]:
        """One of the costs of each trial, (n,)."""
        costs: NDArray[np.float64] = getattr(self, cost)
        return costs


@dataclass(frozen=True)
class Curve:
    """Accuracy over cost, linear between points; ``costs`` (n,) ascend strictly."""

    costs: NDArray[np.float64]
    accuracies: NDArray[np.float64]

    @classmethod
    def of_medians(cls, cells: Sequence[Trials], cost: Cost) -> "Curve":
        """The median accuracy of each cell at its median cost; of equal costs the better stays."""
        points = sorted((float(np.median(c.cost(cost))), float(np.median(c.accuracy))) for c in cells)
        best = dict(points)  # the last of equal costs
        return cls(np.array(list(best)), np.array(list(best.values())))

    def first_reach(self, targets: NDArray[np.float64]) -> NDArray[np.float64]:
        """The least cost at which the curve has each accuracy, (m,): NaN where it never does.

        NaN too below the accuracy of the first point: there the curve is not known.
        """
        highest = np.maximum.accumulate(self.accuracies)
        position = np.searchsorted(highest, targets)  # the first point that reaches the target
        known = (position < len(highest)) & (targets >= self.accuracies[0])
        right = np.clip(position, 1, max(1, len(highest) - 1))
        if len(highest) == 1:
            return np.where(known, self.costs[0], np.nan)
        left = right - 1
        rise = self.accuracies[right] - self.accuracies[left]
        share = np.divide(targets - self.accuracies[left], rise, out=np.zeros_like(targets), where=rise > 0)
        reached = self.costs[left] + share * (self.costs[right] - self.costs[left])
        return np.where(known, np.where(position == 0, self.costs[0], reached), np.nan)

    def at(self, costs: NDArray[np.float64]) -> NDArray[np.float64]:
        """The accuracy at costs within the curve, (m,)."""
        return np.interp(costs, self.costs, self.accuracies)


@dataclass(frozen=True, kw_only=True)
class SpeedUp:
    """How much sooner partial pre-training reaches an accuracy than low-precision training.

    Attributes:
        factor: harmonic mean of cost(low) / cost(PPT) over the targets; None where there are none.
        lowest: the lowest accuracy compared.
        highest: the highest accuracy compared.
        until: what ends the range: ``convergence`` of the curves, or ``reach``, the last accuracy that both reach.
        range_covered: share of the source's range, from half of the best accuracy up to that end, that lies between
            ``lowest`` and ``highest``: below 1 where a curve begins above half of the best, 0 where nothing can be
            compared.
        note: what else a reader must know: a range that begins above half of the best, or why there is no factor.
    """

    factor: float | None
    lowest: float | None = None
    highest: float | None = None
    until: Literal["convergence", "reach"] | None = None
    range_covered: float = 0.0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Resamples:
    """How far a speed-up would vary, had other trials been drawn.

    Attributes:
        interval: 95% percentile interval of the factor; None if a cell has one trial only (nothing varies) or more
            than a twentieth of the resamples have no accuracy to compare.
        n_resamples: how often the trials were drawn anew.
        n_without: how many of these have no accuracy to compare.
    """

    interval: tuple[float, float] | None = None
    n_resamples: int = 0
    n_without: int = 0


def speed_up(ppt: Curve, low: Curve) -> SpeedUp:
    """Compare two curves as Renda and Fromm (2020) do.

    1. 100 evenly spaced accuracies, from half of the best that the binarized network reaches (by either technique)
       up to the accuracy at which the techniques converge, or else the last that both reach.
    2. At each, cost(low) / cost(PPT), every cost by linear interpolation between neighbouring points: the first at
       which the curve has that accuracy.
    3. The harmonic mean.

    The source leaves open, and we decide: the curves have *converged* where partial pre-training was ahead and then,
    as far as both are known, is never ahead again. Below a curve's first point nothing is known, so the range begins
    at the first accuracy that both curves have, if that is more than half of the best; the note says so.
    """
    best = max(ppt.accuracies.max(), low.accuracies.max())
    half = LOWEST_SHARE * best
    lowest = max(half, ppt.accuracies[0], low.accuracies[0])
    reach = min(ppt.accuracies.max(), low.accuracies.max())
    meeting = _convergence(ppt, low)
    highest, until = (reach, "reach") if meeting is None or meeting > reach else (meeting, "convergence")
    if not lowest < highest:
        return SpeedUp(
            factor=None,
            note=f"no accuracy can be compared: both curves have begun at {lowest:.4f}, and the range ends at "
            f"{highest:.4f} ({until}); add shorter or longer budgets",
        )
    covered = float((highest - lowest) / (highest - half))
    note = ""
    if lowest > half:
        begun = f"compared from {lowest:.4f}, where both curves have begun, and not from {half:.4f}"
        note = f"{begun}: over {covered:.0%} of the range"
    targets = np.linspace(lowest, highest, N_TARGETS)
    ratios = low.first_reach(targets) / ppt.first_reach(targets)
    ratios = ratios[np.isfinite(ratios)]  # rounding may put the last target just beyond a curve
    return SpeedUp(
        factor=float(len(ratios) / np.sum(1 / ratios)),
        lowest=float(lowest),
        highest=float(highest),
        until=until,  # type: ignore[arg-type]
        range_covered=covered,
        note=note,
    )


def _convergence(ppt: Curve, low: Curve) -> float | None:
    """The accuracy at which low precision has caught up for good, or None if it has not, or was never behind."""
    first, last = max(ppt.costs[0], low.costs[0]), min(ppt.costs[-1], low.costs[-1])
    if not first < last:
        return None
    knots = np.union1d(ppt.costs, low.costs)
    knots = np.unique(np.concatenate([[first], knots[(knots > first) & (knots < last)], [last]]))
    lead = ppt.at(knots) - low.at(knots)
    ahead = np.flatnonzero(lead > 0)
    if not len(ahead) or ahead[-1] == len(knots) - 1:
        return None
    left = ahead[-1]
    share = lead[left] / (lead[left] - lead[left + 1])
    return float(low.at(np.array([knots[left] + share * (knots[left + 1] - knots[left])]))[0])


def bootstrap_speed_up(
    ppt: Sequence[Trials], low: Sequence[Trials], cost: Cost, *, n_resamples: int = 1000, seed: int = 0
) -> Resamples:
    """Compute the speed-up again and again when the trials of each cell are drawn anew, with replacement."""
    if min(map(len, [*ppt, *low])) < 2:
        return Resamples()
    rng = np.random.default_rng(np.random.SeedSequence([seed, int.from_bytes(b"speed-up", "little")]))
    factors = []
    for _ in range(n_resamples):
        curves = [Curve.of_medians([_resample(cell, rng) for cell in cells], cost) for cells in (ppt, low)]
        factors.append(speed_up(*curves).factor)
    found = [factor for factor in factors if factor is not None]
    n_without = n_resamples - len(found)
    interval = None if n_without > 0.05 * n_resamples else tuple(np.percentile(found, [2.5, 97.5]).tolist())
    return Resamples(interval=interval, n_resamples=n_resamples, n_without=n_without)


def _resample(cell: Trials, rng: np.random.Generator) -> Trials:
    drawn = rng.integers(len(cell), size=len(cell))
    return Trials(**{field.name: getattr(cell, field.name)[drawn] for field in fields(cell)})


def cells_of(records: Sequence[dict[str, Any]], metric: str, plain: Rates | None = None) -> dict[Cell, Trials]:
    """Group finished trials by cell, in ascending order of budget.

    Args:
        records: as `ppt_core.study.running.run_trial` returns them.
        metric: the key of their accuracy.
        plain: iterations per second of steps without kernels.
    """

    def plain_seconds(record: dict[str, Any]) -> float:
        if plain is None:
            return math.nan
        plain_rates = {"full": plain.full, "low": plain.low}
        return math.fsum(  # a warm start has seconds, no iterations at a rate
            phase["iterations"] / plain_rates[phase["precision"]]
            if phase["precision"] in plain_rates
            else phase["seconds"]
            for phase in record["phases"]
        )

    groups: dict[Cell, list[dict[str, Any]]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record["full"] + record["low"], record["full"], record["seed"])):
        groups[record["full"], record["low"]].append(record)
    return {
        cell: Trials(
            iterations=np.array([record["iterations"] for record in group], np.float64),
            seconds=np.array([record["seconds"] for record in group], np.float64),
            accuracy=np.array([record[metric] for record in group], np.float64),
            plain_seconds=np.array([plain_seconds(record) for record in group]),
        )
        for cell, group in groups.items()
    }


def curve_cells(cells: dict[Cell, Trials], split: float) -> dict[Cell, Trials]:
    """The cells that spend the fraction ``split`` of their budget at full precision, in ascending order of budget."""
    tolerance = 1e-5  # of the budget; trials have 6 digits
    return {
        (full, low): trials
        for (full, low), trials in cells.items()
        if abs(full - split * (full + low)) < tolerance * (full + low)
    }


def best_splits(cells: dict[Cell, Trials]) -> dict[float, tuple[float, Cell]]:
    """The split of the best median accuracy at each budget, in epochs, that was split in three ways at least.

    Splits that end in a binarized network alone: full-precision training is no choice of one. Of equal medians the
    split nearest to 0.5 wins. Cells of accuracies on the test set bound what any rule for the choice could gain; those
    on a validation set make a choice whose accuracy on the test set can be quoted.

    Returns:
        for each budget, in ascending order, the best split and its cell.
    """
    budgets: dict[float, list[Cell]] = defaultdict(list)
    for full, low in cells:
        if low > 0:
            budgets[round(full + low, 9)].append((full, low))
    best = {}
    for budget, found in sorted(budgets.items()):
        if len(found) >= 3:
            cell = max(found, key=lambda cell: (float(np.median(cells[cell].accuracy)), -abs(cell[0] - cell[1])))
            best[budget] = cell[0] / sum(cell), cell
    return best
