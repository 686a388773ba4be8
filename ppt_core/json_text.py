"""JSON as this project writes it: numbers that JSON knows, and no others."""

import json
import math
from collections.abc import Iterator
from typing import Any

from ppt_core.errors import DataError
from ppt_core.visible_text import visible_json


def json_text(document: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """Return ``document`` as JSON, on one line unless there is an ``indent``.

    Whatever a command, a run or a study writes comes through here, so that every reader of JSON can read it: JSON has
    no NaN and no infinity (RFC 8259, section 6), and Python's own writer would put them down all the same.

    Args:
        document: JSON values.
        indent: spaces of each level.
        ensure_ascii: escape every other letter; what a terminal would obey is always escaped.

    Raises `DataError`, naming the place, if a number is NaN or infinite.
    """
    try:
        return visible_json(json.dumps(document, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False))
    except ValueError:
        for place, number in _numbers_beyond_json(document, "document"):
            raise DataError(
                f"{place} is {number}, a number that JSON cannot hold, so nothing was written; a network that has "
                "diverged gives such numbers: train it with a lower learning rate"
            ) from None
        raise


def _numbers_beyond_json(value: Any, place: str) -> Iterator[tuple[str, float]]:
    """Each number of ``value`` that is not finite, with its place in words of Python."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers_beyond_json(part, f"{place}[{key!r}]")
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _numbers_beyond_json(part, f"{place}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield place, value
