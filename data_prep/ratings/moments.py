"""Times as dates: texts that are read as moments, and numbers that are told by their size."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ppt_core.errors import DataError

ISO = "ISO8601"
_DAYS_FIRST = ("%d/%m/%Y", "%d-%m-%Y", "%d.%m.%Y", "%d/%m/%y", "%d.%m.%y")
_MONTHS_FIRST = ("%m/%d/%Y", "%m-%d-%Y", "%m/%d/%y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_WITH_NAMES = (
    "%a %b %d %H:%M:%S %z %Y",
    "%a %b %d %H:%M:%S %Y",
    "%a, %d %b %Y %H:%M:%S %z",
    "%m %d, %Y",
    "%b %d, %Y",
    "%B %d, %Y",
    "%d %b %Y",
    "%d %B %Y",
    "%d-%b-%Y",
)
FORMATS = (
    ISO,
    *(day + clock for day in (*_MONTHS_FIRST, *_DAYS_FIRST) for clock in _CLOCKS),
    *("%Y/%m/%d" + clock for clock in _CLOCKS),
    *_WITH_NAMES,
)
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EARLIEST, _LATEST = 10**8, 10**10  # seconds since 1970: March 1973 to the year 2286; no two units overlap


def parse_moments(texts: Sequence[str], time_format: str) -> NDArray[np.int64]:
    """Microseconds since 1970 of each text, int64; the least int64 where it is no moment. UTC unless it says else."""
    values = pd.Series(list(texts), dtype=object).str.strip()
    if time_format == ISO:
        values = values.str.replace(r" ?(UTC|GMT)$", "Z", regex=True)
        # pandas takes bare numbers for years; a date has a separator or eight digits.
        values = values.where(values.str.match(r"\d{4}[-/]\d\d?[-/]\d|\d{8}T"))
    moments = pd.to_datetime(values, format=time_format, errors="coerce", utc=True)
    return np.asarray(pd.DatetimeIndex(moments).as_unit("us").asi8)


def possible_formats(texts: Sequence[str]) -> list[str]:
    """The formats of `FORMATS` in which the first of the texts is a moment."""
    return [each for each in FORMATS if texts and is_moment(parse_moments(texts[:1], each)).all()]


def is_moment(moments: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each result of `parse_moments` is one."""
    valid: NDArray[np.bool_] = moments != np.iinfo(np.int64).min
    return valid


def read_moments(source: object, texts: Sequence[str], formats: Sequence[str]) -> NDArray[np.int64]:
    """`parse_moments` by the one format that fits all texts, or else by the one that fits most.

    Raises `DataError` if two formats fit all, as of 05/06/2020, and give different moments.
    """
    parsed = {each: parse_moments(texts, each) for each in formats}
    fitting = {each: moments for each, moments in parsed.items() if is_moment(moments).all()}
    first, *others = fitting or [max(parsed, key=lambda each: int(is_moment(parsed[each]).sum()))]
    for other in others if fitting else []:
        differ = np.flatnonzero(fitting[first] != fitting[other])
        if len(differ):
            raise DataError(
                f"{source}: a date such as {texts[int(differ[0])]!r} can be read in two ways; "
                f"say which with time_format={first!r} or {other!r}"
            )
    return parsed[first]


def unit_of(value: float) -> str | None:
    """The unit in which a number of that size is a time since 1970 of these days; None for any other number."""
    return next((unit for unit, n in _UNITS.items() if _EARLIEST * n <= value < _LATEST * n), None)


def seconds_of(unit: str) -> float:
    """Seconds in one step of a unit of times."""
    return 1 / _UNITS[unit]


def mixed_units(blocks: Iterable[NDArray[np.int64] | NDArray[np.float64]]) -> dict[str, int]:
    """Number of times by unit, where the blocks of a column hold times of several; nothing where they do not."""
    extents = [(float(times.min()), float(times.max())) for times in blocks if len(times)]
    if not extents or max(high for _, high in extents) < 900 * max(min(low for low, _ in extents), 1):
        return {}
    counts = dict.fromkeys(_UNITS, 0)
    for times in blocks:
        for unit, n in _UNITS.items():
            counts[unit] += int(((times >= _EARLIEST * n) & (times < _LATEST * n)).sum())
    counts = {unit: n for unit, n in counts.items() if n}
    return counts if len(counts) > 1 else {}


def date_of(value: float, unit: str | None) -> str | None:
    """The day, as ``2015-05-03``, of a time in ``unit``, or in the unit that its size tells; None if there is none."""
    unit = unit or unit_of(value)
    if unit is None:
        return None
    return str(np.datetime64(int(value / _UNITS[unit]), "s").astype("datetime64[D]"))
