"""When a training ends before its schedule does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ppt_core.schedule import PhaseSchedule


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """The two rules, both of the last phase alone: what counts is the network that the run is for.

    Attributes:
        metric: the key of the metric that they look at.
        threshold: stop once the metric on the test set reaches it, as MLPerf's rules do; None never does.
        patience: stop after so many evaluations without a better metric on the validation set; None never does.
        schedule: the phases.
    """

    metric: str
    threshold: float | None
    patience: int | None
    schedule: PhaseSchedule

    def reached(self, phase: int, metrics: dict[str, Any]) -> bool:
        """Whether an evaluation in ``phase`` reaches the threshold."""
        is_last = phase == len(self.schedule.phases) - 1
        return self.threshold is not None and is_last and bool(metrics[self.metric] >= self.threshold)

    def stalled(self, lines: Sequence[dict[str, Any]]) -> bool:
        """Whether the last of all evaluations so far brought nothing better than those before them."""
        if self.patience is None:
            return False
        start_of_last = self.schedule.iterations - self.schedule.phases[-1].iterations
        values = [line["validation"][self.metric] for line in lines if line["iterations"] > start_of_last]
        return len(values) > self.patience and max(values[-self.patience :]) <= max(values[: -self.patience])
