"""Several studies side by side, as the source shows its four networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppt_core.errors import DataError
from ppt_core.study.curves import Cost
from ppt_core.study.report import COST_NAMES, FORMAT_VERSION, MethodSpeedUp, StudyReport

_HALF = 0.5  # the split that the source compares


@dataclass(frozen=True, kw_only=True, repr=False)
class StudiesReport:
    """The evidence of several studies.

    Attributes:
        reports: of each study by its name, in the order in which they were named.
    """

    reports: dict[str, StudyReport]

    @classmethod
    def of(cls, paths: Sequence[str], reports: Sequence[StudyReport]) -> "StudiesReport":
        """Call each by the name of its folder, or by its whole path where two folders have the same name.

        Raises `DataError` for the same path twice.
        """
        for path in paths:
            if paths.count(path) > 1:
                raise DataError(f"{path} is named {paths.count(path)} times; name each study once")
        short = [Path(path).name for path in paths]
        names = [path if short.count(name) > 1 else name for path, name in zip(paths, short, strict=True)]
        return cls(reports=dict(zip(names, reports, strict=True)))

    def speed_up(self, name: str, cost: Cost) -> MethodSpeedUp | None:
        """How much sooner split 0.5 reaches an accuracy than low precision in one study; None if it was not tried."""
        entries = self.reports[name].speed_ups
        return next((entry for entry in entries if entry.split == _HALF and entry.cost == cost), None)

    def mean_speed_up(self, cost: Cost) -> float | None:
        """The arithmetic mean over studies, as the source has it over networks; None unless each study has a factor."""
        entries = [self.speed_up(name, cost) for name in self.reports]
        factors = [entry.found.factor for entry in entries if entry is not None and entry.found.factor is not None]
        return sum(factors) / len(factors) if len(factors) == len(self.reports) else None

    def to_dict(self) -> dict[str, Any]:
        """The document of ``report.json``: that of each study under ``studies``, and the means by cost."""
        return {
            "format_version": FORMAT_VERSION,
            "studies": {name: report.to_dict() for name, report in self.reports.items()},
            "mean_speed_ups": {cost: self.mean_speed_up(cost) for cost in COST_NAMES},
        }

    def __repr__(self) -> str:
        lines = []
        for name in self.reports:
            for cost, title in COST_NAMES.items():
                entry = self.speed_up(name, cost)
                if entry is not None:
                    lines.append(f"{name}: speed-up over low precision, in {title}: {entry}")
        for cost, title in COST_NAMES.items():
            mean = self.mean_speed_up(cost)
            if mean is not None:
                lines.append(f"mean over {len(self.reports)} studies, in {title}: {mean:.2f}x")
        return "\n".join(lines)
