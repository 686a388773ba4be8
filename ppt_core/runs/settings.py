"""Settings by name, for configs that are dataclasses."""

from dataclasses import fields, replace
from typing import Any, TypeVar

First = TypeVar("First")
Second = TypeVar("Second")


def with_settings(first: First, second: Second, settings: dict[str, Any], *, owner: str) -> tuple[First, Second]:
    """Return two configs with the settings that belong to each; a field of both is set in both.

    ``owner`` is what an error calls the two.

    Raises TypeError, naming all that there are, for a setting that neither has, and what the configs raise for values.
    """
    names = [{field.name for field in fields(each)} for each in (first, second)]  # type: ignore[arg-type]
    unknown = sorted(set(settings) - names[0] - names[1])
    if unknown:
        known = ", ".join(sorted(names[0] | names[1]))
        raise TypeError(f"there is no setting {unknown[0]!r} for {owner}; it has {known}")
    chosen = [{name: value for name, value in settings.items() if name in each} for each in names]
    return replace(first, **chosen[0]), replace(second, **chosen[1])  # type: ignore[type-var]
