"""What was understood of a source: which column was read as what, and what it holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ColumnReading:
    """One column as it was read.

    Attributes:
        name: its name; ``column 4`` where the source names none.
        example: its first value, as text.
        low: its least value: a number, of times a day such as ``2015-05-03``. None of ids and events.
        high: its largest value.
    """

    name: str
    example: str
    low: float | str | None = None
    high: float | str | None = None

    def __str__(self) -> str:
        if self.low is None:
            return f"{self.name} ({self.example} ...)"
        return f"{self.name} ({_text(self.low)} to {_text(self.high)})"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a source was read.

    Attributes:
        format: ``text``, ``parquet``, ``arrow``, ``json lines``, or the type of an object.
        separator: of a text.
        header: whether a text has one.
        columns: by role; a role that no column has is missing.
        n_rows: rows that were read, before any was left out.
        n_bad_rows: rows left out since they cannot be read.
        not_counted: rows left out since their rating or event does not count, by reason.
        n_not_positive: rows with a rating of 0 or less that count all the same.
        time_units: number of times by unit, where there are several.
    """

    format: str
    columns: Mapping[str, ColumnReading]
    n_rows: int
    separator: str | None = None
    header: bool | None = None
    n_bad_rows: int = 0
    not_counted: Mapping[str, int]
    n_not_positive: int = 0
    time_units: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "format": self.format,
            "text": str(self),
            **({} if self.separator is None else {"separator": self.separator, "header": self.header}),
            "columns": {role: _without_none(vars(column)) for role, column in self.columns.items()},
            "n_rows": self.n_rows,
            "n_bad_rows": self.n_bad_rows,
            "n_not_positive": self.n_not_positive,
            **({"time_units": dict(self.time_units)} if self.time_units else {}),
        }

    def __str__(self) -> str:
        shown = ("user", "item", "time", "rating")
        parts = [f"{role}: {self.columns.get(role, 'none')}" for role in shown]
        return ", ".join([*parts, f"event: {self.columns['event']}"] if "event" in self.columns else parts)


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _text(value: float | str | None) -> str:
    return value if isinstance(value, str) else f"{value:,.10g}" if value is not None else "?"
