"""How a network is trained, whatever it is."""

import math
from dataclasses import asdict, dataclass
from typing import Any, get_args

from ppt_core.schedule import LearningRate, PhaseSchedule
from ppt_core.train import AtSwitch, Scale


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a network is trained, whatever it is.

    Attributes:
        split: fraction of the iterations at full precision: 1 is full precision throughout, 0 low precision.
        epochs: length in passes over the training samples; fractions are allowed.
        iterations: length in optimizer steps; overrides ``epochs``.
        batch_size: samples in a step.
        threshold: stop once the metric on the test set reaches it, as MLPerf's rules do, in the last phase: what counts
            is the network that the run is for, and with ``split`` below 1 that is the binarized one. None never
            stops early.
        eval_every: epochs between evaluations; 0 evaluates only at the end.
        patience: stop after so many evaluations in the last phase without a better metric on the validation set, which
            there must be; the test set has no say. None never does.
        at_switch: what becomes of the optimizer's moments at the switch, see `ppt_core.train.train_steps`.
        scale: weight scale of 1-bit layers, see `ppt_core.layers.set_precision`.
        seed: of the initial weights and of every sample.
    """

    split: float = 0.5
    epochs: float = 8
    iterations: int | None = None
    batch_size: int = 2048
    threshold: float | None = None
    eval_every: float = 1
    patience: int | None = None
    at_switch: AtSwitch = "reset"
    scale: Scale = "static"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, valid, rule in self._rules():
            if not valid:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {rule}")

    def _rules(self) -> list[tuple[str, bool, str]]:
        """Each setting with whether its value is valid and what it must be."""
        return [
            ("split", 0 <= self.split <= 1, "between 0 (low precision throughout) and 1 (full precision throughout)"),
            ("epochs", 0 < self.epochs < math.inf, "above 0"),
            ("iterations", self.iterations is None or self.iterations >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 2, "at least 2"),
            ("threshold", self.threshold is None or 0 < self.threshold <= 1, "above 0 and at most 1"),
            ("eval_every", 0 <= self.eval_every < math.inf, "0 (only at the end) or above"),
            ("patience", self.patience is None or self.patience >= 1, "at least 1"),
            ("eval_every", self.patience is None or self.eval_every > 0, "above 0 where patience counts evaluations"),
            ("at_switch", self.at_switch in get_args(AtSwitch), "reset or keep"),
            ("scale", self.scale in get_args(Scale), "static or none"),
            ("seed", 0 <= self.seed < 2**63, "between 0 and 2**63 - 1"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values, as a run's ``config.json`` keeps them."""
        return asdict(self)

    def schedule(self, iterations_per_epoch: int, learning_rate: LearningRate) -> PhaseSchedule:
        """The phases of this training."""
        iterations = self.iterations or max(1, round(self.epochs * iterations_per_epoch))
        return PhaseSchedule.split(iterations, self.split, learning_rate)
