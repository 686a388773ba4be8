from typing import Any

import pytest

from ppt_core.runs.clock import PhaseClock
from ppt_core.runs.stopping import Stopping
from ppt_core.schedule import Constant, PhaseSchedule


def test_a_clock_counts_between_start_and_stop() -> None:
    times = iter([0.0, 10.0, 13.0, 20.0, 24.0])
    clock = PhaseClock([1.0, 0.0], now=lambda: next(times))
    clock.start()
    clock.stop(0)
    clock.start()
    clock.stop(1)
    assert (clock.seconds, clock.total) == ([4.0, 4.0], 8.0)


def rule(**settings: Any) -> Stopping:
    schedule = PhaseSchedule.split(10, 0.5, Constant(0.1))
    return Stopping(**{"metric": "hit_ratio", "threshold": None, "patience": None, "schedule": schedule, **settings})


def test_a_threshold_counts_in_the_last_phase_and_may_be_equal() -> None:
    assert not rule().reached(1, {"hit_ratio": 1.0})
    assert not rule(threshold=0.5).reached(0, {"hit_ratio": 0.9})
    assert not rule(threshold=0.5).reached(1, {"hit_ratio": 0.49})
    assert rule(threshold=0.5).reached(1, {"hit_ratio": 0.5})


@pytest.mark.parametrize(
    ("values", "stalls"),
    [([0.1], False), ([0.1, 0.1], False), ([0.1, 0.1, 0.1], True), ([0.1, 0.0, 0.2], False), ([0.2, 0.1, 0.2], True)],
)
def test_patience_counts_evaluations_of_the_last_phase_without_a_better_one(values: list[float], stalls: bool) -> None:
    first = [{"iterations": 5, "validation": {"hit_ratio": 0.9}}]  # of the phase before
    lines = [{"iterations": 6 + n, "validation": {"hit_ratio": value}} for n, value in enumerate(values)]
    assert rule(patience=2).stalled(first + lines) == stalls
    assert not rule().stalled(first + lines)
