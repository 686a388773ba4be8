import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppt_core.study.curves import Curve, Trials, best_splits, bootstrap_speed_up, cells_of, curve_cells, speed_up
from ppt_core.study.rates import Rates
from ppt_core.study.trials import Trial, curve_trials, grid_trials, in_order


def curve(*points: tuple[float, float]) -> Curve:
    costs, accuracies = zip(*points, strict=True)
    return Curve(np.array(costs, float), np.array(accuracies, float))


def cell(iterations: float, *accuracies: float) -> Trials:
    ones = np.ones(len(accuracies))
    return Trials(
        iterations=iterations * ones,
        seconds=2 * iterations * ones,
        accuracy=np.array(accuracies),
        plain_seconds=3 * iterations * ones,
    )


def test_interpolates_between_neighbouring_points() -> None:
    rising = curve((10, 0.2), (20, 0.4), (40, 0.5))
    found = rising.first_reach(np.array([0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.51]))
    np.testing.assert_allclose(found, [math.nan, 10, 15, 20, 30, 40, math.nan])


def test_the_first_time_counts_where_a_curve_falls() -> None:
    found = curve((1, 0.2), (2, 0.6), (3, 0.4), (4, 0.8)).first_reach(np.array([0.5, 0.6, 0.7]))
    np.testing.assert_allclose(found, [1.75, 2, 3.75])


points = st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 50)), min_size=1, max_size=8, unique_by=lambda p: p[0])


@given(points, st.integers(1, 55))
def test_first_reach_against_a_walk_along_the_curve(found: list[tuple[int, int]], target: int) -> None:
    found.sort()

    def walk() -> float:
        if target < found[0][1]:
            return math.nan
        if target == found[0][1]:
            return found[0][0]
        for (x0, y0), (x1, y1) in itertools.pairwise(found):
            if y0 < target <= y1:
                return x0 + (x1 - x0) * (target - y0) / (y1 - y0)
        return math.nan

    np.testing.assert_allclose(curve(*found).first_reach(np.array([float(target)]))[0], walk())


def test_twice_as_fast_is_a_speed_up_of_two() -> None:
    low = curve((10, 0.2), (100, 0.5), (200, 0.8))
    found = speed_up(curve((5, 0.2), (50, 0.5), (100, 0.8)), low)
    assert found.factor == pytest.approx(2)
    assert (found.lowest, found.highest, found.until, found.note) == (0.4, 0.8, "reach", "")
    assert found.range_covered == 1
    assert speed_up(low, low).factor == pytest.approx(1)


def test_harmonic_mean_by_hand() -> None:
    # PPT needs a, low a + 10 iterations for an accuracy of a / 100: the mean of 1 / ratio is that of a / (a + 10).
    found = speed_up(curve((10, 0.1), (100, 1.0)), curve((20, 0.1), (110, 1.0)))
    targets = np.linspace(50, 100, 100)
    assert found.factor == pytest.approx(1 / np.mean(targets / (targets + 10)))


def test_the_range_ends_where_the_curves_converge() -> None:
    ppt = curve((10, 0.2), (20, 0.6), (30, 0.7), (60, 0.7))
    low = curve((10, 0.1), (30, 0.6), (40, 0.7), (60, 0.9))
    found = speed_up(ppt, low)
    assert found.until == "convergence"
    assert found.highest == pytest.approx(0.7)
    assert found.lowest == pytest.approx(0.45)
    # Every target lies on PPT's steep part up to 0.6, and on its flatter one beyond.
    targets = np.linspace(0.45, 0.7, 100)
    times = [np.interp(targets, each.accuracies[:3], each.costs[:3]) for each in (ppt, low)]
    assert found.factor == pytest.approx(1 / np.mean(times[0] / times[1]))


def test_curves_that_do_not_meet_have_no_speed_up() -> None:
    found = speed_up(curve((10, 0.7), (20, 0.8)), curve((10, 0.2), (20, 0.5)))
    assert found.factor is None
    assert "no accuracy can be compared" in found.note
    assert found.range_covered == 0
    assert speed_up(curve((10, 0.5)), curve((20, 0.5))).factor is None


def test_nothing_is_invented_below_a_curve() -> None:
    found = speed_up(curve((10, 0.6), (20, 0.8)), curve((10, 0.2), (40, 0.8)))
    assert found.lowest == 0.6
    assert "compared from 0.6000, where both curves have begun, and not from 0.4000" in found.note
    assert found.range_covered == pytest.approx(0.5)  # .6 to .8 of .4 to .8
    assert found.note.endswith(": over 50% of the range")


def test_low_precision_may_win() -> None:
    found = speed_up(curve((20, 0.2), (200, 0.8)), curve((10, 0.2), (100, 0.8)))
    assert found.factor == pytest.approx(0.5)
    assert found.until == "reach"


