import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppt_core.schedule import Constant, Cosine, LearningRate, Phase, PhaseSchedule, Step, WarmUp

RATE = Constant(0.1)


def lengths(schedule: PhaseSchedule) -> list[tuple[str, int]]:
    return [(phase.precision, phase.iterations) for phase in schedule.phases]


@pytest.mark.parametrize(
    ("iterations", "split", "expected"),
    [
        (10, 0, [("low", 10)]),
        (10, 1, [("full", 10)]),
        (10, 0.5, [("full", 5), ("low", 5)]),
        (100, 0.37, [("full", 37), ("low", 63)]),
        (7, 0.37, [("full", 3), ("low", 4)]),  # 2.59
        (7, 0.5, [("full", 4), ("low", 3)]),  # 3.5 to the even 4
        (9, 0.5, [("full", 4), ("low", 5)]),  # 4.5 to the even 4
        (1, 0.37, [("low", 1)]),
        (1, 0.63, [("full", 1)]),
    ],
)
def test_split(iterations: int, split: float, expected: list[tuple[str, int]]) -> None:
    schedule = PhaseSchedule.split(iterations, split, RATE)
    assert lengths(schedule) == expected
    assert schedule.iterations == iterations


@given(iterations=st.integers(1, 300), split=st.floats(0, 1))
def test_phases_have_no_gap(iterations: int, split: float) -> None:
    schedule = PhaseSchedule.split(iterations, split, RATE)
    numbers = [schedule.at(iteration)[0] for iteration in range(iterations)]
    precisions = [schedule.phases[number].precision for number in numbers]
    n_full = precisions.count("full")
    assert precisions == ["full"] * n_full + ["low"] * (iterations - n_full)
    assert abs(n_full - iterations * split) <= 0.5
    assert set(numbers) == set(range(len(schedule.phases)))


@pytest.mark.parametrize(
    ("learning_rate", "expected"),  # at iterations 0, 3, 5, 7 and 9 of each phase of 10
    [
        (Constant(0.1), [0.1, 0.1, 0.1, 0.1, 0.1]),
        (Step(0.1, milestones=(0.5, 0.7)), [0.1, 0.1, 0.01, 0.001, 0.001]),
        (Step(8.0, milestones=(0.3,), factor=0.5), [8, 4, 4, 4, 4]),
        (Step(8.0, milestones=()), [8, 8, 8, 8, 8]),
        (Cosine(2.0), [2, 1.5877852522924731, 1, 0.41221474770752686, 0.04894348370484647]),
        (WarmUp(Constant(0.4), 0.5), [0, 0.24, 0.4, 0.4, 0.4]),
        (WarmUp(Constant(0.4), 1), [0, 0.12, 0.2, 0.28, 0.36]),
        (WarmUp(Step(0.4, milestones=(0.3, 0.7)), 0.5), [0, 0.024, 0.04, 0.004, 0.004]),
    ],
)
def test_every_phase_holds_the_whole_learning_rate_schedule(learning_rate: LearningRate, expected: list[float]) -> None:
    schedule = PhaseSchedule.split(20, 0.5, learning_rate)
    assert [schedule.at(i)[1] for i in (0, 3, 5, 7, 9)] == pytest.approx(expected, rel=1e-12)
    assert [schedule.at(10 + i)[1] for i in (0, 3, 5, 7, 9)] == pytest.approx(expected, rel=1e-12)
    assert [schedule.at(i)[0] for i in (0, 9, 10, 19)] == [0, 0, 1, 1]


def test_phases_of_different_length_compress_it_differently() -> None:
    schedule = PhaseSchedule.split(100, 0.2, Step(1.0, milestones=(0.5,)))
    rates = [schedule.at(iteration)[1] for iteration in range(100)]
    assert rates == [1.0] * 10 + [0.1] * 10 + [1.0] * 40 + [0.1] * 40


def test_imagenet_recipe() -> None:
    """Goyal et al. 2017: 0.4 * t / 5 for 5 epochs, a tenth from each of the epochs 30, 60 and 80 on, of 90."""
    rate = WarmUp(Step(0.4, milestones=(30 / 90, 60 / 90, 80 / 90)), 5 / 90)
    schedule = PhaseSchedule.split(90 * 1000, 1, rate)
    found = [schedule.at(round(epoch * 1000))[1] for epoch in (0, 1, 2.5, 5, 29.999, 30, 59.999, 60, 79.999, 80)]
    assert found == pytest.approx([0, 0.08, 0.2, 0.4, 0.4, 0.04, 0.04, 0.004, 0.004, 0.0004], rel=1e-12)


@pytest.mark.parametrize("split", [-0.1, 1.5, math.nan, math.inf])
def test_split_outside_its_range(split: float) -> None:
    with pytest.raises(ValueError, match=rf"^split is {split}; it is the fraction .* between 0 and 1$"):
        PhaseSchedule.split(10, split, RATE)


@pytest.mark.parametrize("iterations", [0, -3])
def test_no_iterations(iterations: int) -> None:
    with pytest.raises(ValueError, match=rf"^iterations is {iterations}; it must be at least 1$"):
        PhaseSchedule.split(iterations, 0.5, RATE)
    with pytest.raises(ValueError, match=rf"^iterations is {iterations}; a phase has at least 1$"):
        Phase(precision="full", iterations=iterations)


def test_unknown_precision() -> None:
    with pytest.raises(ValueError, match=r"^precision is 'medium'; it must be 'full' or 'low'$"):
        Phase(precision="medium", iterations=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("kind", [Constant, Cosine, lambda value: Step(value, milestones=())])
def test_learning_rate_outside_its_range(kind: type[Constant], value: float) -> None:
    with pytest.raises(ValueError, match=rf"^the learning rate is {value}; it must be a finite number, at least 0$"):
        kind(value)


@pytest.mark.parametrize("milestone", [30, -0.5, math.nan])
def test_milestone_outside_its_range(milestone: float) -> None:
    with pytest.raises(ValueError, match=rf"^milestone is {milestone}; it is a fraction of the schedule"):
        Step(0.1, milestones=(0.5, milestone))


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_factor_outside_its_range(factor: float) -> None:
    with pytest.raises(ValueError, match=rf"^factor is {factor}; it must be above 0 and finite$"):
        Step(0.1, milestones=(0.5,), factor=factor)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 5.0, math.nan])
def test_warm_up_outside_its_range(fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"^fraction is {fraction}; it is a fraction of the schedule, above 0"):
        WarmUp(RATE, fraction)


@pytest.mark.parametrize("iteration", [-1, 10])
def test_iteration_outside_the_schedule(iteration: int) -> None:
    with pytest.raises(ValueError, match=rf"^iteration {iteration} is outside 0\.\.9$"):
        PhaseSchedule.split(10, 0.5, RATE).at(iteration)


def test_schedules_are_values() -> None:
    first, second = (PhaseSchedule.split(10, 0.5, WarmUp(Step(0.1, milestones=(0.5,)), 0.1)) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != PhaseSchedule.split(10, 0.6, WarmUp(Step(0.1, milestones=(0.5,)), 0.1))


def test_planning_needs_no_torch() -> None:
    code = "import sys, ppt_core.schedule; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
