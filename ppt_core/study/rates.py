"""How fast the steps of both precisions are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Iterations per second.

    Attributes:
        full: at full precision.
        low: at low precision.
        by_epoch: those of each epoch, under ``full`` and ``low``, whose means the others are.
    """

    full: float
    low: float
    by_epoch: Mapping[str, list[float]] = field(default_factory=dict, repr=False)

    @property
    def slowdown(self) -> float:
        """How many times as long an iteration takes at low precision; above 1 where it is the slower one."""
        return self.full / self.low

    def to_dict(self) -> dict[str, Any]:
        """The attributes and the slowdown as JSON values."""
        return {"full": self.full, "low": self.low, "slowdown": self.slowdown, "by_epoch": dict(self.by_epoch)}


@dataclass(frozen=True, kw_only=True)
class Speed(Rates):
    """Iterations per second of a study's training, and how they were measured.

    Attributes:
        plain: the same where PyTorch's own operations take the place of this project's kernels
            (`ppt_core.device.usual_simulation`); None in studies that are older than this measurement.
        origin: the ``rule`` of the measurement, ``batch_size``, ``iterations_per_epoch``, ``threads``, versions and
            machine, as JSON values.
    """

    plain: Rates | None
    origin: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Speed":
        """Read what `to_dict` returned."""
        origin = {key: value for key, value in values.items() if key not in _OF_RATES}
        plain = values.get("plain")
        return cls(**_rates(values), plain=Rates(**_rates(plain)) if plain else None, origin=origin)

    def to_dict(self) -> dict[str, Any]:
        """The attributes as the JSON values of ``speed.json``."""
        plain = {} if self.plain is None else {"plain": self.plain.to_dict()}
        return {**super().to_dict(), **plain, **self.origin}


_OF_RATES = ("full", "low", "slowdown", "by_epoch", "plain")


def _rates(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in ("full", "low", "by_epoch")}