def test_bootstrap_covers_what_trials_spread() -> None:
    ppt = [cell(10, 0.20, 0.22, 0.24), cell(100, 0.6, 0.62, 0.64)]
    low = [cell(20, 0.20, 0.21, 0.23), cell(200, 0.6, 0.61, 0.63)]
    point = speed_up(*(Curve.of_medians(cells, "iterations") for cells in (ppt, low))).factor
    found = bootstrap_speed_up(ppt, low, "iterations", n_resamples=100)
    assert found.interval is not None
    lower, upper = found.interval
    assert point is not None
    assert lower < point < upper
    assert found == bootstrap_speed_up(ppt, low, "iterations", n_resamples=100)
    assert bootstrap_speed_up([cell(10, 0.2), cell(100, 0.6)], low, "seconds").interval is None
    same, twice = ([cell(scale, 0.2, 0.2), cell(10 * scale, 0.6, 0.6)] for scale in (10, 20))
    assert bootstrap_speed_up(same, twice, "seconds", n_resamples=20).interval == pytest.approx((2, 2))


def test_cells_hold_the_trials_that_differ_in_their_seed() -> None:
    def record(full: float, low: float, seed: int, value: float) -> dict[str, Any]:
        phases = [{"precision": "full", "iterations": 10 * full}, {"precision": "low", "iterations": 10 * low}]
        return {"full": full, "low": low, "seed": seed, "iterations": 10, "seconds": 1.0, "hit_ratio": value,
                "phases": phases}  # fmt: skip

    records = [record(1, 1, 1, 0.3), record(1, 1, 0, 0.2), record(2, 0, 0, 0.4), record(0.1, 0.1, 0, 0.1)]
    cells = cells_of(records, "hit_ratio", Rates(full=5.0, low=2.5))
    assert list(cells) == [(0.1, 0.1), (1, 1), (2, 0)]
    assert cells[1, 1].accuracy.tolist() == [0.2, 0.3]
    assert cells[1, 1].plain_seconds.tolist() == [10 / 5 + 10 / 2.5] * 2
    assert np.isnan(cells_of(records, "hit_ratio")[2, 0].plain_seconds).all()
    assert [len(found) for found in curve_cells(cells, 0.5).values()] == [1, 2]
    assert [len(found) for found in curve_cells(cells, 1.0).values()] == [1]


def test_the_best_split_of_each_budget() -> None:
    cells = {
        (0.0, 1.0): cell(10, 0.5),
        (1.0, 0.0): cell(10, 0.9),  # not binarized
        (0.5, 0.5): cell(10, 0.6),  # two ways only
        (0.0, 2.0): cell(20, 0.5, 0.6, 0.9),
        (1.0, 1.0): cell(20, 0.6, 0.6, 0.6),
        (1.5, 0.5): cell(20, 0.6, 0.6, 0.6),  # as good, and further from the middle
        (0.0, 4.0): cell(40, 0.7),
        (1.0, 3.0): cell(40, 0.8),
        (2.0, 2.0): cell(40, 0.7),
    }
    assert best_splits(cells) == {2.0: (0.5, (1.0, 1.0)), 4.0: (0.25, (1.0, 3.0))}


def test_a_plan_holds_each_trial_once() -> None:
    curves = curve_trials([1, 2], [1, 0.5, 0], 2)
    assert len(curves) == 12
    grid = grid_trials([1, 2], 2)
    assert len(grid) == (3 * 3 - 1) * 2
    names = [trial.name for trial in in_order([*curves, *grid])]
    assert len(set(names)) == len(names) == 18  # the grid adds full1-low2, full2-low1 and full2-low2
    assert names[:4] == ["full0-low1-seed0", "full0.5-low0.5-seed0", "full1-low0-seed0", "full0-low2-seed0"]
    assert Trial.of(3, 1 / 3, 0).split == pytest.approx(1 / 3)


def test_a_trial_is_what_its_name_says() -> None:
    """A grid's trial and a curve's are one where their names are, and both curves have it."""
    assert Trial.of(3, 0.1, 0) == Trial(full=0.3, low=2.7, seed=0)
    found = Trial.of(3, 0.66666667, 0)
    assert found == Trial(full=2, low=1, seed=0)
    assert len(curve_cells({(found.full, found.low): cell(30, 0.5)}, 0.66666667)) == 1
    assert not curve_cells({(found.full, found.low): cell(30, 0.5)}, 0.6666)


@pytest.mark.parametrize("length", [-1, math.nan, math.inf])
def test_refuses_a_grid_that_cannot_be(length: float) -> None:
    with pytest.raises(ValueError, match="a grid with"):
        grid_trials([1, length], 1)


@pytest.mark.parametrize("bad", [(0, 0, 0), (-1, 2, 0), (math.nan, 1, 0), (math.inf, 1, 0), (1, 1, -1)])
def test_refuses_trials_that_cannot_be(bad: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match=r"cannot be|seed is"):
        Trial(full=bad[0], low=bad[1], seed=bad[2])
    with pytest.raises(ValueError, match=r"split is 1\.5"):
        Trial.of(1, 1.5, 0)
