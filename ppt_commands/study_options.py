"""What the commands of a `study` group share."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ppt_core.study.plan import Experiment

COUNT = click.IntRange(min=1)
Describe = Callable[[Path, dict[str, Any]], "Experiment"]


def parsed(command: click.Command, options: tuple[str, ...], owned: Collection[str]) -> dict[str, Any]:
    """What the options behind -- say, defaults included, without those that the study chooses: ``owned``."""
    from click.core import ParameterSource

    try:
        # Inside this command: a command remembers the names of its help option from its first context.
        context = command.make_context(command.name, list(options), parent=click.get_current_context())
    except click.UsageError as error:
        raise ValueError(f"behind --: {error.format_message()}") from None
    for option in command.params:
        if option.name in owned and context.get_parameter_source(option.name) == ParameterSource.COMMANDLINE:
            raise ValueError(f"{option.opts[0]} behind -- is for the study to choose; leave it out there")
    return {name: value for name, value in context.params.items() if name not in owned}
