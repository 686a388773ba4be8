"""Settings by name: of configs that are dataclasses, and of the trees that runs and studies keep."""

from collections.abc import Mapping
from dataclasses import fields, replace
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

First = TypeVar("First")
Second = TypeVar("Second")

_NUMBERS: dict[Any, tuple[type, str]] = {int: (Integral, "an integer"), float: (Real, "a number")}


def with_settings(first: First, second: Second, settings: dict[str, Any], *, owner: str) -> tuple[First, Second]:
    """Return two configs with the settings that belong to each; a field of both is set in both.

    ``owner`` is what an error calls the two.

    Raises TypeError, naming all that there are, for a setting that neither has, and for what is no number where one is
    wanted; and what the configs raise for values.
    """
    names = [{field.name for field in fields(each)} for each in (first, second)]  # type: ignore[arg-type]
    unknown = sorted(set(settings) - names[0] - names[1])
    if unknown:
        known = ", ".join(sorted(names[0] | names[1]))
        raise TypeError(f"there is no setting {unknown[0]!r} for {owner}; it has {known}")
    chosen = [{name: value for name, value in settings.items() if name in each} for each in names]
    for config, values in zip((first, second), chosen, strict=True):
        hints = get_type_hints(type(config))
        for name, value in values.items():
            _refuse_other_type(name, value, hints[name])
    return replace(first, **chosen[0]), replace(second, **chosen[1])  # type: ignore[type-var]


def settings_by_name(settings: Mapping[str, Any], within: str = "") -> dict[str, str]:
    """Settings as texts, those of a group behind its name: ``training.split``."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= settings_by_name(value, f"{within}{name}.")
        else:
            found[f"{within}{name}"] = str(value)
    return found


def _refuse_other_type(name: str, value: Any, hint: Any) -> None:
    wanted = [_NUMBERS[kind] for kind in _alternatives(hint) if kind in _NUMBERS]
    if wanted and value is not None and (isinstance(value, bool) or not isinstance(value, wanted[0][0])):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}; it must be {wanted[0][1]}")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def published_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the name of the data's folder in place of its path, which is this machine's own business."""
    data = dict(settings.get("data", {}))
    path = data.pop("path", None)
    return {**settings, "data": {"name": path and Path(path).name, **data}}
