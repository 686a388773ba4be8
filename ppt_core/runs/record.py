"""What a run folder says: how its training was set, and how it ended."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ppt_core.damaged import checked
from ppt_core.identity import copied_record

PROVENANCE, RESUMED_BY, FIRST_PHASE = "provenance", "resumed_by", "first_phase"
"""The groups of ``config.json`` that no other training must share: by what a training was started, by what other code
it was gone on with, and the name of the run whose network it took over in place of a first phase of its own.
"""


@dataclass(frozen=True)
class RunConfig:
    """What a run was started with.

    Attributes:
        groups: the settings of ``config.json`` by group, as JSON values: what a network needs to be built again stands
            beside the groups named below.
        place: where they were read, for errors.
    """

    groups: Mapping[str, Any]
    place: object = field(default="config.json", compare=False, repr=False)

    @property
    def kind(self) -> str | None:
        """What is trained: the end of a program's name, as ``ncf`` of ``ppt-ncf``."""
        return self.groups.get("kind")

    @property
    def data(self) -> Mapping[str, Any]:
        """What it is trained on, see `ppt_core.identity.data_record`."""
        found: Mapping[str, Any] = checked(self.groups, {"data": dict}, self.place)["data"]
        return found

    @property
    def training(self) -> Mapping[str, Any]:
        """How, see `ppt_core.runs.config.TrainingConfig`."""
        found: Mapping[str, Any] = checked(self.groups, {"training": dict}, self.place)["training"]
        return found

    @property
    def provenance(self) -> Mapping[str, Any]:
        """By what it was started, see `ppt_core.runs.provenance.provenance`; empty in runs that are older than this."""
        found: Mapping[str, Any] = self.groups.get(PROVENANCE, {})
        return found

    @property
    def first_phase(self) -> str | None:
        """The name of the run that its first phase was taken from; None if it was trained."""
        return self.groups.get(FIRST_PHASE)

    def settings(self) -> dict[str, Any]:
        """The groups but those that say how the training was done: what another training must share."""
        return {key: value for key, value in self.groups.items() if key not in (PROVENANCE, RESUMED_BY, FIRST_PHASE)}

    def to_dict(self) -> dict[str, Any]:
        """The groups."""
        return dict(self.groups)


@dataclass(frozen=True, kw_only=True)
class PhaseRecord:
    """One phase of a training.

    Attributes:
        precision: ``full``, ``low``, or the name of a warm start, which has no iterations.
        iterations: those done.
        seconds: what they took.
    """

    precision: str
    iterations: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """How a network was trained.

    Attributes:
        iterations: optimizer steps.
        epochs: passes over the training samples.
        split: fraction of the iterations at full precision.
        seed: of the initial weights and of every sample.
        seconds: of training, the switch of precision included; None in a packed file, which keeps no timing.
        phases: in order; likewise none in a packed file.
    """

    iterations: int
    epochs: float
    split: float
    seed: int
    seconds: float | None = None
    phases: tuple[PhaseRecord, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingRecord":
        """Read what `to_dict` returned, among other keys."""
        phases = tuple(PhaseRecord(**phase) for phase in values.get("phases", ()))
        plain = {key: values[key] for key in ("iterations", "epochs", "split", "seed")}
        return cls(**plain, seconds=values.get("seconds"), phases=phases)

    def to_dict(self, *, with_times: bool = True) -> dict[str, Any]:
        """The attributes as JSON values; seconds and phases only where they are known, and ``with_times``."""
        values = {"iterations": self.iterations, "epochs": self.epochs, "split": self.split, "seed": self.seed}
        if self.seconds is None or not with_times:
            return values
        return {**values, "seconds": self.seconds, "phases": [asdict(phase) for phase in self.phases]}


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The last line of a finished run's ``metrics.jsonl``.

    Attributes:
        training: how long it took.
        metrics: what the last evaluation measured and how, as JSON values: ``hit_ratio`` or ``accuracy``, the
            ``protocol``, ``validation`` and so on.
        loss: of the last batch.
        samples_per_second: of training.
        threshold_reached: whether the metric reached the threshold; None where there was none.
        threshold_phase: the precision in which it did; None in runs that are older than this record, too.
    """

    training: TrainingRecord
    metrics: Mapping[str, Any] = field(repr=False)
    loss: float
    samples_per_second: float
    threshold_reached: bool | None = None
    threshold_phase: str | None = None

    @property
    def seconds(self) -> float:
        """What training took, the switch of precision included."""
        assert self.training.seconds is not None  # a run keeps them
        return self.training.seconds

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunResult":
        """Read what `to_dict` returned. Raises KeyError for a key that every run has and ``values`` lacks."""
        metrics = {key: value for key, value in values.items() if key not in _OF_TRAINING}
        return cls(
            training=TrainingRecord.from_dict(values),
            metrics=metrics,
            loss=values["loss"],
            samples_per_second=values["samples_per_second"],
            threshold_reached=values.get("threshold_reached"),
            threshold_phase=values.get("threshold_phase"),
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it side by side, as JSON values."""
        return {
            **self.metrics,
            "loss": self.loss,
            **self.training.to_dict(),
            "samples_per_second": self.samples_per_second,
            "threshold_reached": self.threshold_reached,
            "threshold_phase": self.threshold_phase,
        }


def provenance_of(config: RunConfig, result: RunResult) -> dict[str, Any]:
    """What a packed file keeps of the run it was made from, as JSON values: no place of this machine, no timing."""
    data = {**copied_record(config.data), "is_sample": config.data.get("path", "") is None}
    return {"training": config.training, "data": data, "result": result.training.to_dict(with_times=False)}


_OF_TRAINING = {
    *("iterations", "epochs", "split", "seed", "seconds", "phases"),
    *("loss", "samples_per_second", "threshold_reached", "threshold_phase"),
}
