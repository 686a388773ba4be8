"""The number of threads of a training, chosen while it runs by what its steps take."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

from ppt_core.threads import use_threads

_Step = TypeVar("_Step")

_BLOCK = 3  # steps timed in a row; the one before them, which wakes threads and fills caches, does not count
_ROUNDS = 2
_HOPELESS = 2.0  # times as long as the best so far: one such step is enough
_SURPRISE = 1.25  # a change of the usual step that calls for a trial before its time
_SOONEST = 2.0  # seconds of training between two trials, at least
_LATEST = 15.0  # and at most, but for what follows
_COST = 0.02  # share of the training that trials may cost


class ThreadTuner:
    """Tries one thread, half of the threads and all of them now and then, and goes on with the fastest.

    Beside other work a parallel region waits for the thread that has lost its core: on 2 cores with 4 busy neighbours a
    training step on two threads took up to ten times as long as on one. Alone, two threads are the faster. So a few
    steps of each are timed whenever the steps have changed, and every 15 s otherwise. Only for a training whose results
    do not depend on threads.
    """

    def __init__(self, most: int, use: Callable[[int], None] = use_threads) -> None:
        """Begin with all threads.

        Args:
            most: how many there are.
            use: lets that many compute from now on.
        """
        self.most = most
        self.threads = most
        self._use = use
        self._in_use = 0  # not known before the first step
        self._queue: deque[int] = deque()  # numbers of threads of the next steps, while a trial lasts
        self._times: dict[int, list[float]] = {}
        self._recent: deque[float] = deque(maxlen=2 * _BLOCK + 1)
        self._usual = 0.0
        self._since = 0.0
        self._wait = _SOONEST / 2

    def begin(self) -> None:
        """Set the threads of the step that comes now."""
        self._set(self._queue[0] if self._queue else self.threads)

    def record(self, seconds: float) -> None:
        """Take note of what that step took."""
        if self._queue:
            self._try(seconds)
            return
        self._since += seconds
        self._recent.append(seconds)
        if self._since >= self._wait or (self._since >= _SOONEST and self._has_changed()):
            block = [self.threads, *sorted({1, max(1, self.most // 2), self.most} - {self.threads})]
            self._times = {threads: [] for threads in block}
            self._queue.extend([threads for threads in block for _ in range(1 + _BLOCK)] * _ROUNDS)

    def rest(self) -> None:
        """Give all threads back until the next step."""
        if self._in_use:
            self._set(self.most)

    def _set(self, threads: int) -> None:
        if threads != self._in_use:
            self._use(threads)
            self._in_use = threads

    def _has_changed(self) -> bool:
        if len(self._recent) < (self._recent.maxlen or 0):
            return False
        ratio = statistics.median(self._recent) / self._usual if self._usual else 1.0
        return not 1 / _SURPRISE <= ratio <= _SURPRISE

    def _try(self, seconds: float) -> None:
        threads = self._queue.popleft()
        self._times[threads].append(seconds)
        if len(self._times[threads]) % (1 + _BLOCK) != 1:
            others = [
                _timed(times) for number, times in self._times.items() if number != threads and len(times) > _BLOCK
            ]
            if others and seconds > _HOPELESS * min(others):
                self._queue = deque(number for number in self._queue if number != threads)
        if not self._queue:
            self._choose()

    def _choose(self) -> None:
        medians = {threads: _timed(times) for threads, times in self._times.items()}
        self.threads = min(medians, key=lambda threads: medians[threads])  # the one in use wins a tie: it comes first
        self._usual = medians[self.threads]
        lost = sum(sum(times) - len(times) * self._usual for times in self._times.values())
        self._wait = max(_LATEST, lost / _COST)
        self._since = 0.0
        self._recent.clear()


def _timed(times: list[float]) -> float:
    """Median of the steps that count."""
    return statistics.median([seconds for number, seconds in enumerate(times) if number % (1 + _BLOCK)])


def tuned(
    steps: Iterator[_Step], tuner: ThreadTuner, clock: Callable[[], float] = time.perf_counter
) -> Generator[_Step, None, None]:
    """Yield ``steps``, each computed on the threads that ``tuner`` chooses; at the end it gives all of them back."""
    try:
        while True:
            tuner.begin()
            start = clock()
            try:
                step = next(steps)
            except StopIteration:
                return
            tuner.record(clock() - start)
            yield step
            del step  # or its optimizer would outlive its phase
    finally:
        tuner.rest()
