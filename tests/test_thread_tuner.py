"""The threads of a training, chosen by what steps take."""

import weakref
from collections.abc import Callable, Iterator

import pytest

from ppt_core.thread_tuner import ThreadTuner, tuned


class Machine:
    """A clock and a training whose step takes ``seconds`` of the number of threads."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.threads = 0
        self.used: list[int] = []

    def use(self, threads: int) -> None:
        self.threads = threads

    def steps(self) -> Iterator[int]:
        number = 0
        while True:
            self.used.append(self.threads)
            self.now += self.seconds(self.threads)
            yield number
            number += 1

    def run(self, tuner: ThreadTuner, n_steps: int) -> list[int]:
        """Run steps; return the threads of each."""
        self.threads = self.threads or tuner.most
        self.used = []
        steps = tuned(self.steps(), tuner, clock=lambda: self.now)
        assert [next(steps) for _ in range(n_steps)] == list(range(n_steps))
        steps.close()
        return self.used


def alone(threads: int) -> float:
    return 0.025 if threads == 1 else 0.015


def crowded(threads: int) -> float:
    return 0.06 if threads == 1 else 0.15


def start(seconds: Callable[[int], float], most: int = 2) -> tuple[Machine, ThreadTuner]:
    machine = Machine(seconds)
    return machine, ThreadTuner(most, machine.use)


def test_alone_all_threads_compute_and_trials_cost_little() -> None:
    machine, tuner = start(alone)
    used = machine.run(tuner, 10_000)
    assert tuner.threads == 2
    assert 1 in used
    assert machine.now < 10_000 * 0.015 * 1.02


def test_beside_other_work_one_thread_computes_and_trials_cost_little() -> None:
    machine, tuner = start(crowded)
    machine.run(tuner, 5_000)
    assert tuner.threads == 1
    assert machine.now < 5_000 * 0.06 * 1.04  # the second that it takes to find out, too


def test_follows_neighbours_that_come_and_go_within_seconds() -> None:
    machine, tuner = start(alone)
    machine.run(tuner, 1_000)
    for seconds, best in ((crowded, 1), (alone, 2), (crowded, 1)):
        machine.seconds = seconds
        changed = machine.now
        while tuner.threads != best:
            machine.run(tuner, 1)
            assert machine.now < changed + 7
        machine.run(tuner, 200)
        assert tuner.threads == best


def test_a_single_slow_step_decides_nothing() -> None:
    machine, tuner = start(alone)
    machine.run(tuner, 500)
    slow = iter([5.0])
    machine.seconds = lambda threads: next(slow, alone(threads))  # a checkpoint, a compilation
    machine.run(tuner, 500)
    assert tuner.threads == 2


def test_a_hopeless_number_is_tried_in_few_steps() -> None:
    machine, tuner = start(lambda threads: 1.0 if threads == 2 else 0.1)
    used = machine.run(tuner, 100)
    assert used.count(2) <= 8
    assert tuner.threads == 1


def test_many_cores_are_tried_by_halves() -> None:
    machine, tuner = start(lambda threads: {1: 0.8, 32: 0.1, 64: 0.3}[threads], most=64)
    used = machine.run(tuner, 500)
    assert set(used) == {1, 32, 64}
    assert tuner.threads == 32


@pytest.mark.parametrize("n_steps", [1, 40, 45, 500])
def test_gives_all_threads_back(n_steps: int) -> None:
    machine, tuner = start(crowded)
    machine.run(tuner, n_steps)
    assert machine.threads == 2
    tuner.threads = 1
    tuner.begin()
    assert machine.threads == 1
    tuner.rest()  # as before an evaluation
    assert machine.threads == 2


def test_a_training_that_ends_or_fails_gives_all_threads_back() -> None:
    machine, tuner = start(crowded)

    def failing() -> Iterator[int]:
        tuner.threads = 1
        yield 0
        assert machine.threads == 1
        raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"):
        list(tuned(failing(), tuner))
    assert machine.threads == 2
    assert list(tuned(iter([0, 1]), tuner)) == [0, 1]
    assert machine.threads == 2


def test_no_step_is_held_while_the_next_is_taken() -> None:
    """It has the optimizer, which at the switch must be gone before there is another."""

    class Step:
        pass

    taken: list[weakref.ref[Step]] = []

    def steps() -> Iterator[Step]:
        for _ in range(3):
            assert [step() for step in taken] == [None] * len(taken)
            step = Step()
            taken.append(weakref.ref(step))
            handed = [step]
            del step
            yield handed.pop()

    _, tuner = start(crowded)
    for step in tuned(steps(), tuner):
        del step
    assert len(taken) == 3
