"""The seconds that the phases of a training take."""

import time
from collections.abc import Callable, Sequence


class PhaseClock:
    """Counts the time between `start` and `stop` for one phase after the other, and none in between.

    Args:
        seconds: of each phase so far.
        now: tells the time in seconds.
    """

    def __init__(self, seconds: Sequence[float], *, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds = list(seconds)
        self._now = now
        self._started = now()

    def start(self) -> None:
        """Time counts from now on."""
        self._started = self._now()

    def stop(self, phase: int) -> None:
        """What passed since `start` is time of ``phase``."""
        self.seconds[phase] += self._now() - self._started

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds)
